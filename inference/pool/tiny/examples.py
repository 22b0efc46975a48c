"""Scenes as the model sees them: squashed pixels, small masks, boxes, and a bounded store of them for training."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from inference.pool.squash import squash
from inference.pool.tiny import drawing, scenes
from inference.pool.tiny.configuration import mask_size
from inference.pool.tiny.vocabulary import COLOUR_NAMES, SHAPE_NAMES

_SOURCE_SIDES = (120, 320)


@dataclass(frozen=True, slots=True)
class Example:
    """One scene for training. Objects that are mostly hidden or cut off are left out of all arrays.

    pixels uint8 [3, S, S]; masks uint8 [objects, M, M], 0..255 coverage; boxes float32 [objects, 4] cxcywh in 0..1;
    colours and shapes int64 [objects], indices into COLOUR_NAMES and SHAPE_NAMES.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    colours: NDArray[np.int64]
    shapes: NDArray[np.int64]


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes to the model's range -1..1."""
    return pixels.float() / 127.5 - 1.0


def source_size(scene: scenes.Scene, side: float) -> tuple[int, int]:
    """Width and height in pixels of a picture of this scene's aspect ratio and an area of side²."""
    return max(16, round(side * scene.size[0])), max(16, round(side * scene.size[1]))


def make(seed: int, image_size: int) -> Example:
    """The example of a seed at a random size, squashed to `image_size` like a picture to be served."""
    scene = scenes.sample(seed)
    rng = np.random.default_rng((seed, 1))
    side = math.exp(rng.uniform(math.log(_SOURCE_SIDES[0]), math.log(_SOURCE_SIDES[1])))
    image, coverages = drawing.render(scene, *source_size(scene, side))
    areas = np.array([drawing.whole_area(item) for item in scene.objects])
    boxes = drawing.visible_boxes(coverages, areas)
    kept = [index for index, box in enumerate(boxes) if box is not None]
    corners = np.array([boxes[index] for index in kept], dtype=np.float32).reshape(-1, 4)
    return Example(
        pixels=squash(image, image_size).transpose(2, 0, 1),
        masks=_shrink(coverages[kept], mask_size(image_size)),
        boxes=np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1),
        colours=np.array([COLOUR_NAMES.index(scene.objects[index].colour) for index in kept], dtype=np.int64),
        shapes=np.array([SHAPE_NAMES.index(scene.objects[index].shape) for index in kept], dtype=np.int64),
    )


def _shrink(coverages: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    if len(coverages) == 0:
        return np.zeros((0, side, side), dtype=np.uint8)
    # Exact area averages: the target's half-way line then lies where the object's edge lies.
    small = functional.adaptive_avg_pool2d(torch.from_numpy(coverages), (side, side))
    masks: NDArray[np.uint8] = (small * 255.0 + 0.5).to(torch.uint8).numpy()
    return masks


def turned(example: Example, rng: np.random.Generator) -> Example:
    """The example mirrored and transposed at random: shapes and colours keep their names."""
    pixels, masks, boxes = example.pixels, example.masks, example.boxes
    if rng.random() < 0.5:
        pixels, masks = pixels[..., ::-1], masks[..., ::-1]
        boxes = np.concatenate([1.0 - boxes[:, :1], boxes[:, 1:]], axis=1)
    if rng.random() < 0.3:
        pixels, masks = pixels[..., ::-1, :], masks[..., ::-1, :]
        boxes = np.concatenate([boxes[:, :1], 1.0 - boxes[:, 1:2], boxes[:, 2:]], axis=1)
    if rng.random() < 0.3:
        pixels, masks = pixels.swapaxes(-1, -2), masks.swapaxes(-1, -2)
        boxes = boxes[:, [1, 0, 3, 2]]
    return Example(np.ascontiguousarray(pixels), np.ascontiguousarray(masks), boxes, example.colours, example.shapes)


class ReplayStore:
    """At most `capacity` examples; each step replaces a few, so that every scene is seen a bounded number of times."""

    def __init__(self, capacity: int, first_seed: int, image_size: int) -> None:
        """Start empty; the scenes' seeds count up from first_seed."""
        self.image_size = image_size
        self._capacity = capacity
        self._first_seed = first_seed
        self.next_seed = first_seed
        self._examples: list[Example] = []

    def __len__(self) -> int:
        return len(self._examples)

    def draw(self, rng: np.random.Generator, count: int, fresh: int) -> list[Example]:
        """Make `fresh` new examples, drop the oldest above the capacity, return `count` drawn at random and turned."""
        self.fill(self.next_seed + (fresh if self._examples else max(fresh, 64)))
        chosen = rng.integers(0, len(self._examples), count)
        return [turned(self._examples[int(index)], rng) for index in chosen]

    def fill(self, next_seed: int) -> None:
        """Make the examples of all seeds below `next_seed` that have not been made yet."""
        while self.next_seed < next_seed:
            example = make(self.next_seed, self.image_size)
            slot = (self.next_seed - self._first_seed) % self._capacity
            self.next_seed += 1
            if len(self._examples) < self._capacity:
                self._examples.append(example)
            else:
                self._examples[slot] = example
