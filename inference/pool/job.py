"""One request on its way through the pool."""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.errors import InferenceError, ProviderSaturated
from inference.pool.backend import Backend, Candidate, Embedding, Logits
from inference.pool.composition import Chosen
from inference.pool.embedding_cache import CacheKey
from inference.pool.prompts import Plan
from inference.task import SegmentResult, SegmentTask


@dataclass(slots=True, eq=False)
class Prepared:
    """What the device needs to know: a squashed picture or its embedding, and the rows."""

    key: CacheKey
    width: int
    height: int
    result_width: int
    result_height: int
    plan: Plan
    tokens: tuple[tuple[int, ...], ...]  # of each concept
    squashed: NDArray[np.uint8] | None  # None if `embedding` was in the cache
    embedding: Embedding | None
    mask_prompt: Logits | None
    pixels: NDArray[np.uint8] | None  # kept for drawing if that is wanted and it is not too large


@dataclass(slots=True, eq=False)
class Job:
    """A task, its deadline (seconds on the monotonic clock), and what became of it so far.

    Each stage owns the job while it works on it; only `abandoned` and `future` are touched from outside.
    """

    task: SegmentTask
    backend: Backend
    checkpoint: str
    deadline: float
    future: "Future[SegmentResult]" = field(default_factory=Future)
    abandoned: bool = False
    submitted_at: float = field(default_factory=time.monotonic)
    prepared: Prepared | None = None
    tracked: list[Candidate] = field(default_factory=list)
    found: list[list[Candidate]] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def fail(self, error: InferenceError) -> None:
        """Answer with an error; the first answer counts."""
        if not self.future.done():
            self.future.set_exception(error)

    def drop_if_dead(self) -> bool:
        """Whether nobody waits any longer; such a job is answered here and costs nothing further."""
        if self.future.done():
            return True
        if self.abandoned:
            self.fail(ProviderSaturated("The caller hung up."))
        elif time.monotonic() > self.deadline:
            self.fail(ProviderSaturated("The request waited in the queue until its deadline had passed."))
        return self.future.done()
