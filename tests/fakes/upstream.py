"""What the upstreams that only play one have in common: how they misbehave, and what they remember."""

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

GOOD_KEY = "provider-key-that-is-good-0123456789"
STALL_TIMEOUT_SECONDS = 30.0
GIGABYTE = 1024**3
REFUSALS = {
    "bad_key": (401, "Invalid key."),
    "no_money": (402, "Payment required."),
    "forbidden": (403, "User is locked. Reason: Exhausted balance."),
    "busy": (429, "Too many requests."),
    "unavailable": (503, "Come back later."),
    "reject": (422, "This picture is too dark. Key provider-key-that-is-good-0123456789 seen."),
    "break": (500, "Traceback: provider-key-that-is-good-0123456789"),
}
RETRY_AFTER_SECONDS = 7


@dataclass(frozen=True, slots=True)
class Asked:
    """What an upstream understood of one request."""

    model: str
    picture: bytes | None
    text: str
    points: tuple[tuple[float, float, int], ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    max_masks: int = 1
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Upstream:
    """`behaviour` is how the next requests for work are answered; `asked` remembers them, `keys` who asked.

    succeed | nothing_found | stall (until `release`) | garbage | odd | gigabyte | endless | hang_up | one of REFUSALS
    """

    behaviour: str = "succeed"
    asked: list[Asked] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let the requests that stall go on; may be called from any thread."""
        self._go.set()

    def knows(self, request: Request) -> bool:
        """Whether the request's key is the one that is known here; remembers it in any case."""
        key = request.headers.get("authorization", "").partition(" ")[2]
        self.keys.append(key)
        return key == GOOD_KEY

    async def misbehave(self) -> Response | None:
        """The answer that has nothing to do with the protocol; None where the protocol has something to say."""
        match self.behaviour:
            case "stall":
                self.began.set()
                await asyncio.to_thread(self._go.wait, STALL_TIMEOUT_SECONDS)
            case "garbage":
                return Response(b"<html>nginx</html>", media_type="text/html")
            case "odd":
                return JSONResponse({"data": [17], "request_id": 17, "id": None})
            case "gigabyte":
                return StreamingResponse(zeros(), headers={"content-length": str(GIGABYTE)})
            case "endless":
                return StreamingResponse(zeros())
            case "hang_up":
                return StreamingResponse(some(), headers={"content-length": "1000"})
        return None


async def zeros() -> AsyncIterator[bytes]:
    """A gigabyte."""
    for _ in range(1024):
        yield bytes(1024 * 1024)


async def some() -> AsyncIterator[bytes]:
    """Less than was announced; the server then closes the connection."""
    yield b"{"


def bitmap(width: int, height: int, index: int) -> NDArray[np.bool_]:
    """The mask [height, width] that every upstream finds as its `index`-th: a block in the upper left."""
    found = np.zeros((height, width), dtype=np.bool_)
    found[: height // 2 + index, : width // 2 + index] = True
    return found


def mask_png(width: int, height: int, index: int) -> bytes:
    """The same as a greyscale picture."""
    out = io.BytesIO()
    Image.fromarray(bitmap(width, height, index).astype(np.uint8) * 255).save(out, "PNG")
    return out.getvalue()


def score(index: int) -> float:
    """How sure every upstream is of its `index`-th mask."""
    return round(0.9 - index / 100, 2)


def size_of(picture: bytes) -> tuple[int, int]:
    """(width, height)."""
    return Image.open(io.BytesIO(picture)).size


def from_data_uri(uri: str) -> bytes:
    """The bytes in it."""
    return base64.b64decode(uri.partition(",")[2])


def to_data_uri(data: bytes) -> str:
    """The other way."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
