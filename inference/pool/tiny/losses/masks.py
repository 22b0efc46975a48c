"""Losses of soft masks. Targets are covered parts of pixels, so that a mask's edge has a place between pixels."""

import torch
from torch.nn import functional


def balanced(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy per row, inside and outside of equal weight where both occur. [rows, n] to [rows].

    Plain averaging drives small objects' masks to empty for hundreds of steps. The weight belongs to the pixel, not
    to the class, so that a half-covered pixel's best answer remains one half and masks do not grow.
    """
    inside, outside = target.sum(-1, keepdim=True), (1.0 - target).sum(-1, keepdim=True)
    occurs = (inside >= 1.0).float()
    weight = occurs * target / inside.clamp(min=1.0) + (1.0 - target) / outside.clamp(min=1.0)
    raw = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (raw * weight).sum(-1) / (1.0 + occurs.squeeze(-1))


def dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - dice of soft masks per row, with squares below so that p = target is the optimum. [rows, n] to [rows]."""
    p = logits.sigmoid()
    return 1.0 - (2.0 * (p * target).sum(-1) + 1.0) / ((p * p).sum(-1) + (target * target).sum(-1) + 1.0)


def mask_iou(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Intersection over union of thresholded masks. [..., n] to [...]."""
    predicted, truth = logits > 0.0, target > 0.5
    union = (predicted | truth).sum(-1)
    return (predicted & truth).sum(-1) / union.clamp(min=1)
