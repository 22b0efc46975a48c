"""WaveSpeed: SAM 3 as a prediction, submitted once and then asked about by its id.

Protocol: wavespeed.ai/docs, "Submit task", "Get result", "Upload". One mask without a score per call. Run lengths are
counted from the mask picture here, because the provider's own documents disagree about the order of their pixels.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from inference.errors import (
    CredentialRefused,
    InferenceError,
    InputRejected,
    JobFailed,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
)
from inference.http import Answer, Upstream, error_document, off_loop, refusal
from inference.polling import poll
from inference.provider import Capabilities, Credential
from inference.rendering import Found, read_mask, render, result_size, upright
from inference.task import BoxPrompt, Picture, PointPrompt, SegmentResult, SegmentTask
from inference.wording import clean

NAME = "WaveSpeed"
BASE_URL = "https://api.wavespeed.ai"
APPS: Mapping[str, str] = {
    "meta/sam-3-image": "wavespeed-ai/sam3-image",
    "meta/sam-3-image-rle": "wavespeed-ai/sam3-image",
}
DATA_URI_BYTES_MAX = 1024 * 1024  # larger pictures are uploaded first

CAPABILITIES = Capabilities(
    segments=True,
    generates=False,
    text_characters_max=32,
    several_concepts=False,
    mixed_prompts=False,
    negative_boxes=False,
    objects_max=0,
    mask_prompts=False,
    masks_max=1,
    scores=False,
    threshold_min=0.5,
    threshold_max=0.5,
)

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MONEY = re.compile(r"(?i)credit|balance|top.?up")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")


class WaveSpeed:
    """The API at `upstream`, whose base URL has no path; `apps` names WaveSpeed's model for each of ours."""

    def __init__(self, upstream: Upstream, *, apps: Mapping[str, str] = APPS) -> None:
        self._upstream = upstream
        self._apps = apps

    def capabilities(self, model: str) -> Capabilities | None:
        """See Provider."""
        return CAPABILITIES if model in self._apps else None

    async def segment(
        self, task: SegmentTask, *, deadline: float, credential: Credential | None = None
    ) -> SegmentResult:
        """See Provider. There is no way to cancel: what is not done by the deadline runs on, unwatched."""
        if credential is None:
            raise CredentialRefused(NAME, "no key is configured")
        key = credential.secret
        result_size(task.picture.width, task.picture.height, task.rendering)
        picture = await upright(task.picture)
        document = {
            "image": await self._address(picture, key, deadline),
            "prompt": task.prompt.text or "",
            "point_prompts": [_point(point, picture) for point in task.prompt.points],
            "box_prompts": [_box(box) for box in task.prompt.boxes],
            "apply_mask": False,
            "output_format": "png",
            "enable_sync_mode": False,
        }
        started = await self._data("POST", f"/api/v3/{self._apps[task.model]}", key, deadline, document)
        prediction = started.get("id")
        if not isinstance(prediction, str) or not _ID.fullmatch(prediction):
            raise ProviderFailed("WaveSpeed took the task without telling its id.")
        outputs = _outputs(started, key)
        if outputs is None:
            path = f"/api/v3/predictions/{prediction}/result"
            outputs = await poll(NAME, lambda: self._ended(path, key, deadline), deadline=deadline)
        found = [Found(await self._bitmap(output, picture, deadline), None) for output in outputs[:1]]
        return await asyncio.to_thread(render, found, task)

    async def check(self, credential: Credential, *, deadline: float) -> None:
        """Ask for the balance, which costs nothing. See KeyedProvider."""
        await self._data("GET", "/api/v3/balance", credential.secret, deadline)

    async def _address(self, picture: Picture, key: str, deadline: float) -> str:
        """Where WaveSpeed finds the picture: inside the document, or behind an upload ticket."""
        if len(picture.data) <= DATA_URI_BYTES_MAX:
            encoded = await off_loop(base64.b64encode, picture.data, size_bytes=len(picture.data))
            return f"data:{picture.media_type};base64,{encoded.decode()}"
        wanted = {"filename": "image", "size": len(picture.data), "content_type": picture.media_type}
        ticket = await self._data("POST", "/api/v3/media/uploads", key, deadline, wanted)
        upload, address = ticket.get("upload"), ticket.get("download_url")
        url = upload.get("url") if isinstance(upload, dict) else None
        headers = (upload.get("headers") or {}) if isinstance(upload, dict) else None
        if not isinstance(url, str) or not isinstance(address, str) or not _are_headers(headers):
            raise ProviderFailed("WaveSpeed answered with an upload ticket of an unknown shape.")
        answer = await self._upstream.client_for(url).send(
            NAME, "PUT", url, deadline=deadline, headers=headers, content=picture.data
        )
        if not 200 <= answer.status < 300:  # nothing was submitted yet, so somebody else may do it
            raise ProviderSaturated(f"WaveSpeed did not take the picture: status {answer.status}.")
        return address

    async def _ended(self, path: str, key: str, deadline: float) -> list[Any] | None:
        try:
            return _outputs(await self._data("GET", path, key, deadline), key)
        except CredentialRefused as error:  # the task goes on all the same, so this is no leave to send it elsewhere
            raise ProviderFailed(error.message) from None

    async def _bitmap(self, output: object, picture: Picture, deadline: float) -> Any:
        if not isinstance(output, str):
            raise ProviderFailed("WaveSpeed answered with a mask of an unknown shape.")
        if output.startswith("data:"):
            try:
                data = await off_loop(base64.b64decode, output.partition(",")[2], size_bytes=len(output))
            except (binascii.Error, ValueError):
                raise ProviderFailed("WaveSpeed answered with a mask that is no picture.") from None
        else:
            data = await self._upstream.fetch(NAME, output, deadline=deadline)
        return await asyncio.to_thread(read_mask, data, picture, NAME)

    async def _data(self, method: str, path: str, key: str, deadline: float, document: object = None) -> dict[str, Any]:
        """The `data` of an answer that says it is fine."""
        answer = await self._upstream.client.send(
            NAME,
            method,
            f"{self._upstream.base_url}{path}",
            deadline=deadline,
            headers={"authorization": f"Bearer {key}"},
            document=document,
        )
        if answer.status != 200:
            raise _refused(answer, key)
        data = (await answer.json_object()).get("data")
        if not isinstance(data, dict):
            raise ProviderFailed("WaveSpeed answered without data.")
        return data


def _outputs(data: Mapping[str, Any], key: str) -> list[Any] | None:
    """What the task made; None while it runs. Raises InputRejected or JobFailed where it has failed."""
    status, outputs = data.get("status"), data.get("outputs")
    if status in ("created", "processing", "queued", "pending"):
        return None
    if status == "completed" and isinstance(outputs, list):
        return outputs
    if status not in ("failed", "cancelled", "timeout", "deleted"):
        raise JobFailed("WaveSpeed does not know how the task stands.")
    words = clean(str(data.get("error") or status), secrets=[key])
    code = data.get("code")
    if code in (1200, 1400, 1401, 1402):  # moderation, missing, invalid, picture not reachable
        raise InputRejected(f"WaveSpeed refused the input: {words}")
    raise JobFailed(f"WaveSpeed could not do the task: {words}")


def _refused(answer: Answer, key: str) -> InferenceError:
    """The envelope's `message`; some refusals for lack of money come as 400, and so does an unknown model."""
    said = str(error_document(answer.body).get("message") or "")
    if answer.status in (400, 402, 403) and _MONEY.search(said):
        return CredentialRefused(NAME, clean(said, secrets=[key]))
    if answer.status == 400 and said.lower().startswith("model not found"):
        return ModelUnavailable("WaveSpeed does not offer this model.")
    return refusal(answer, said, secret=key)


def _are_headers(headers: object) -> bool:
    return isinstance(headers, dict) and all(
        isinstance(name, str)
        and isinstance(value, str)
        and _HEADER.fullmatch(name)
        and value.isprintable()
        and name.lower() not in ("host", "authorization", "content-length", "transfer-encoding")
        for name, value in headers.items()
    )


def _point(point: PointPrompt, picture: Picture) -> dict[str, int]:
    """The pixel that the point lies in."""
    x, y = min(int(point.x), picture.width - 1), min(int(point.y), picture.height - 1)
    return {"x": x, "y": y, "label": int(point.positive)}


def _box(box: BoxPrompt) -> dict[str, int]:
    """The box on the nearest lines between pixels."""
    return {name: round(getattr(box, name)) for name in ("x_min", "y_min", "x_max", "y_max")}
