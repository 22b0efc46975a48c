"""The detector's loss: classes, boxes and presence in every layer, masks in the last one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from inference.pool.tiny.forward import Answers
from inference.pool.tiny.losses.masks import balanced, dice, mask_iou
from inference.pool.tiny.losses.matching import corners, generalised_iou, match

_SCORE_FLOOR = 0.4


@dataclass(frozen=True, slots=True)
class Pairs:
    """Matched (row, query, object) indices of one layer."""

    rows: torch.Tensor
    queries: torch.Tensor
    objects: torch.Tensor


def detection_loss(
    answers: Answers, targets: Sequence[NDArray[np.float32]]
) -> tuple[torch.Tensor, Pairs, dict[str, float]]:
    """Class, box and presence losses summed over layers, the last layer's pairs, and figures for the curve.

    targets: boxes cxcywh of the objects that each row should find, [n, 4].
    """
    present = torch.tensor([len(boxes) > 0 for boxes in targets], device=answers.logits.device)
    truth = torch.from_numpy(np.concatenate(targets)).to(answers.boxes.device)
    starts = torch.from_numpy(np.cumsum([0, *(len(boxes) for boxes in targets)])[:-1]).to(answers.boxes.device)
    count = max(len(truth), 1)
    total = answers.logits.new_zeros(())
    figures: dict[str, float] = {}
    for layer in range(len(answers.logits)):
        logits, boxes = answers.logits[layer], answers.boxes[layer]
        pairs = Pairs(*match(logits, boxes, targets))
        mine, wanted = boxes[pairs.rows, pairs.queries], truth[starts[pairs.rows] + pairs.objects]
        giou, iou = generalised_iou(corners(mine), corners(wanted))
        by_class = _class_loss(logits, pairs, iou.detach(), present) / count
        by_box = (5.0 * functional.l1_loss(mine, wanted, reduction="sum") + 2.0 * (1.0 - giou).sum()) / count
        by_presence = functional.binary_cross_entropy_with_logits(answers.presence[layer], present.float())
        total = total + 3.0 * by_class + by_box + 2.0 * by_presence
        figures = {
            "class": float(by_class.detach()),
            "box": float(by_box.detach()),
            "box_iou": float(iou.detach().mean()) if len(iou) else 0.0,
        }
    figures |= _scores(answers, pairs, present)
    return total, pairs, figures


def _class_loss(logits: torch.Tensor, pairs: Pairs, iou: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """BCE; a matched query's target grows with its box's quality, an unmatched one weighs as much as it errs."""
    p = logits.detach().sigmoid()
    matched = p[pairs.rows, pairs.queries]
    quality = matched.clamp(min=1e-3) ** 0.25 * iou.clamp(min=0.0) ** 0.75
    target = torch.zeros_like(logits)
    target[pairs.rows, pairs.queries] = _SCORE_FLOOR + (1.0 - _SCORE_FLOOR) * quality
    weight = p.clone()
    weight[pairs.rows, pairs.queries] = 1.0
    weight = weight * torch.where(present, 1.0, 0.5)[:, None]
    return (functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum()


def _scores(answers: Answers, pairs: Pairs, present: torch.Tensor) -> dict[str, float]:
    presence = answers.presence[-1].detach().sigmoid()
    scores = answers.logits[-1].detach().sigmoid() * presence[:, None]
    figures = {}
    if bool(present.any()):
        figures["presence_there"] = float(presence[present].mean())
        figures["score_matched"] = float(scores[pairs.rows, pairs.queries].mean())
    if not bool(present.all()):
        figures["presence_absent"] = float(presence[~present].mean())
    return figures


def mask_loss(
    mask_logits: torch.Tensor, union_logits: torch.Tensor, target: torch.Tensor, owner: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of matched masks [N, M, M] and of the rows' unions [K, M, M].

    target: soft masks [N, M, M]; owner: the row of each mask [N], 0..K-1.
    """
    flat, wanted = mask_logits.flatten(1), target.flatten(1)
    by_dice = dice(flat, wanted).mean()
    union = torch.zeros_like(union_logits).index_add(0, owner, target).clamp(max=1.0).flatten(1)
    by_union = dice(union_logits.flatten(1), union).mean() + balanced(union_logits.flatten(1), union).mean()
    figures = {"dice": float(by_dice.detach()), "mask_iou": float(mask_iou(flat, wanted).mean())}
    return 3.0 * by_dice + 2.0 * balanced(flat, wanted).mean() + by_union, figures
