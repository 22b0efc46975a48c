"""Scenes of coloured shapes, made from a seed, with the truth about each object.

A scene is a description in its own units (its area is 1, so a scene of aspect ratio a is sqrt(a) wide), which
`drawing.render` turns into pixels of any size. Training, evaluation and the demo pictures come from here.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.pool.tiny.vocabulary import COLOUR_NAMES, COLOURS, SHAPE_NAMES

BackgroundKind = Literal["page", "flat", "gradient", "clouds", "stripes"]

_CONTRAST = 95.0
_OUTLINE_CONTRAST = 60.0
_PLACEMENT_ATTEMPTS = 40
_OBJECTS_MAX = 9


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the objects: two colours and how they are mixed."""

    kind: BackgroundKind
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    angle: float
    seed: int


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape. Centre and radius are in scene units, the angle in radians; the outline is a part of the object."""

    colour: str
    shape: str
    rgb: tuple[int, int, int]
    centre: tuple[float, float]
    radius: float
    angle: float
    stretch: float
    outline: float
    outline_rgb: tuple[int, int, int]
    shading: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and objects, later ones in front of earlier ones, and what the camera does to the picture."""

    aspect: float
    background: Background
    objects: tuple[SceneObject, ...]
    noise: float
    blur: float
    jpeg_quality: int | None
    seed: int

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in scene units; their product is 1."""
        return math.sqrt(self.aspect), 1.0 / math.sqrt(self.aspect)


def sample(seed: int) -> Scene:
    """The scene of a seed: 0–9 objects on any background, of aspect ratios from 2:3 to 3:2."""
    rng = np.random.default_rng(seed)
    aspect = 1.0 if rng.random() < 0.3 else float(np.exp(rng.uniform(-0.45, 0.45)))
    background = _background(rng)
    count = 0 if rng.random() < 0.015 else int(rng.integers(1, _OBJECTS_MAX + 1))
    concepts = _concepts(rng, count)
    objects = place(rng, concepts, background, aspect, overlap=0.2)
    return Scene(
        aspect=aspect,
        background=background,
        objects=objects,
        noise=0.0 if rng.random() < 0.5 else float(rng.uniform(0.0, 9.0)),
        blur=0.0 if rng.random() < 0.6 else float(rng.uniform(0.0, 0.006)),
        jpeg_quality=None if rng.random() < 0.7 else int(rng.integers(40, 95)),
        seed=seed,
    )


def compose(seed: int, concepts: tuple[tuple[str, str], ...], background: Background, aspect: float) -> Scene:
    """A clean scene with exactly these (colour, shape) pairs, none of them covered or cut off.

    Raises ValueError when they do not fit or do not stand out from the background.
    """
    rng = np.random.default_rng(seed)
    objects = place(rng, concepts, background, aspect, overlap=-0.3, whole=True)
    if len(objects) != len(concepts):
        raise ValueError(f"only {len(objects)} of {len(concepts)} objects fit into the scene of seed {seed}")
    return Scene(aspect, background, objects, noise=0.0, blur=0.0, jpeg_quality=None, seed=seed)


def place(
    rng: np.random.Generator,
    concepts: tuple[tuple[str, str], ...],
    background: Background,
    aspect: float,
    *,
    overlap: float,
    whole: bool = False,
) -> tuple[SceneObject, ...]:
    """Give each concept a size and a place; those that find none within a bounded number of tries are left out.

    overlap: how far two bounding circles may reach into each other, as a part of their radii's sum (negative: a gap).
    """
    width, height = math.sqrt(aspect), 1.0 / math.sqrt(aspect)
    largest = 0.34 if len(concepts) <= 2 else 0.23 if len(concepts) <= 6 else 0.19
    placed: list[SceneObject] = []
    for colour, shape in concepts:
        rgb = _shade(rng, colour)
        if min(_distance(rgb, other) for other in background.colours) < _CONTRAST:
            continue
        for _ in range(_PLACEMENT_ATTEMPTS):
            radius = float(np.exp(rng.uniform(math.log(0.1 if whole else 0.07), math.log(largest))))
            margin = radius * 1.1 if whole else radius * 0.7
            if 2 * margin >= min(width, height):
                continue
            x, y = float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin))
            near = (1.0 - overlap) * np.array([radius + other.radius for other in placed])
            gaps = [math.hypot(x - other.centre[0], y - other.centre[1]) for other in placed]
            if all(gap >= limit for gap, limit in zip(gaps, near, strict=True)):
                item = _object(rng, (colour, shape), rgb, (x, y), radius)
                hidden = min(_distance(item.outline_rgb, other) for other in background.colours) < _OUTLINE_CONTRAST
                placed.append(replace(item, outline=0.0) if hidden else item)
                break
    return tuple(placed)


def _object(
    rng: np.random.Generator,
    names: tuple[str, str],
    rgb: tuple[int, int, int],
    centre: tuple[float, float],
    radius: float,
) -> SceneObject:
    upright = rng.random() < 0.45
    tilt = float(rng.normal(0.0, 0.05)) if upright else float(rng.uniform(0.0, 2.0 * math.pi))
    outlined = rng.random() < 0.22
    darker = float(rng.uniform(0.35, 0.7))
    return SceneObject(
        colour=names[0],
        shape=names[1],
        rgb=rgb,
        centre=centre,
        radius=radius,
        angle=tilt,
        stretch=float(rng.uniform(0.38, 0.62)),
        outline=float(rng.uniform(0.06, 0.14)) if outlined else 0.0,
        outline_rgb=(int(rgb[0] * darker), int(rgb[1] * darker), int(rgb[2] * darker)),
        shading=0.0 if rng.random() < 0.5 else float(rng.uniform(-0.16, 0.16)),
    )


def _concepts(rng: np.random.Generator, count: int) -> tuple[tuple[str, str], ...]:
    """Colour and shape of each object; a third of the scenes draw from few of both, so that only the pair decides."""
    colours = list(rng.permutation(COLOUR_NAMES))
    shapes = list(rng.permutation(SHAPE_NAMES))
    if rng.random() < 0.38:
        colours = colours[: int(rng.integers(1, 4))]
        shapes = shapes[: int(rng.integers(2, 4))]
    chosen: list[tuple[str, str]] = []
    for _ in range(count):
        if chosen and rng.random() < 0.2:
            chosen.append(chosen[int(rng.integers(len(chosen)))])
        else:
            chosen.append((str(rng.choice(colours)), str(rng.choice(shapes))))
    return tuple(chosen)


def _background(rng: np.random.Generator) -> Background:
    draw = rng.random()
    kind: BackgroundKind = "clouds"
    for limit, name in ((0.22, "page"), (0.42, "flat"), (0.68, "gradient"), (0.92, "clouds"), (1.0, "stripes")):
        if draw < limit:
            kind = name  # type: ignore[assignment]
            break
    if kind == "page":
        light = int(rng.integers(242, 256))
        return Background(kind, ((light, light, light),) * 2, 0.0, int(rng.integers(2**31)))
    grey = rng.uniform(20.0, 245.0)
    tint = rng.normal(0.0, 30.0 if rng.random() < 0.2 else 9.0, 3)
    contrast = float(rng.uniform(8.0, 60.0)) if kind != "stripes" else float(rng.uniform(8.0, 35.0))
    first = np.clip(grey + tint, 0, 255).astype(int)
    second = np.clip(grey + tint + contrast * rng.choice([-1.0, 1.0]) + rng.normal(0.0, 6.0, 3), 0, 255).astype(int)
    colours = ((int(first[0]), int(first[1]), int(first[2])), (int(second[0]), int(second[1]), int(second[2])))
    return Background(kind, colours, float(rng.uniform(0.0, 2.0 * math.pi)), int(rng.integers(2**31)))


def _shade(rng: np.random.Generator, colour: str) -> tuple[int, int, int]:
    middle = np.array(COLOURS[colour][0], dtype=np.float64)
    spread = 0.05 if colour in ("white", "brown") else 0.12
    value = np.clip(middle * rng.uniform(1.0 - spread, 1.0 + spread) + rng.normal(0.0, 8.0, 3), 0, 255)
    return int(value[0]), int(value[1]), int(value[2])


def _distance(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    difference: NDArray[np.float64] = np.array(first, dtype=np.float64) - np.array(second, dtype=np.float64)
    return float(np.sqrt((difference**2).sum()))
