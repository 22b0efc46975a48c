"""From the model's answers to the masks of a result: matching, removal, order and cut (rules 4 and 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.pool.backend import Candidate, Logits
from inference.pool.prompts import Plan, VisualObject

INHERIT_IOU = 0.5  # an instance that overlaps an object's mask by more belongs to that object
SAME_IOU = 0.8  # and by more than this is the very same


@dataclass(slots=True, eq=False)
class Chosen:
    """A mask that goes into the result, at the model's resolution."""

    logits: Logits
    score: float
    object_id: int | None = None


def compose(
    plan: Plan, tracked: Sequence[Candidate], found: Sequence[Sequence[Candidate]], max_masks: int
) -> list[Chosen]:
    """Join the tracker's mask of each object of `plan` and the detector's instances of each concept.

    Objects come first, in the order given, each followed by the instances that belong to it; then the other instances,
    best first. Empty masks are left out.
    """
    instances = _merge_concepts(found)
    instances = [chosen for chosen in instances if not _contains_any(chosen.logits, plan.excluded)]
    chosen: list[Chosen] = []
    for visual, candidate in zip(plan.objects, tracked, strict=True):
        own = Chosen(candidate.logits, candidate.score, visual.object_id)
        belonging: list[Chosen] = []
        others: list[Chosen] = []
        best_same = 0.0
        for instance in instances:
            overlap = iou(own.logits, instance.logits)
            if overlap > SAME_IOU:
                own.score = max(best_same, instance.score)
                best_same = own.score
            elif overlap > INHERIT_IOU or _is_clicked(visual, instance.logits):
                instance.object_id = visual.object_id
                belonging.append(instance)
            else:
                others.append(instance)
        instances = others
        chosen += [own, *belonging]
    chosen += instances
    return [mask for mask in chosen if (mask.logits > 0).any()][:max_masks]


def iou(one: Logits, other: Logits) -> float:
    """Intersection over union of two masks given as logits; 0 if both are empty."""
    first, second = one > 0, other > 0
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def _merge_concepts(found: Sequence[Sequence[Candidate]]) -> list[Chosen]:
    """Instances of all concepts, best first. What two phrases both found ("circle, red circle") is listed once."""
    ranked = sorted(
        ((candidate, place) for place, concept in enumerate(found) for candidate in concept),
        key=lambda pair: -pair[0].score,
    )
    kept: list[tuple[Candidate, int]] = []
    for candidate, place in ranked:
        if not any(
            place != other_place and iou(candidate.logits, other.logits) > SAME_IOU for other, other_place in kept
        ):
            kept.append((candidate, place))
    return [Chosen(candidate.logits, candidate.score) for candidate, _ in kept]


def _is_clicked(visual: VisualObject, logits: Logits) -> bool:
    return _contains_any(logits, [(x, y) for x, y, positive in visual.points if positive])


def _contains_any(logits: Logits, points: Sequence[tuple[float, float]]) -> bool:
    rows, columns = logits.shape
    return any(logits[min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)] > 0 for x, y in points)


def dense_prompt(mask: NDArray[np.bool_]) -> Logits:
    """Logits for a mask prompt [side, side]: certain, but not so much that clicks could not correct it."""
    return np.where(mask, np.float32(10), np.float32(-10)).astype(np.float32)
