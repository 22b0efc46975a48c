"""RoIAlign, which the detector needs for box exemplars, without torchvision.

The arithmetic is that of torchvision.ops.roi_align with aligned=False, spatial_scale=1 and sampling_ratio=-1
(He et al., "Mask R-CNN", 2017, section 3): each of size x size bins averages ceil(side / size) bilinear samples per
axis.
"""

import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3GeometryEncoder


def roi_align(features: Tensor, boxes: Sequence[Tensor], output_size: int) -> Tensor:
    """Pool `features` [B, C, H, W] inside `boxes` (per picture [N, 4], corners in feature pixels) to [B*N, C, s, s]."""
    corners = [picture_boxes.float().tolist() for picture_boxes in boxes]  # one transfer per picture
    pooled = [
        _pool(features[picture], box, output_size)
        for picture, picture_corners in enumerate(corners)
        for box in picture_corners
    ]
    return torch.stack(pooled) if pooled else features.new_zeros(0, features.shape[1], output_size, output_size)


def _pool(feature: Tensor, box: Sequence[float], size: int) -> Tensor:
    x_min, y_min, x_max, y_max = box
    channels, height, width = feature.shape
    exact = feature.float()
    low, high, fraction, inside = _samples(y_min, y_max, size, height, feature.device)
    rows = exact[:, low] * (1 - fraction)[:, None] + exact[:, high] * fraction[:, None]
    rows = rows * inside[:, None]
    low, high, fraction, inside = _samples(x_min, x_max, size, width, feature.device)
    samples = (rows[:, :, low] * (1 - fraction) + rows[:, :, high] * fraction) * inside
    bins = samples.reshape(channels, size, samples.shape[1] // size, size, samples.shape[2] // size)
    return bins.mean(dim=(2, 4)).to(feature.dtype)


def _samples(
    start: float, end: float, size: int, length: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis: lower and upper neighbour of each sample, the upper one's share, and 1 where it counts at all."""
    extent = max(end - start, 1.0)
    # The box of a whole picture asks for `length` samples; nothing larger is ever meant.
    per_bin = min(max(1, math.ceil(extent / size)), length)
    step = extent / (size * per_bin)
    position = start + (torch.arange(size * per_bin, device=device, dtype=torch.float32) + 0.5) * step
    inside = ((position >= -1.0) & (position <= length)).float()
    position = position.clamp(0, length - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=length - 1)
    return low, high, position - low, inside


def install() -> None:
    """Make the detector's classes use `roi_align`, also where torchvision exists: one behaviour on every machine."""
    # By the class's own module: transformers loads lazily, and importing the module by name may give a second copy.
    module = sys.modules[Sam3GeometryEncoder.__module__]
    module.torchvision = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))  # type: ignore[attr-defined]
