"""One training step of the tracker: clicks, boxes and rough masks of single objects on the frozen backbone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import Sam3TrackerModel

from inference.pool.tiny.examples import Example
from inference.pool.tiny.initialisation import rescale_tracker_neck
from inference.pool.tiny.losses.masks import balanced, dice, mask_iou
from inference.pool.tiny.models import Models
from inference.pool.tiny.prompts import jittered
from inference.pool.tiny.schedule import Phase
from inference.pool.tiny.stages import ParameterGroups, backbone_map, pixel_batch

_OBJECTS_PER_KIND = 4
_KINDS = ("point", "box", "points", "mask")
_KIND_PARTS = (0.5, 0.3, 0.12, 0.08)
_BACKGROUND_PART = 0.06
_GUESSES_PART = 0.35
_PIXEL = 2.0  # of the model per mask pixel


@dataclass(frozen=True, slots=True)
class Asked:
    """One object and the prompt for it. points [n, 2] and box [4] in model pixels; a miss has an empty target."""

    image: int
    target: NDArray[np.uint8]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: NDArray[np.float32]
    mask: NDArray[np.float32]


class TrackerStage:
    """Each step asks two kinds of prompts about four objects of each of eight pictures."""

    batch_size = 8

    def __init__(self, models: Models, phase: Phase) -> None:
        """Train all of `models.tracker` but the backbone."""
        self._models, self._phase = models, phase

    def begin(self, examples: Sequence[Example]) -> None:
        """See `Stage`."""
        if self._phase.rescale_neck:
            pixels = pixel_batch(examples, self._models.device)
            rescale_tracker_neck(self._models.tracker, backbone_map(self._models, pixels, trained=False))

    def parameter_groups(self) -> ParameterGroups:
        """See `Stage`."""
        backbone = {id(parameter) for parameter in self._models.backbone.parameters()}
        return [(1.0, [p for p in self._models.tracker.parameters() if id(p) not in backbone])]

    def loss(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Stage`."""
        models = self._models
        vision = backbone_map(models, pixel_batch(examples, models.device), trained=False)
        embeddings = image_embeddings(models.tracker, vision)
        total = vision.new_zeros(())
        figures: dict[str, float] = {}
        for kind in rng.choice(_KINDS, 2, replace=False, p=_KIND_PARTS):
            asked = [
                ask(example, index, str(kind), rng)
                for index, example in enumerate(examples)
                if len(example.boxes)
                for _ in range(_OBJECTS_PER_KIND)
            ]
            if not asked:
                continue
            # A single mask that wavers is replaced by the best of three: these have to know all kinds of prompts too.
            guesses = kind == "point" or rng.random() < _GUESSES_PART
            loss, iou = self._answer(embeddings, asked, str(kind), guesses=guesses)
            total = total + loss
            figures[f"iou_{kind}"] = iou
        return total, figures

    def _answer(
        self, embeddings: Sequence[torch.Tensor], asked: Sequence[Asked], kind: str, *, guesses: bool
    ) -> tuple[torch.Tensor, float]:
        """Loss over one kind's rows and the mean IoU of the answers that a user would get."""
        device = self._models.device
        images = torch.tensor([item.image for item in asked], device=device)
        output = self._models.tracker(
            image_embeddings=[level[images] for level in embeddings],
            multimask_output=guesses,
            **prompt_arguments(asked, kind, device),
        )
        masks = output.pred_masks[:, 0].flatten(2)
        target = torch.from_numpy(np.stack([item.target for item in asked])).to(device).float().flatten(1) / 255.0
        hit = target.sum(-1) > 0.0
        wanted = target[:, None].expand_as(masks)
        shape = masks.shape[:2]
        flat, flat_wanted = masks.flatten(0, 1), wanted.flatten(0, 1)
        each = (dice(flat, flat_wanted) * 2.0 + balanced(flat, flat_wanted) * 2.0).view(shape)
        real = mask_iou(masks, wanted)
        predicted = output.iou_scores[:, 0]
        by_iou = ((predicted - real) ** 2).mean(-1)
        # Three guesses for one click: only the best learns, and a little of the mean so that none of them dies.
        by_mask = each.min(dim=-1).values + 0.1 * each.mean(dim=-1) if each.shape[1] > 1 else each[:, 0]
        by_object = functional.binary_cross_entropy_with_logits(output.object_score_logits[:, 0, 0], hit.float())
        used = hit.float()
        total = ((by_mask + by_iou) * used).sum() / used.sum().clamp(min=1.0) + 0.5 * by_object
        best = real.gather(1, predicted.argmax(dim=1, keepdim=True))[:, 0]
        return total, float((best * used).sum() / used.sum().clamp(min=1.0))


def image_embeddings(tracker: Sam3TrackerModel, vision: torch.Tensor) -> list[torch.Tensor]:
    """The tracker's three feature levels from the backbone's output [B, C, H, W].

    The no-memory term belongs to the third level, as in Meta's code; the class of transformers 5.23 adds it to a
    level that it then drops.
    """
    levels, _ = tracker.vision_encoder.neck(vision)
    decoder = tracker.mask_decoder
    return [
        decoder.conv_s0(levels[0]),
        decoder.conv_s1(levels[1]),
        levels[2] + tracker.no_memory_embedding.view(1, -1, 1, 1),
    ]


def prompt_arguments(asked: Sequence[Asked], kind: str, device: torch.device) -> dict[str, torch.Tensor]:
    """The tracker's keyword arguments for prompts of one kind, one object per row."""
    if kind == "box":
        return {"input_boxes": torch.from_numpy(np.stack([item.box for item in asked]))[:, None].to(device)}
    if kind == "mask":
        return {"input_masks": torch.from_numpy(np.stack([item.mask for item in asked]))[:, None].to(device)}
    return {
        "input_points": torch.from_numpy(np.stack([item.points for item in asked]))[:, None].to(device),
        "input_labels": torch.from_numpy(np.stack([item.labels for item in asked]))[:, None].to(device),
    }


def ask(example: Example, image: int, kind: str, rng: np.random.Generator) -> Asked:
    """A prompt of one kind about a random object; a few single clicks go to the background and mean nothing."""
    chosen = int(rng.integers(len(example.boxes)))
    target = example.masks[chosen]
    points = inside_points(target, rng, 2 if kind == "points" else 1)
    labels = np.ones(len(points), dtype=np.int64)
    if kind == "points":
        points = np.concatenate([points, _outside_point(target, rng)])
        labels = np.array([1, 1, 0], dtype=np.int64)
    elif kind == "point" and rng.random() < _BACKGROUND_PART:
        everything = example.masks.max(axis=0)
        if everything.min() == 0:
            points, target = _outside_point(everything, rng), np.zeros_like(target)
    box = jittered(rng, example.boxes[chosen]) if rng.random() < 0.7 else example.boxes[chosen]
    corners = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) * example.pixels.shape[-1]
    return Asked(image, target, points, labels, corners.astype(np.float32), rough(target, rng))


def inside_points(mask: NDArray[np.uint8], rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Random places on an object, [count, 2] x y in model pixels, 0 at the picture's edge.

    The class adds half a pixel to every coordinate; serving passes scaled coordinates as they are, and so does this.
    """
    ys, xs = np.nonzero(mask >= min(200, int(mask.max())))
    picked = rng.integers(0, len(xs), count)
    places = np.stack([xs[picked], ys[picked]], axis=1) + rng.uniform(0.1, 0.9, (count, 2))
    return (places * _PIXEL).astype(np.float32)


def _outside_point(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    return inside_points(255 - mask, rng, 1)


def rough(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """A careless person's version of a mask, as logits ±10: shifted, grown or shrunk."""
    size = int(rng.integers(1, 4))
    kernel = np.ones((size, size), dtype=np.uint8)
    shape = (mask > 127).astype(np.uint8)
    worn = cv2.dilate(shape, kernel) if rng.random() < 0.6 else cv2.erode(shape, kernel)
    reach = 0.06 * math.sqrt(float(shape.sum()))
    shift = np.round(rng.uniform(-reach, reach, 2)).astype(int)
    moved = np.roll(worn if worn.any() else shape, (int(shift[0]), int(shift[1])), axis=(0, 1))
    return np.where(moved > 0, 10.0, -10.0).astype(np.float32)
