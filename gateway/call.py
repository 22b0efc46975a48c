"""What the paid path is asked for, and what it gives back."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from gateway.auth import Caller
from gateway.catalog import Model
from gateway.errors import describe
from gateway.identifiers import new_id
from gateway.predictions.tables import Payer
from inference.router import Routed
from inference.task import GenerateTask, PictureFormat, Task

CAUSE_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a dialect wants done for a caller: one task per picture, all with the same model and prompt; or one task
    that makes pictures from text.

    `store_pictures` keeps result pictures in the media store; without it they travel in the answer only.
    """

    caller: Caller
    model: Model
    tasks: Sequence[Task]
    dialect: str
    request_id: str
    timeout_seconds: float
    store_pictures: bool
    prediction_id: UUID = field(default_factory=new_id)

    @property
    def units(self) -> int:
        """How many times the model's price the call costs."""
        return sum(units_of(task) for task in self.tasks)

    def format_of(self, task_index: int) -> PictureFormat:
        """How the pictures of a task come back."""
        task = self.tasks[task_index]
        return task.format if isinstance(task, GenerateTask) else task.rendering.format


def units_of(task: Task) -> int:
    """One for a picture that was sent, one for each that is to be made."""
    return task.count if isinstance(task, GenerateTask) else 1


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
    """A finished, settled call. `sizes` are (width, height) in pixels per task; `available_micros` what is left."""

    prediction_id: UUID
    masks: tuple[StoredMask, ...]
    sizes: tuple[tuple[int, int], ...]
    deployment: str
    charged_micros: int
    available_micros: int | None
    timings_ms: dict[str, float]
    payer: Payer = Payer.WALLET

    @classmethod
    def of(cls, prediction_id: UUID, routed: Sequence[Routed]) -> "Completed":
        """The call as its deployments left it: nothing stored, nothing charged yet."""
        timings: dict[str, float] = {}
        for answer in routed:
            for stage, milliseconds in answer.result.timings_ms.items():
                timings[stage] = max(timings.get(stage, 0.0), milliseconds)
        return cls(
            prediction_id=prediction_id,
            masks=tuple(
                StoredMask(index, mask.score, mask.box, mask.object_id, mask.rle, mask.picture, None)
                for index, answer in enumerate(routed)
                for mask in answer.result.masks
            ),
            sizes=tuple((answer.result.width, answer.result.height) for answer in routed),
            deployment=", ".join(dict.fromkeys(answer.deployment for answer in routed)),
            charged_micros=0,
            available_micros=None,
            timings_ms=timings,
        )

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


async def all_or_first_failure(coroutines: Sequence[Coroutine[Any, Any, Routed]]) -> list[Routed]:
    """Run all side by side; the first failure cancels the rest and is raised bare."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]


def remembered(failure: Exception) -> dict[str, Any]:
    """What the prediction remembers of a failure, that of each deployment by its name."""
    problem = describe(failure)
    error: dict[str, Any] = {"type": problem.type, "code": problem.code, "message": problem.message}
    causes: Mapping[str, Exception] = getattr(failure, "causes", {})
    if causes:
        error["causes"] = {
            name: f"{type(cause).__name__}: {cause}"[:CAUSE_CHARACTERS_MAX] for name, cause in causes.items()
        }
    return error
