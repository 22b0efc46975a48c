"""What a gateway and a SAM 3 pool say to each other: a task one way, a result or an error the other.

Each is one frame (inference/frames.py): pictures and run lengths travel as blobs, everything else in the header.
"""

import math
from typing import Any

from inference.errors import (
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
)
from inference.frames import BLOBS_MAX, HEADER_BYTES_MAX, FrameKind, Members, WireError, decode_frame, encode_frame
from inference.task import (
    BoxPrompt,
    Mask,
    MaskSelects,
    MaskStyle,
    Picture,
    PictureFormat,
    PointPrompt,
    Prompt,
    Rendering,
    SegmentResult,
    SegmentTask,
)

MEDIA_TYPE = "application/x-sam3-frame"
DEADLINE_HEADER = "x-deadline-ms"
RETRY_AFTER_HEADER = "retry-after-ms"

TASK_BYTES_MAX = 64 * 1024 * 1024
RESULT_BYTES_MAX = 1024 * 1024 * 1024
TEXT_CHARACTERS_MAX = 10_000
PROMPTS_MAX = 1_000  # points, and as many boxes; the pool accepts fewer still

# --- tasks ------------------------------------------------------------------------------------------------------------


def _picture_header(picture: Picture, blob: int) -> dict[str, Any]:
    return {
        "media_type": picture.media_type,
        "width": picture.width,
        "height": picture.height,
        "blob": blob,
    }


def _take_picture(members: Members) -> Picture:
    picture = Picture(
        data=members.take_blob("blob"),
        media_type=members.take("media_type", str),
        width=members.take("width", int),
        height=members.take("height", int),
    )
    members.end()
    return picture


def encode_task(task: SegmentTask) -> bytes:
    """One frame of kind task. Raises InputRejected for what no frame has room or a form for."""
    _check_sendable(task)
    prompt, rendering = task.prompt, task.rendering
    blobs = [task.picture.data] + ([prompt.mask.data] if prompt.mask else [])
    header = {
        "model": task.model,
        "picture": _picture_header(task.picture, 0),
        "text": prompt.text,
        "points": [{"x": p.x, "y": p.y, "positive": p.positive, "object_id": p.object_id} for p in prompt.points],
        "boxes": [
            {"box": [b.x_min, b.y_min, b.x_max, b.y_max], "positive": b.positive, "object_id": b.object_id}
            for b in prompt.boxes
        ],
        "mask": _picture_header(prompt.mask, 1) if prompt.mask else None,
        "mask_selects": prompt.mask_selects.value,
        "max_masks": task.max_masks,
        "threshold": task.threshold,
        "rendering": {
            "style": rendering.style.value,
            "format": rendering.format.value,
            "max_pictures": rendering.max_pictures,
            "fit_within": list(rendering.fit_within) if rendering.fit_within else None,
        },
        "organization": task.organization,
    }
    return encode_frame(FrameKind.TASK, header, blobs)


def _check_sendable(task: SegmentTask) -> None:
    prompt = task.prompt
    if len(prompt.text or "") > TEXT_CHARACTERS_MAX:
        raise InputRejected(f"The prompt is longer than {TEXT_CHARACTERS_MAX} characters.", field="prompt")
    for name, items in (("points", prompt.points), ("boxes", prompt.boxes)):
        if len(items) > PROMPTS_MAX:
            raise InputRejected(f"There are more than {PROMPTS_MAX} {name}.", field=name)
    coordinates = {
        "points": [value for point in prompt.points for value in (point.x, point.y)],
        "boxes": [value for box in prompt.boxes for value in (box.x_min, box.y_min, box.x_max, box.y_max)],
        "threshold": [task.threshold],
    }
    for name, values in coordinates.items():
        if not all(map(math.isfinite, values)):
            raise InputRejected(f"A number in {name} is not finite.", field=name)
    nbytes = len(task.picture.data) + (len(prompt.mask.data) if prompt.mask else 0)
    if nbytes + HEADER_BYTES_MAX > TASK_BYTES_MAX:
        raise InputRejected(
            f"The picture is larger than {(TASK_BYTES_MAX - HEADER_BYTES_MAX) // 1024 // 1024} MiB.", field="picture"
        )


def decode_task(data: bytes) -> SegmentTask:
    """The task in a frame. Raises WireError; the pictures in it are not looked at."""
    members = decode_frame(data, FrameKind.TASK, TASK_BYTES_MAX)
    text = members.take_optional("text", str)
    if text is not None and len(text) > TEXT_CHARACTERS_MAX:
        raise WireError(f"frame.text has more than {TEXT_CHARACTERS_MAX} characters")
    points = [_take_point(item) for item in members.take_list("points", PROMPTS_MAX)]
    boxes = [_take_box(item) for item in members.take_list("boxes", PROMPTS_MAX)]
    has_mask = members.values.get("mask") is not None
    mask = _take_picture(members.take_object("mask")) if has_mask else members.take_optional("mask", type(None))
    task = SegmentTask(
        model=members.take("model", str),
        picture=_take_picture(members.take_object("picture")),
        prompt=Prompt(
            text=text,
            points=tuple(points),
            boxes=tuple(boxes),
            mask=mask,
            mask_selects=members.take_choice("mask_selects", MaskSelects),
        ),
        max_masks=members.take("max_masks", int),
        threshold=members.take("threshold", float),
        rendering=_take_rendering(members.take_object("rendering")),
        organization=members.take("organization", str),
    )
    members.end()
    return task


def _take_point(members: Members) -> PointPrompt:
    point = PointPrompt(
        x=members.take("x", float),
        y=members.take("y", float),
        positive=members.take("positive", bool),
        object_id=members.take_optional("object_id", int),
    )
    members.end()
    return point


def _take_box(members: Members) -> BoxPrompt:
    x_min, y_min, x_max, y_max = _numbers(members, "box", 4)
    box = BoxPrompt(
        x_min=x_min,
        y_min=y_min,
        x_max=x_max,
        y_max=y_max,
        positive=members.take("positive", bool),
        object_id=members.take_optional("object_id", int),
    )
    members.end()
    return box


def _numbers(members: Members, name: str, count: int) -> list[float]:
    values = members.take(name, list)
    if len(values) != count or not all(type(v) in (int, float) for v in values):
        raise WireError(f"{members.where}.{name} is not a list of {count} numbers")
    return [float(v) for v in values]


def _take_rendering(members: Members) -> Rendering:
    fit_within = None
    if members.values.get("fit_within") is None:
        members.take_optional("fit_within", list)
    else:
        width, height = _numbers(members, "fit_within", 2)
        fit_within = (int(width), int(height))
    rendering = Rendering(
        style=members.take_choice("style", MaskStyle),
        format=members.take_choice("format", PictureFormat),
        max_pictures=members.take("max_pictures", int),
        fit_within=fit_within,
    )
    members.end()
    return rendering


# --- results ----------------------------------------------------------------------------------------------------------


def encode_result(result: SegmentResult) -> bytes:
    """One frame of kind result."""
    blobs: list[bytes] = []
    masks = []
    for mask in result.masks:
        item: dict[str, Any] = {
            "score": mask.score,
            "box": list(mask.box) if mask.box else None,
            "object_id": mask.object_id,
            "rle": None,
            "picture": None,
        }
        if mask.rle is not None:  # megabytes for a ragged mask of a large picture: no matter for a JSON header
            item["rle"] = len(blobs)
            blobs.append(mask.rle.encode("ascii"))
        if mask.picture is not None:
            item["picture"] = len(blobs)
            blobs.append(mask.picture)
        masks.append(item)
    header = {
        "masks": masks,
        "width": result.width,
        "height": result.height,
        "timings_ms": {name: round(value, 3) for name, value in result.timings_ms.items()},
    }
    return encode_frame(FrameKind.RESULT, header, blobs)


def decode_result(data: bytes) -> SegmentResult:
    """The result in a frame. Raises WireError."""
    members = decode_frame(data, FrameKind.RESULT, RESULT_BYTES_MAX)
    masks = []
    for item in members.take_list("masks", BLOBS_MAX):
        boxed = item.values.get("box") is not None
        box = _numbers(item, "box", 4) if boxed else item.take_optional("box", list)
        rle = item.take_optional_blob("rle")
        masks.append(
            Mask(
                rle=None if rle is None else rle.decode("ascii", errors="replace"),
                score=item.take_optional("score", float),
                box=(box[0], box[1], box[2], box[3]) if box else None,
                object_id=item.take_optional("object_id", int),
                picture=item.take_optional_blob("picture"),
            )
        )
        item.end()
    timings = members.take("timings_ms", dict)
    if not all(type(value) in (int, float) for value in timings.values()):
        raise WireError("frame.timings_ms holds something else than numbers")
    result = SegmentResult(
        masks=tuple(masks),
        width=members.take("width", int),
        height=members.take("height", int),
        timings_ms={str(name): float(value) for name, value in timings.items()},
    )
    members.end()
    return result


# --- errors -----------------------------------------------------------------------------------------------------------

_ERROR_KINDS: dict[str, type[InferenceError]] = {
    "input_rejected": InputRejected,
    "model_unavailable": ModelUnavailable,
    "saturated": ProviderSaturated,
    "timed_out": ProviderTimedOut,
    "failed": ProviderFailed,
}


def encode_error(error: InferenceError) -> bytes:
    """One frame of kind error; what is not in the list above travels as "failed"."""
    kind = next((name for name, known in _ERROR_KINDS.items() if isinstance(error, known)), "failed")
    header = {
        "kind": kind,
        "message": error.message,
        "field": error.field if isinstance(error, InputRejected) else None,
        "retry_after_seconds": getattr(error, "retry_after_seconds", None),
    }
    return encode_frame(FrameKind.ERROR, header, ())


def decode_error(data: bytes) -> InferenceError:
    """The error in a frame, to be raised by the caller. Raises WireError when there is none."""
    members = decode_frame(data, FrameKind.ERROR, HEADER_BYTES_MAX)
    kind = members.take("kind", str)
    message = members.take("message", str)
    at_fault = members.take_optional("field", str)
    retry_after_seconds = members.take_optional("retry_after_seconds", float)
    members.end()
    match _ERROR_KINDS.get(kind):
        case None:
            raise WireError(f"unknown error kind '{kind[:50]}'")
        case known if known is InputRejected:
            return InputRejected(message, field=at_fault)
        case known if known is ModelUnavailable:
            return ModelUnavailable(message, retry_after_seconds=retry_after_seconds)
        case known if known is ProviderSaturated:
            return ProviderSaturated(message, retry_after_seconds=retry_after_seconds or 1.0)
        case known:
            return known(message)
