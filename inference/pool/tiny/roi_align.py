"""RoIAlign without torchvision, for box exemplars."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional


def roi_align(features: torch.Tensor, boxes: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    """Average features in a size×size grid of bins for each box, differentiable.

    features [B, C, H, W]; boxes: one [N, 4] tensor per image, x0 y0 x1 y1 in feature cells. Returns [ΣN, C, size,
    size]. Equal to torchvision.ops.roi_align with aligned=False and sampling_ratio=-1 for boxes inside the picture.
    """
    height, width = features.shape[-2:]
    pooled = []
    for image, image_boxes in zip(features, boxes, strict=True):
        for x0, y0, x1, y1 in image_boxes.tolist():
            xs, per_bin_x = _samples(x0, x1, size, width, features)
            ys, per_bin_y = _samples(y0, y1, size, height, features)
            grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]
            sampled = functional.grid_sample(image[None], grid, align_corners=True, padding_mode="border")
            pooled.append(functional.avg_pool2d(sampled, (per_bin_y, per_bin_x)))
    return torch.cat(pooled) if pooled else features.new_zeros(0, features.shape[1], size, size)


def _samples(low: float, high: float, size: int, cells: int, like: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sampling positions along one axis in grid_sample's -1..1, and how many fall into each bin."""
    length = max(high - low, 1.0)
    per_bin = math.ceil(length / size)
    steps = (torch.arange(size * per_bin, device=like.device, dtype=like.dtype) + 0.5) / (size * per_bin)
    positions = (low + steps * length).clamp(0.0, cells - 1.0)
    return positions * (2.0 / max(cells - 1, 1)) - 1.0, per_bin
