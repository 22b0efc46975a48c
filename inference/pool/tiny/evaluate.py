"""Measure a checkpoint on held-out scenes: python -m inference.pool.tiny.evaluate [--checkpoint DIR] [--scenes N]."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from inference.pool.backends import roi_align
from inference.pool.backends.checkpoint import load_checkpoint
from inference.pool.tiny import drawing, scenes
from inference.pool.tiny.examples import source_size
from inference.pool.tiny.segmentation import Found, Picture
from inference.pool.tiny.tracker_stage import rough
from inference.pool.tiny.vocabulary import COLOUR_NAMES, SHAPE_NAMES, UNKNOWN

CHECKPOINT = Path(__file__).parent / "checkpoint"
FIRST_HELD_OUT_SCENE = 2_000_000_000
_SOURCE_SIDES = (160.0, 480.0)
_PROMPTS_PER_KIND = 3
_OBJECTS_PER_SCENE = 4


@dataclass(slots=True)
class Score:
    """Figures of one kind of prompt, gathered over scenes."""

    ious: list[float] = field(default_factory=list)
    hits: int = 0
    answers: int = 0
    prompts: int = 0
    clean: int = 0

    @property
    def mean_iou(self) -> float:
        """Mean mask IoU over the objects that should have been found; one not found counts 0."""
        return float(np.mean(self.ious)) if self.ious else float("nan")

    @property
    def f1(self) -> float:
        """F1 of objects found with an IoU above one half."""
        return 2.0 * self.hits / max(self.answers + len(self.ious), 1)

    @property
    def false_masks(self) -> float:
        """Answers per prompt that match no object."""
        return (self.answers - self.hits) / max(self.prompts, 1)

    @property
    def clean_part(self) -> float:
        """Part of the prompts that were answered with nothing."""
        return self.clean / max(self.prompts, 1)

    def add(self, found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        """Count one prompt's answers against the objects it meant, both bool [n, H, W]."""
        self.prompts += 1
        self.answers += len(found)
        self.clean += int(len(found) == 0)
        table = np.array([[iou(mask, real) for real in truth] for mask in found]).reshape(len(found), len(truth))
        best = np.zeros(len(truth))
        rows, columns = linear_sum_assignment(-table)
        best[columns] = table[rows, columns]
        self.ious += best.tolist()
        self.hits += int((best > 0.5).sum())


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 0 for two empty ones."""
    return float((first & second).sum() / max(int((first | second).sum()), 1))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A scene with its picture and what can be seen of its objects: masks [n, H, W], names, boxes in 0..1."""

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    names: list[tuple[str, str]]
    boxes: list[NDArray[np.float64]]
    rng: np.random.Generator


def held_out(index: int) -> HeldOut:
    """The index-th scene that no training run has seen, at a random size."""
    seed = FIRST_HELD_OUT_SCENE + index
    scene, rng = scenes.sample(seed), np.random.default_rng((seed, 2))
    width, height = source_size(scene, float(rng.uniform(*_SOURCE_SIDES)))
    image, coverages = drawing.render(scene, width, height)
    boxes = drawing.visible_boxes(coverages, np.array([drawing.whole_area(item) for item in scene.objects]))
    kept = [(place, box) for place, box in enumerate(boxes) if box is not None]
    items = [scene.objects[place] for place, _ in kept]
    return HeldOut(
        image,
        coverages[[place for place, _ in kept]] > 0.5,
        [(item.colour, item.shape) for item in items],
        [box for _, box in kept],
        rng,
    )


def evaluate(checkpoint: Path, count: int) -> dict[str, Score]:
    """Scores per kind of prompt over `count` held-out scenes."""
    roi_align.install()
    models = load_checkpoint(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
    table: dict[str, Score] = {}
    for index in range(count):
        scene = held_out(index)
        picture = Picture(scene.image, models)
        for name, found, truth in [*_text_answers(scene, picture), *_object_answers(scene, picture)]:
            table.setdefault(name, Score()).add(found, truth)
    return table


def _text_answers(scene: HeldOut, picture: Picture) -> list[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Each phrase's kind, answer and truth."""
    asked: list[tuple[str, str, list[int]]] = []
    everything = range(len(scene.names))
    if scene.names:
        asked.append(("text: everything", "shapes", list(everything)))
    for kind, colour, shape in _concepts(scene):
        fits = [p for p in everything if colour in (None, scene.names[p][0]) and shape in (None, scene.names[p][1])]
        asked.append((kind, f"{colour or ''} {shape or 'objects'}".strip(), fits))
    asked += [("absent", phrase, []) for phrase in _absent_phrases(scene)]
    asked.append(("unknown word", str(scene.rng.choice(UNKNOWN)), []))
    answers: list[Found] = picture.texts([phrase for _, phrase, _ in asked])
    return [(kind, found.masks, scene.masks[truth]) for (kind, _, truth), found in zip(asked, answers, strict=True)]


def _concepts(scene: HeldOut) -> list[tuple[str, str | None, str | None]]:
    """What to ask for: the kind's name, the colour and the shape; None means any."""
    pairs = sorted(set(scene.names))
    scene.rng.shuffle(pairs)
    concepts: list[tuple[str, str | None, str | None]] = []
    for colour, shape in pairs[:_PROMPTS_PER_KIND]:
        concepts.append(("text: colour and shape", colour, shape))
    for colour, shape in pairs[:1]:
        concepts += [("text: colour", colour, None), ("text: shape", None, shape)]
    return concepts


def _absent_phrases(scene: HeldOut) -> list[str]:
    """Colours and shapes that are there, in a pair that is not; and one pair at random."""
    seen = set(scene.names)
    colours = sorted({colour for colour, _ in seen}) or list(COLOUR_NAMES)
    shapes = sorted({shape for _, shape in seen}) or list(SHAPE_NAMES)
    near = [(colour, shape) for colour in colours for shape in SHAPE_NAMES if (colour, shape) not in seen]
    near += [(colour, shape) for colour in COLOUR_NAMES for shape in shapes if (colour, shape) not in seen]
    return [" ".join(near[int(place)]) for place in scene.rng.choice(len(near), 3, replace=False)]


def _object_answers(scene: HeldOut, picture: Picture) -> list[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Clicks, boxes, rough masks and box exemplars of some objects."""
    answers = []
    height, width = scene.image.shape[:2]
    chosen = scene.rng.permutation(len(scene.names))[:_OBJECTS_PER_SCENE]
    for place in chosen:
        mask, box = scene.masks[place], scene.boxes[place]
        ys, xs = np.nonzero(mask)
        at = int(scene.rng.integers(len(xs)))
        answers.append(("click", picture.click(float(xs[at]), float(ys[at]))[None], mask[None]))
        x0, y0, x1, y1 = (box * [width, height, width, height]).tolist()
        answers.append(("box", picture.boxed(x0, y0, x1, y1)[None], mask[None]))
        small = cv2.resize(
            mask.astype(np.uint8) * 255, (picture.mask_side, picture.mask_side), interpolation=cv2.INTER_AREA
        )
        answers.append(("rough mask", picture.masked(rough(small, scene.rng))[None], mask[None]))
    for place in chosen[:1]:
        box, name = scene.boxes[place], scene.names[place]
        shown = np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]).astype(np.float32)
        alike = [other for other in range(len(scene.names)) if scene.names[other] == name]
        answers.append(("all like a box", picture.like(shown).masks, scene.masks[alike]))
    return answers


def format_table(table: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| prompt | mean IoU | F1 | false masks per prompt | prompts |", "|---|---|---|---|---|"]
    for name, score in table.items():
        if score.ious:
            figures = f"{score.mean_iou:.3f} | {score.f1:.3f} | {score.false_masks:.2f}"
        else:
            figures = f"nothing found in {100.0 * score.clean_part:.0f} % | – | {score.false_masks:.2f}"
        lines.append(f"| {name} | {figures} | {score.prompts} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description="Measure the small SAM 3 checkpoint on held-out scenes.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = evaluate(chosen.checkpoint, chosen.scenes)
    if chosen.json:
        figures = {name: {"mean_iou": s.mean_iou, "f1": s.f1, "clean": s.clean_part} for name, s in table.items()}
        print(json.dumps(figures))
    else:
        print(format_table(table))


if __name__ == "__main__":
    main()
