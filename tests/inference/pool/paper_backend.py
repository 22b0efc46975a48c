"""A backend without weights: a picture's embedding is its mean colour, and masks are drawn where the prompt says."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.pool.backend import (
    Candidate,
    DetectorRow,
    DeviceOutOfMemory,
    Embedding,
    Logits,
    RowFailed,
    TrackerRow,
)


class PaperBackend:
    """Finds one 4 x 4 square for any text; for a click, a square around it.

    `gate` can be cleared to keep the device busy; `calls` records the size of every model call. The text "crash" makes
    any call with it raise, "nan" makes its row alone fail; more than `rows_max` rows or pictures do not fit. Once
    `broken`, every call raises.
    """

    picture_side = 16
    mask_side = 16
    token_limit = 8

    def __init__(self, rows_max: int = 1000) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.rows_max = rows_max
        self.broken = False
        self.calls: list[tuple[str, int]] = []
        self.texts: list[str] = []

    def tokenize(self, text: str) -> tuple[int, ...]:
        """One token for each letter."""
        return tuple(map(ord, text))

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """The mean colour of each picture."""
        self._enter("encode", len(pictures))
        return [Embedding(picture.mean(axis=(0, 1)), 24) for picture in pictures]

    def detect(self, rows: Sequence[DetectorRow]) -> list[list[Candidate] | RowFailed]:
        """One candidate for each row."""
        self._enter("detect", len(rows))
        texts = ["".join(map(chr, row.token_ids)) for row in rows]
        if "crash" in texts:
            raise RuntimeError("an illegal instruction")
        self.texts += texts
        return [RowFailed("nan") if text == "nan" else [Candidate(0.9, square(0, 0))] for text in texts]

    def track(self, rows: Sequence[TrackerRow]) -> list[Candidate | RowFailed]:
        """A square at the first point of each row."""
        self._enter("track", len(rows))
        side = self.mask_side
        return [Candidate(0.8, square(int(row.points[0][0] * side), int(row.points[0][1] * side))) for row in rows]

    def memory_bytes(self) -> int:
        """Nothing to speak of."""
        return 1

    def _enter(self, kind: str, count: int) -> None:
        self.entered.set()
        if not self.gate.wait(30):
            raise RuntimeError("the test forgot to open the gate")
        self.calls.append((kind, count))
        if self.broken:
            raise RuntimeError("the device fell off the bus")
        if count > self.rows_max:
            raise DeviceOutOfMemory(f"{count} do not fit")


def square(left: int, top: int) -> Logits:
    """Logits [16, 16] that are positive on 4 x 4 pixels."""
    logits = np.full((16, 16), -4, dtype=np.float32)
    logits[top : top + 4, left : left + 4] = 4
    return logits
