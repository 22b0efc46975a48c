"""What the detector is asked about a training scene, and what it should find."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.pool.tiny.examples import Example
from inference.pool.tiny.vocabulary import COLOUR_NAMES, SHAPE_NAMES, phrase_for, unknown_phrase

_EXEMPLAR_PART = 0.15
_JITTER = 0.05


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question. targets: indices of the objects to be found, none for an absent concept.

    boxes float32 [n, 4] cxcywh with labels 1 (like this) or 0 (not like this); named: the text says the concept.
    """

    text: str
    targets: NDArray[np.int64]
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    named: bool = True


def prompts_for(example: Example, rng: np.random.Generator, count: int) -> list[Prompt]:
    """`count` prompts; the first one has an answer where the scene has objects."""
    prompts: list[Prompt] = []
    for index in range(count):
        if len(example.boxes) == 0:
            prompts.append(absent(example, rng) if rng.random() < 0.8 else _positive(example, rng))
        elif index == 0 or rng.random() < 0.7:
            exemplar = rng.random() < _EXEMPLAR_PART / 0.75
            prompts.append(_exemplar(example, rng) if exemplar else _positive(example, rng))
        else:
            prompts.append(absent(example, rng))
    return prompts


def matching(example: Example, colour: int | None, shape: int | None) -> NDArray[np.int64]:
    """Indices of the objects of that colour and shape; None means any."""
    fits = np.ones(len(example.boxes), dtype=bool)
    if colour is not None:
        fits &= example.colours == colour
    if shape is not None:
        fits &= example.shapes == shape
    return np.flatnonzero(fits)


def _positive(example: Example, rng: np.random.Generator) -> Prompt:
    draw = rng.random()
    if draw < 0.06 or len(example.boxes) == 0:
        return Prompt(phrase_for(rng, None, None), matching(example, None, None))
    chosen = int(rng.integers(len(example.boxes)))
    colour = int(example.colours[chosen]) if draw < 0.78 else None
    shape = int(example.shapes[chosen]) if draw < 0.62 or draw >= 0.78 else None
    return Prompt(_phrase(rng, colour, shape), matching(example, colour, shape))


def _phrase(rng: np.random.Generator, colour: int | None, shape: int | None) -> str:
    return phrase_for(
        rng,
        None if colour is None else COLOUR_NAMES[colour],
        None if shape is None else SHAPE_NAMES[shape],
    )


def absent(example: Example, rng: np.random.Generator) -> Prompt:
    """A question whose answer is nothing: mostly a near miss, such as the right colour on the wrong shape."""
    nothing = np.zeros(0, dtype=np.int64)
    if rng.random() < 0.36:
        return Prompt(unknown_phrase(rng), nothing)
    for _ in range(8):
        draw = rng.random()
        colour: int | None = int(rng.integers(len(COLOUR_NAMES)))
        shape: int | None = int(rng.integers(len(SHAPE_NAMES)))
        if len(example.boxes) and draw < 0.75:
            if draw < 0.6:
                colour = int(rng.choice(example.colours))
            if draw < 0.3 or draw >= 0.6:
                shape = int(rng.choice(example.shapes))
        elif draw < 0.85:
            shape = None
        elif draw < 0.94:
            colour = None
        if len(matching(example, colour, shape)) == 0:
            return Prompt(_phrase(rng, colour, shape), nothing)
    return Prompt(unknown_phrase(rng), nothing)


def jittered(rng: np.random.Generator, box: NDArray[np.float32]) -> NDArray[np.float32]:
    """A cxcywh box moved and resized by up to 5 % of its sides and kept inside the picture."""
    noise = rng.uniform(-_JITTER, _JITTER, 4).astype(np.float32) * box[[2, 3, 2, 3]]
    low = np.clip(box[:2] - box[2:] / 2 + noise[:2], 0.0, 0.97)
    high = np.clip(box[:2] + box[2:] / 2 + noise[2:], low + 0.02, 1.0)
    return np.concatenate([(low + high) / 2, high - low]).astype(np.float32)


def _exemplar(example: Example, rng: np.random.Generator) -> Prompt:
    chosen = int(rng.integers(len(example.boxes)))
    colour, shape = int(example.colours[chosen]), int(example.shapes[chosen])
    targets = matching(example, colour, shape)
    shown = rng.permutation(targets)[: 1 + int(rng.random() < 0.3)]
    boxes = [jittered(rng, example.boxes[index]) for index in shown]
    labels = [1] * len(boxes)
    others = np.setdiff1d(np.arange(len(example.boxes)), targets)
    if len(others) and rng.random() < 0.25:
        boxes.append(jittered(rng, example.boxes[int(rng.choice(others))]))
        labels.append(0)
    named = rng.random() < 0.3
    text = _phrase(rng, colour, shape) if named else "visual"
    return Prompt(text, targets, np.stack(boxes), np.array(labels, dtype=np.int64), named)
