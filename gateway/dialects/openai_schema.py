"""What the OpenAI images operations take here: OpenAI's own parameters and the product's beside them."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gateway.refusals import RequestInvalid
from inference.task import MaskStyle, PictureFormat

PROMPT_CHARACTERS_MAX = 1_000
POINTS_MAX = 256
BOXES_MAX = 32
MASKS_MAX = 32
SIDE_MAX = 8_192

_SIZE = re.compile(r"^([1-9][0-9]{0,4})x([1-9][0-9]{0,4})$")


def _from_json_text(value: Any) -> Any:
    """Nested fields may arrive as JSON text, which is the only lossless form in multipart."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("starts like JSON but cannot be parsed as JSON") from None
    return value


def _listed(value: Any) -> Any:
    value = _from_json_text(value)
    return value if value is None or isinstance(value, list) else [value]


def _address(value: Any) -> Any:
    """OpenAI's newer form {"image_url": …} beside a plain string; bytes come from multipart uploads."""
    if isinstance(value, dict) and set(value) == {"image_url"}:
        value = value["image_url"]
        if isinstance(value, dict) and set(value) == {"url"}:
            value = value["url"]
    if not isinstance(value, str | bytes):
        raise ValueError("must be a data URI, an https URL or an uploaded file")
    return value


Source = Annotated[Any, BeforeValidator(_address)]
Number = Annotated[float, Field(allow_inf_nan=False)]
ObjectId = Annotated[int, Field(ge=0, le=1_000_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Point(_Strict):
    """A click in pixels of the displayed picture; label 1 = belongs to the object, 0 = does not."""

    x: Number
    y: Number
    label: Annotated[int, Field(ge=0, le=1)] = 1
    object_id: ObjectId | None = None


class Box(_Strict):
    """A box in pixels of the displayed picture; label 0 shows an example of what is not meant."""

    x_min: Number
    y_min: Number
    x_max: Number
    y_max: Number
    label: Annotated[int, Field(ge=0, le=1)] = 1
    object_id: ObjectId | None = None

    @model_validator(mode="after")
    def _not_inverted(self) -> "Box":
        if self.x_max <= self.x_min or self.y_max <= self.y_min:
            raise ValueError("x_max must be greater than x_min and y_max greater than y_min")
        return self


class ImageRequest(_Strict):
    """Body of /v1/images/generations and /v1/images/edits, JSON or multipart.

    `quality`, `style`, `background`, `moderation`, `input_fidelity`, `output_compression` and `safety_identifier` are
    OpenAI parameters without a meaning for masks; they are accepted so that existing code runs, and have no effect.
    """

    model: Annotated[str, Field(min_length=1, max_length=200)] = "meta/sam-3-image"
    prompt: Annotated[str, Field(max_length=PROMPT_CHARACTERS_MAX)] | None = None
    image: Annotated[list[Source], BeforeValidator(_listed), Field(min_length=1)] | None = None
    images: Annotated[list[Source], BeforeValidator(_listed), Field(min_length=1)] | None = None
    image_url: Source | None = None
    mask: Source | None = None
    mask_prompt: Source | None = None
    point_prompts: Annotated[list[Point], BeforeValidator(_listed), Field(max_length=POINTS_MAX)] | None = None
    box_prompts: Annotated[list[Box], BeforeValidator(_listed), Field(max_length=BOXES_MAX)] | None = None

    n: Annotated[int, Field(ge=1, le=MASKS_MAX)] | None = None
    max_masks: Annotated[int, Field(ge=1, le=MASKS_MAX)] | None = None
    return_multiple_masks: bool | None = None
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    include_scores: bool = True
    include_boxes: bool = True

    apply_mask: bool = False
    mask_style: MaskStyle | None = None
    output_format: PictureFormat = PictureFormat.PNG
    response_format: Literal["url", "b64_json"] = "url"
    size: str = "auto"
    user: Annotated[str, Field(max_length=512)] | None = None

    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=0)] | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    input_fidelity: str | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ImageRequest":
        if self.stream:
            raise RequestInvalid("Streaming is not offered here: masks arrive in one piece.", param="stream")
        if self.size != "auto":
            self.fit_within  # noqa: B018 - parses, and refuses what cannot be parsed
        return self

    @property
    def fit_within(self) -> tuple[int, int] | None:
        """(width, height) in pixels that results are fitted into; None for the picture's own size."""
        if self.size == "auto":
            return None
        match = _SIZE.match(self.size)
        if match is None or max(sides := (int(match[1]), int(match[2]))) > SIDE_MAX:
            raise RequestInvalid(
                f"size must be 'auto' or WIDTHxHEIGHT in pixels with sides up to {SIDE_MAX}.", param="size"
            )
        return sides

    @property
    def sources(self) -> list[tuple[str, str | bytes]]:
        """Every picture of the call with the name of the parameter that it came in."""
        named = [("image", self.image or []), ("images", self.images or []), ("image_url", [self.image_url])]
        found = [(name, sources) for name, sources in named if any(source is not None for source in sources)]
        if len(found) > 1:
            raise RequestInvalid(
                "Send pictures in one of 'image', 'images', 'image_url', not in several.", param="image"
            )
        if not found:
            return []
        [(name, sources)] = found
        return [(name if len(sources) == 1 else f"{name}[{i}]", source) for i, source in enumerate(sources)]

    @property
    def effective_style(self) -> MaskStyle:
        """`mask_style`, else what `apply_mask` says: the object cut out, or its mask."""
        return self.mask_style or (MaskStyle.CUTOUT if self.apply_mask else MaskStyle.MASK)

    @property
    def effective_max_masks(self) -> int:
        """How many masks are looked for: one, unless several are asked for in any of the three ways."""
        if self.return_multiple_masks is False:
            return 1
        if self.max_masks is not None:
            return self.max_masks
        if self.return_multiple_masks:
            return MASKS_MAX
        return self.n or 1


NESTED_FIELDS = frozenset({"point_prompts", "box_prompts", "image", "images"})


def parse_request(body: bytes | dict[str, Any]) -> ImageRequest:
    """The request in a JSON body or a rebuilt form. Raises RequestInvalid naming the field and what to change."""
    try:
        if isinstance(body, bytes):
            return ImageRequest.model_validate_json(body)
        return ImageRequest.model_validate(body)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> RequestInvalid:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    kind, path = first["type"], _path(first["loc"])
    if kind == "json_invalid":
        return RequestInvalid(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}.")
    if kind in ("model_type", "model_attributes_type") and not path:
        return RequestInvalid("The body must be a JSON object.")
    if kind == "extra_forbidden":
        return RequestInvalid(f"Unknown parameter '{path}'. Remove it or check its spelling.", param=path)
    if kind == "missing":
        return RequestInvalid(f"'{path}' is missing.", param=path)
    return RequestInvalid(f"'{path}': {first['msg'].removeprefix('Value error, ')}.", param=path)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.match(r"^[A-Za-z0-9_-]{1,64}$", part):
            path += f".{part}" if path else part
    return path
