"""OpenAI-compatible images: an upstream gateway like this one, which segments, or one that makes pictures from text.

Segmentation goes to /images/edits as multipart with the fields that this product takes beside OpenAI's own; pictures
from text to /images/generations as JSON.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from inference.errors import CredentialRefused, InferenceError, ProviderFailed, ProviderSaturated
from inference.http import Answer, Upstream, error_document, off_loop, refusal
from inference.pictures import open_header
from inference.provider import EVERYTHING, Capabilities, Credential
from inference.rendering import result_size, upright
from inference.task import GenerateTask, Mask, MaskSelects, Picture, Prompt, SegmentResult, SegmentTask
from inference.wording import clean

NAME = "OpenAI-compatible upstream"
MASKS_MAX = 32
RLE_CHARACTERS_MAX = 64 * 1024 * 1024
COORDINATE_MAX = 1e6

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


class OpenAIImages:
    """The images operations below `upstream.base_url`, which ends like OpenAI's own in /v1.

    `models` gives the upstream's names of models that it calls differently; others are asked for by our own names.
    `offered` limits which are offered at all.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        segments: bool = True,
        generates: bool = False,
        models: Mapping[str, str] | None = None,
        offered: frozenset[str] | None = None,
    ) -> None:
        self._upstream = upstream
        self._models = dict(models or {})
        self._offered = offered
        self._capabilities = Capabilities(
            **{name: getattr(EVERYTHING, name) for name in EVERYTHING.__slots__}
            | {"segments": segments, "generates": generates, "masks_max": MASKS_MAX, "text_characters_max": 1_000}
        )

    def capabilities(self, model: str) -> Capabilities | None:
        """See Provider."""
        return self._capabilities if self._offered is None or model in self._offered else None

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """See Provider. Sent once: whatever breaks the connection, the work may have been done."""
        width, height = result_size(task.picture.width, task.picture.height, task.rendering)
        picture = await upright(task.picture)
        answer = await self._post(
            "/images/edits", credential, deadline, fields=self._fields(task), files=_files(picture, task.prompt)
        )
        return await self._result(await answer.json_object(), (width, height), deadline)

    async def generate(
        self, task: GenerateTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """See PictureMaker."""
        document = {
            "model": self._models.get(task.model, task.model),
            "prompt": task.text,
            "n": task.count,
            "output_format": task.format.value,
            "response_format": "b64_json",
            "size": "x".join(map(str, task.size)) if task.size else "auto",
        }
        answer = await self._post("/images/generations", credential, deadline, document=document)
        result = await self._result(await answer.json_object(), task.size or (1, 1), deadline)
        pictures = [mask.picture for mask in result.masks if mask.picture]
        if len(pictures) != task.count:
            raise ProviderFailed(f"{NAME} answered with {len(pictures)} pictures instead of {task.count}.")
        header = _header(pictures[0])
        masks = tuple(Mask(rle=None, score=None, box=None, picture=picture) for picture in pictures)
        return SegmentResult(masks=masks, width=header[0], height=header[1])

    async def check(self, credential: Credential, *, deadline: float) -> None:
        """List the models, which costs nothing. See KeyedProvider."""
        answer = await self._upstream.client.send(
            NAME, "GET", f"{self._upstream.base_url}/models", deadline=deadline, headers=_headers(credential, deadline)
        )
        if answer.status != 200:
            raise _refused(answer, credential)
        await answer.json_object()

    def _fields(self, task: SegmentTask) -> dict[str, str]:
        """The form beside its files; nested prompts as JSON text, the only lossless way in a form."""
        rendering, prompt = task.rendering, task.prompt
        fields = {
            "model": self._models.get(task.model, task.model),
            "prompt": prompt.text or "",
            "max_masks": str(task.max_masks),
            "return_multiple_masks": "true" if task.max_masks > 1 else "false",
            "threshold": repr(task.threshold),
            "mask_style": rendering.style.value,
            "output_format": rendering.format.value,
            "response_format": "b64_json",
            "include_scores": "true" if task.needs_scores else "",
            "size": "x".join(map(str, rendering.fit_within)) if rendering.fit_within else "auto",
        }
        if rendering.max_pictures:
            fields["n"] = str(rendering.max_pictures)
        if prompt.points:
            points = [_without_none(x=p.x, y=p.y, label=int(p.positive), object_id=p.object_id) for p in prompt.points]
            fields["point_prompts"] = json.dumps(points)
        if prompt.boxes:
            boxes = [
                _without_none(
                    x_min=b.x_min, y_min=b.y_min, x_max=b.x_max, y_max=b.y_max, label=int(b.positive),
                    object_id=b.object_id,
                )
                for b in prompt.boxes
            ]  # fmt: skip
            fields["box_prompts"] = json.dumps(boxes)
        return {name: value for name, value in fields.items() if value or name == "prompt"}

    async def _post(self, path: str, credential: Credential | None, deadline: float, **body: Any) -> Answer:
        if credential is None:
            raise CredentialRefused(NAME, "no key is configured")
        headers = _headers(credential, deadline)
        url = f"{self._upstream.base_url}{path}"
        answer = await self._upstream.client.send(NAME, "POST", url, deadline=deadline, headers=headers, **body)
        if answer.status != 200:
            raise _refused(answer, credential)
        return answer

    async def _result(self, document: dict[str, Any], size: tuple[int, int], deadline: float) -> SegmentResult:
        data = document.get("data")
        if not isinstance(data, list) or len(data) > MASKS_MAX or not all(isinstance(item, dict) for item in data):
            raise ProviderFailed(f"{NAME} answered without a list of masks.")
        told = _SIZE.fullmatch(document["size"]) if isinstance(document.get("size"), str) else None
        width, height = (int(told[1]), int(told[2])) if told else size
        masks = [await self._mask(item, deadline) for item in data]
        return SegmentResult(masks=tuple(masks), width=width, height=height)

    async def _mask(self, item: dict[str, Any], deadline: float) -> Mask:
        rle, object_id = item.get("rle"), item.get("object_id")
        if not (rle is None or (isinstance(rle, str) and len(rle) <= RLE_CHARACTERS_MAX)):
            raise _odd("run lengths")
        if not (object_id is None or type(object_id) is int):
            raise _odd("an object id")
        return Mask(
            rle=rle,
            score=_score(item.get("score")),
            box=_box(item.get("box")),
            object_id=object_id,
            picture=await self._picture(item, deadline),
        )

    async def _picture(self, item: dict[str, Any], deadline: float) -> bytes | None:
        encoded, url = item.get("b64_json"), item.get("url")
        if isinstance(encoded, str):
            try:
                return await off_loop(base64.b64decode, encoded, size_bytes=len(encoded))
            except (binascii.Error, ValueError):
                raise _odd("a picture") from None
        if isinstance(url, str):
            return await self._upstream.fetch(NAME, url, deadline=deadline)
        return None


def _headers(credential: Credential, deadline: float) -> dict[str, str]:
    """The key, and how long we wait: a gateway upstream gives up when we do."""
    left = max(deadline - asyncio.get_running_loop().time(), 0.1)
    return {"authorization": f"Bearer {credential.secret}", "x-stainless-read-timeout": f"{left:.3f}"}


def _files(picture: Picture, prompt: Prompt) -> dict[str, tuple[str, bytes, str]]:
    files = {"image": ("image", picture.data, picture.media_type)}
    if prompt.mask is not None:
        name = "mask" if prompt.mask_selects is MaskSelects.TRANSPARENT else "mask_prompt"
        files[name] = (name, prompt.mask.data, prompt.mask.media_type)
    return files


def _without_none(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _score(score: object) -> float | None:
    if score is None:
        return None
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise _odd("a score")
    return float(score)


def _box(box: object) -> tuple[float, float, float, float] | None:
    if box is None:
        return None
    sides: list[Any] = [box.get(name) for name in ("x_min", "y_min", "x_max", "y_max")] if isinstance(box, dict) else []
    if len(sides) != 4 or not all(type(side) in (int, float) and 0 <= side <= COORDINATE_MAX for side in sides):
        raise _odd("a box")
    return float(sides[0]), float(sides[1]), float(sides[2]), float(sides[3])


def _header(data: bytes) -> tuple[int, int]:
    try:
        header = open_header(data)
    except InferenceError as error:
        raise ProviderFailed(f"{NAME} answered with a picture that is none.") from error
    return header.width, header.height


def _odd(what: str) -> ProviderFailed:
    return ProviderFailed(f"{NAME} answered with {what} of an unknown shape.")


def _refused(answer: Answer, credential: Credential) -> InferenceError:
    """OpenAI's error object. A 429 that means "no money" is a refusal of the key, not a lack of room."""
    error = error_document(answer.body).get("error")
    details = error if isinstance(error, dict) else {}
    said = str(details.get("message") or "")
    if details.get("code") == "insufficient_quota":
        return CredentialRefused(NAME, clean(said, secrets=[credential.secret]))
    if answer.status == 409:
        return ProviderSaturated(f"{NAME} is busy.", retry_after_seconds=answer.retry_after_seconds)
    return refusal(answer, said, secret=credential.secret)
