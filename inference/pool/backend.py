"""What a backend does: the few operations on the device that the worker calls, always from one thread.

Coordinates are fractions (0 to 1) of the displayed picture, so that nothing above knows the model's input size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # [mask_side, mask_side], positive = object


class RowFailed(Exception):
    """One row gave nothing usable (NaN, or an error that stays with this row alone); the others are unaffected."""


class DeviceOutOfMemory(Exception):
    """The batch did not fit; half of it may."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A picture, encoded: `features` belongs to the backend that made it, `nbytes` is what it occupies."""

    features: Any
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class DetectorRow:
    """All instances of one concept on one picture: at most `limit` candidates that score `threshold` or more.

    `exemplars` are (x_center, y_center, width, height, positive).
    """

    embedding: Embedding
    token_ids: tuple[int, ...]
    exemplars: tuple[tuple[float, float, float, float, bool], ...]
    threshold: float
    limit: int


@dataclass(frozen=True, slots=True, eq=False)
class TrackerRow:
    """One object pointed at: `points` are (x, y, positive), `box` is corners, `mask` logits [mask_side, mask_side]."""

    embedding: Embedding
    points: tuple[tuple[float, float, bool], ...]
    box: tuple[float, float, float, float] | None
    mask: Logits | None


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask at the model's resolution and its score (0 to 1)."""

    score: float
    logits: Logits


class Backend(Protocol):
    """Weights on a device."""

    picture_side: int
    mask_side: int
    token_limit: int

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a phrase, begin and end included, not shortened. Safe in any thread."""
        ...

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode pictures [picture_side, picture_side, 3]. Raises DeviceOutOfMemory."""
        ...

    def detect(self, rows: Sequence[DetectorRow]) -> list[list[Candidate] | RowFailed]:
        """Candidates of each row, best first. Raises DeviceOutOfMemory."""
        ...

    def track(self, rows: Sequence[TrackerRow]) -> list[Candidate | RowFailed]:
        """The mask of each row. Raises DeviceOutOfMemory."""
        ...

    def memory_bytes(self) -> int:
        """Device memory in use; on a CPU the process's resident memory."""
        ...


def exercise(backend: Backend) -> None:
    """Run each kind of call once: it warms a new backend up and proves that an old one still works, or raises."""
    side = backend.picture_side
    (embedding,) = backend.encode([np.zeros((side, side, 3), dtype=np.uint8)])
    tokens = backend.tokenize("visual")
    backend.detect([DetectorRow(embedding, tokens, (), 0.0, 1)])
    backend.detect([DetectorRow(embedding, tokens, ((0.5, 0.5, 0.5, 0.5, True),), 0.0, 1)])
    backend.track([TrackerRow(embedding, ((0.5, 0.5, True),), None, None)])
