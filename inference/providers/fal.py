"""fal.ai: SAM 3 through its queue. Submitted once, then asked about by its request id, never submitted again.

Protocol: docs.fal.ai "Queue API" and the schemas of fal-ai/sam-3/image, /image-rle and fal-ai/sam-3-1/image.
"""

import asyncio
import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from inference.errors import (
    CredentialRefused,
    InferenceError,
    InputRejected,
    JobFailed,
    ProviderFailed,
    ProviderTimedOut,
)
from inference.http import Answer, Upstream, error_document, off_loop, refusal
from inference.polling import poll
from inference.provider import Capabilities, Credential
from inference.rendering import Found, read_mask, read_rle, render, result_size, upright
from inference.task import BoxPrompt, Picture, PointPrompt, SegmentResult, SegmentTask
from inference.wording import clean

NAME = "fal"
BASE_URL = "https://queue.fal.run"
APPS: Mapping[str, str] = {
    "meta/sam-3-image": "fal-ai/sam-3/image",
    "meta/sam-3-image-rle": "fal-ai/sam-3/image-rle",
    "meta/sam-3-1-image": "fal-ai/sam-3-1/image",
}
MASKS_MAX = 32
CANCEL_TIMEOUT_SECONDS = 3.0
START_TIMEOUT_SECONDS_MIN = 2.0  # fal takes nothing shorter

CAPABILITIES = Capabilities(
    segments=True,
    generates=False,
    text_characters_max=1_000,
    several_concepts=False,
    mixed_prompts=True,
    negative_boxes=False,
    objects_max=1,  # several may be sent, but the answer does not say which mask is whose
    mask_prompts=False,
    masks_max=MASKS_MAX,
    scores=True,
    threshold_min=0.5,  # its own; higher ones are applied to the scores here
    threshold_max=1.0,
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Fal:
    """The queue at `upstream`; `apps` names the application of each model."""

    def __init__(self, upstream: Upstream, *, apps: Mapping[str, str] = APPS) -> None:
        self._upstream = upstream
        self._apps = apps

    def capabilities(self, model: str) -> Capabilities | None:
        """See Provider."""
        return CAPABILITIES if model in self._apps else None

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """See Provider. A job that is not done by the deadline, or that nobody waits for any more, is cancelled."""
        result_size(task.picture.width, task.picture.height, task.rendering)
        key = _key(credential)
        app = self._apps[task.model]
        picture = await upright(task.picture)
        request_id = await self._submit(app, await _document(task, picture), key, deadline)
        job = f"{self._upstream.base_url}/{'/'.join(app.split('/')[:2])}/requests/{request_id}"
        try:
            await poll(NAME, lambda: self._is_done(f"{job}/status", key, deadline), deadline=deadline)
        except (ProviderTimedOut, asyncio.CancelledError):
            await asyncio.shield(self._cancel(job, key))
            raise
        output = await poll(NAME, lambda: self._output(job, key, deadline), deadline=deadline)
        found = await self._found(output, task, deadline)
        return await asyncio.to_thread(render, found, task)

    async def check(self, credential: Credential, *, deadline: float) -> None:
        """Ask about a job that does not exist: a good key gets "not found", and nothing is run. See KeyedProvider."""
        url = f"{self._upstream.base_url}/fal-ai/sam-3/requests/00000000-0000-4000-8000-000000000000/status"
        answer = await self._send("GET", url, credential.secret, deadline)
        if answer.status not in (200, 202, 400, 404, 422):
            raise refusal(answer, _said(answer.body), secret=credential.secret)

    async def _submit(self, app: str, document: dict[str, Any], key: str, deadline: float) -> str:
        left = deadline - asyncio.get_running_loop().time()
        headers = {
            "x-fal-request-timeout": f"{max(left, START_TIMEOUT_SECONDS_MIN):.1f}",  # not begun by then: never
            "x-fal-no-retry": "1",
        }
        url = f"{self._upstream.base_url}/{quote(app)}"
        answer = await self._send("POST", url, key, deadline, headers=headers, document=document)
        if answer.status not in (200, 201, 202):
            raise refusal(answer, _said(answer.body), secret=key)
        request_id = (await answer.json_object()).get("request_id")
        if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
            raise ProviderFailed("fal took the job without telling its request id.")
        return request_id

    async def _is_done(self, url: str, key: str, deadline: float) -> bool | None:
        answer = await self._send("GET", url, key, deadline)
        if answer.status not in (200, 202):  # also 401 and 403: the job goes on all the same
            raise ProviderFailed(f"fal answered a question about a job with status {answer.status}.")
        status = (await answer.json_object()).get("status")
        if status == "COMPLETED":
            return True
        if status not in ("IN_QUEUE", "IN_PROGRESS"):
            raise JobFailed("fal does not know how the job stands.")
        return None

    async def _output(self, url: str, key: str, deadline: float) -> dict[str, Any]:
        answer = await self._send("GET", url, key, deadline)
        if answer.status == 200:
            return await answer.json_object()
        error = refusal(answer, _said(answer.body), secret=key)
        if isinstance(error, InputRejected):
            raise error
        said = clean(_said(answer.body), secrets=[key]) or f"status {answer.status}"
        raise JobFailed(f"fal could not do the job: {said}")

    async def _cancel(self, job: str, key: str) -> None:
        deadline = asyncio.get_running_loop().time() + CANCEL_TIMEOUT_SECONDS
        try:
            await self._send("PUT", f"{job}/cancel", key, deadline)
        except InferenceError:
            return  # it runs to its end, unwatched; that was tried

    async def _found(self, output: dict[str, Any], task: SegmentTask, deadline: float) -> list[Found]:
        """The masks of an answer, each with its score; one object id, if there was one, is that of all."""
        picture = task.picture
        if "rle" in output or "masks" not in output:
            texts = _run_lengths(output.get("rle"))
            bitmaps = [await asyncio.to_thread(read_rle, text, picture, NAME) for text in texts]
        else:
            urls = _urls(output["masks"])
            pictures = [await self._picture(url, deadline) for url in urls]
            bitmaps = [await asyncio.to_thread(read_mask, data, picture, NAME) for data in pictures]
        scores = _scores(output, len(bitmaps))
        marks: list[PointPrompt | BoxPrompt] = [*task.prompt.points, *task.prompt.boxes]
        ids = {mark.object_id for mark in marks} - {None}
        object_id = next(iter(ids), None)
        return [Found(bitmap, score, object_id) for bitmap, score in zip(bitmaps, scores, strict=True)]

    async def _picture(self, url: str, deadline: float) -> bytes:
        if not url.startswith("data:"):
            return await self._upstream.fetch(NAME, url, deadline=deadline)
        try:
            return await off_loop(base64.b64decode, url.partition(",")[2], size_bytes=len(url))
        except ValueError:
            raise ProviderFailed("fal answered with a mask that is no picture.") from None

    async def _send(
        self, method: str, url: str, key: str, deadline: float, *, headers: Mapping[str, str] | None = None,
        document: object = None,
    ) -> Answer:  # fmt: skip
        sent = {"authorization": f"Key {key}", **(headers or {})}
        return await self._upstream.client.send(NAME, method, url, deadline=deadline, headers=sent, document=document)


def _key(credential: Credential | None) -> str:
    if credential is None:
        raise CredentialRefused(NAME, "no key is configured")
    return credential.secret


async def _document(task: SegmentTask, picture: Picture) -> dict[str, Any]:
    """The input of fal's SAM 3 applications; the defaults that would change the answer are all written out."""
    encoded = await off_loop(base64.b64encode, picture.data, size_bytes=len(picture.data))
    return {
        "image_url": f"data:{picture.media_type};base64,{encoded.decode()}",
        "prompt": task.prompt.text or "",  # left out it would be "wheel"
        "point_prompts": [_point(point, picture) for point in task.prompt.points],
        "box_prompts": [_box(box) for box in task.prompt.boxes],
        "apply_mask": False,
        "output_format": "png",
        "sync_mode": True,
        "return_multiple_masks": task.max_masks > 1,
        "max_masks": task.max_masks,
        "include_scores": True,
        "include_boxes": True,
    }


def _point(point: PointPrompt, picture: Picture) -> dict[str, int]:
    """The pixel that the point lies in."""
    marked = {
        "x": min(int(point.x), picture.width - 1),
        "y": min(int(point.y), picture.height - 1),
        "label": int(point.positive),
    }
    return marked if point.object_id is None else {**marked, "object_id": point.object_id}


def _box(box: BoxPrompt) -> dict[str, int]:
    """The box on the nearest lines between pixels."""
    sides = {name: round(getattr(box, name)) for name in ("x_min", "y_min", "x_max", "y_max")}
    return sides if box.object_id is None else {**sides, "object_id": box.object_id}


def _run_lengths(rle: object) -> list[str]:
    """One text, a list of them, or one of the ways in which fal says "nothing"."""
    texts = [] if rle is None else [rle] if isinstance(rle, str) else rle
    if not isinstance(texts, list) or len(texts) > MASKS_MAX or not all(isinstance(text, str) for text in texts):
        raise ProviderFailed("fal answered with run lengths of an unknown shape.")
    return [text for text in texts if text.strip()]


def _urls(masks: object) -> list[str]:
    found = masks if isinstance(masks, list) else [] if masks is None else [None]
    urls = [item.get("url") if isinstance(item, dict) else None for item in found[: MASKS_MAX + 1]]
    if len(urls) > MASKS_MAX or not all(isinstance(url, str) for url in urls):
        raise ProviderFailed("fal answered with masks of an unknown shape.")
    return [url for url in urls if isinstance(url, str)]


def _scores(output: Mapping[str, Any], count: int) -> list[float | None]:
    """As many scores as masks, from `scores` or from `metadata`; None where there is none."""
    scores: Sequence[Any] = output.get("scores") or [
        item.get("score") if isinstance(item, dict) else None for item in output.get("metadata") or ()
    ]
    if not isinstance(scores, list) or not all(s is None or type(s) in (int, float) for s in scores):
        raise ProviderFailed("fal answered with scores of an unknown shape.")
    return [None if s is None else float(s) for s in [*scores, *[None] * count][:count]]


def _said(body: bytes) -> str:
    """The words in fal's `detail`: a text, or a list with a message for each field."""
    detail = error_document(body).get("detail")
    if isinstance(detail, list):
        first = detail[0] if detail and isinstance(detail[0], dict) else {}
        return f"{'.'.join(str(part) for part in list(first.get('loc') or ())[1:])} {first.get('msg', '')}".strip()
    return detail if isinstance(detail, str) else ""
