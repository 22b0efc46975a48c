"""The vocabulary of one segmentation: what is asked (`SegmentTask`) and what comes back (`SegmentResult`).

Coordinates are pixels of the picture as it is displayed (EXIF orientation applied), origin top left.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class MaskStyle(StrEnum):
    """How a mask comes back as a picture."""

    MASK = "mask"  # 8-bit greyscale, 255 = object
    CUTOUT = "cutout"  # the object on transparency (JPEG: on white)
    OVERLAY = "overlay"  # the picture with the object tinted


class MaskSelects(StrEnum):
    """Which part of a mask prompt is the object. One without transparency selects what is brighter than half."""

    OPAQUE = "opaque"  # masks and cut-outs as this product returns them
    TRANSPARENT = "transparent"  # OpenAI's edit masks


class PictureFormat(StrEnum):
    """Encodings that pictures are returned in."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An encoded picture whose header has been checked; `width` and `height` are the displayed ones in pixels."""

    data: bytes = field(repr=False)
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PointPrompt:
    """A click: `positive` points lie on the object, the others on what must not be part of it."""

    x: float
    y: float
    positive: bool = True
    object_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxPrompt:
    """A box drawn around one object, or with `positive=False` around an example of what is not meant."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    positive: bool = True
    object_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What to look for. At least one member is set."""

    text: str | None = None
    points: tuple[PointPrompt, ...] = ()
    boxes: tuple[BoxPrompt, ...] = ()
    mask: Picture | None = None  # rough mask of one object, as large as the picture
    mask_selects: MaskSelects = MaskSelects.OPAQUE

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.points or self.boxes or self.mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Which pictures are wanted of the masks.

    `max_pictures` of the masks are drawn (0: none, run lengths only). `fit_within` is the (width, height) in pixels
    that pictures and run lengths are scaled down or up to fit, keeping the aspect; None keeps the picture's own size.
    """

    style: MaskStyle = MaskStyle.MASK
    format: PictureFormat = PictureFormat.PNG
    max_pictures: int = 1
    fit_within: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """One picture, one prompt. `organization` keeps cached work of different customers apart and is opaque here.

    Scores come back wherever a provider has them; `needs_scores` keeps the task from providers that have none.
    """

    model: str
    picture: Picture
    prompt: Prompt
    max_masks: int = 1
    threshold: float = 0.5
    needs_scores: bool = False
    rendering: Rendering = Rendering()
    organization: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateTask:
    """Pictures from text alone: passed on to an upstream that makes them. `size` is (width, height) in pixels."""

    model: str
    text: str
    count: int = 1
    size: tuple[int, int] | None = None
    format: PictureFormat = PictureFormat.PNG


Task = SegmentTask | GenerateTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """One found object.

    `rle` is text of "start length" pairs, start 1-based, row by row over the result's width (the form fal uses).
    `box` is the tight (x_min, y_min, x_max, y_max) in pixels of the result, maxima exclusive.
    `picture` is encoded as the task's rendering asked, None past `max_pictures`.
    """

    rle: str | None
    score: float | None
    box: tuple[float, float, float, float] | None
    object_id: int | None = None
    picture: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """Masks of one picture, best first, at `width` x `height` pixels. No mask is an answer, not an error."""

    masks: tuple[Mask, ...]
    width: int
    height: int
    timings_ms: dict[str, float] = field(default_factory=dict)  # queue, decode, inference, encode
