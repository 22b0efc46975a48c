"""A SAM 3 pool without a model: it speaks the pool's protocol and answers as it is told."""

import asyncio
import io
import threading
from dataclasses import dataclass, field

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference.errors import InferenceError, InputRejected, ProviderFailed, ProviderSaturated
from inference.task import Mask, SegmentResult, SegmentTask
from inference.wire import MEDIA_TYPE, decode_task, encode_error, encode_result

STALL_TIMEOUT_SECONDS = 30.0


@dataclass
class FakePool:
    """`app` is the program. `behaviour` names how the next tasks are answered; `tasks` remembers what was asked.

    succeed | nothing_found | reject | fail | saturate | garbage | stall (until `release`)
    """

    behaviour: str = "succeed"
    tasks: list[SegmentTask] = field(default_factory=list)
    _go: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """Be as new."""
        self.behaviour = "succeed"
        self.tasks.clear()
        self._go.clear()

    def release(self) -> None:
        """Let the tasks that stall go on; may be called from any thread."""
        self._go.set()

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/segment", self._segment, methods=["POST"]), Route("/health", self._health)])

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ready", "device": "none", "queued": 0})

    async def _segment(self, request: Request) -> Response:
        task = decode_task(await request.body())
        self.tasks.append(task)
        match self.behaviour:
            case "reject":
                return _error(400, InputRejected("The picture is cut short.", field="picture"))
            case "fail":
                return _error(500, ProviderFailed("The model fell over."))
            case "saturate":
                return _error(503, ProviderSaturated("The queue is full.", retry_after_seconds=3.0))
            case "garbage":
                return Response(b"\x00\x01not a frame", media_type=MEDIA_TYPE)
            case "stall":
                await asyncio.to_thread(self._go.wait, STALL_TIMEOUT_SECONDS)
            case "nothing_found":
                return _result(SegmentResult(masks=(), width=task.picture.width, height=task.picture.height))
        return _result(_one_pixel_masks(task))


def _one_pixel_masks(task: SegmentTask) -> SegmentResult:
    """As many masks as may come back, each of the one pixel that its index names."""
    width, height = task.picture.width, task.picture.height
    masks = tuple(
        Mask(
            rle=f"{index + 1} 1",
            score=0.9 - index / 100,
            box=(float(index), 0.0, float(index + 1), 1.0),
            picture=_picture(task) if index < task.rendering.max_pictures else None,
        )
        for index in range(task.max_masks)
    )
    return SegmentResult(masks=masks, width=width, height=height, timings_ms={"queue": 0.0, "inference": 0.0})


def _picture(task: SegmentTask) -> bytes:
    out = io.BytesIO()
    Image.new("L", (task.picture.width, task.picture.height), 255).save(out, task.rendering.format.value)
    return out.getvalue()


def _result(result: SegmentResult) -> Response:
    return Response(encode_result(result), media_type=MEDIA_TYPE)


def _error(status: int, error: InferenceError) -> Response:
    return Response(encode_error(error), status_code=status, media_type=MEDIA_TYPE)
