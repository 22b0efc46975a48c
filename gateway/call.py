"""What the paid path is asked for, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from gateway.auth import Caller
from gateway.catalog import Model
from gateway.identifiers import new_id
from inference.task import SegmentTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a dialect wants done for a caller: one task per picture, all with the same model and prompt.

    `store_pictures` keeps result pictures in the media store; without it they travel in the answer only.
    """

    caller: Caller
    model: Model
    tasks: Sequence[SegmentTask]
    dialect: str
    request_id: str
    timeout_seconds: float
    store_pictures: bool
    prediction_id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class StoredMask:
    """One mask of a finished call; `media_key` where its picture was stored, `picture` where it was not."""

    task_index: int
    score: float | None
    box: tuple[float, float, float, float] | None
    object_id: int | None
    rle: str | None
    picture: bytes | None
    media_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A finished, settled call. `sizes` are (width, height) in pixels per task; `balance_micros` what is left."""

    prediction_id: UUID
    masks: tuple[StoredMask, ...]
    sizes: tuple[tuple[int, int], ...]
    deployment: str
    charged_micros: int
    available_micros: int | None
    timings_ms: dict[str, float]

    def record(self) -> dict[str, Any]:
        """What the prediction remembers of its result; pictures by their key in the media store."""
        return {
            "sizes": [list(size) for size in self.sizes],
            "masks": [
                {
                    "picture_index": mask.task_index,
                    "score": mask.score,
                    "box": mask.box and list(mask.box),
                    "object_id": mask.object_id,
                    "rle": mask.rle,
                    "media_key": mask.media_key,
                }
                for mask in self.masks
            ],
        }
