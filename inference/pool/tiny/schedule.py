"""The phases of a training run, in order."""

from dataclasses import dataclass
from typing import Literal

PhaseKind = Literal["tokens", "detector", "tracker"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One cosine of the learning rate. image_size may grow from phase to phase.

    The factors scale the backbone's and the text tower's rate; 0 freezes.

    rescale_neck: bring the untrained tracker's features to the size of its positional encoding first.
    """

    kind: PhaseKind
    image_size: int
    steps: int
    peak: float
    vision_factor: float = 0.0
    text_factor: float = 0.0
    rescale_neck: bool = False


SCHEDULE: tuple[Phase, ...] = (
    Phase("tokens", 96, 1500, 1.6e-3, vision_factor=1.0),
    Phase("tokens", 96, 1500, 1.6e-3, vision_factor=1.0),
    Phase("detector", 96, 1800, 1.6e-3, vision_factor=0.6, text_factor=0.1),
    Phase("tracker", 96, 1400, 1.6e-3, rescale_neck=True),
    Phase("detector", 128, 850, 1.3e-3, vision_factor=0.5, text_factor=0.15),
    Phase("tracker", 128, 1200, 1.8e-3),
    Phase("detector", 128, 700, 9e-4, text_factor=0.2),
)
