"""Which query answers for which object: the assignment of least cost, as in DETR."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

FloatArray = NDArray[np.float32]


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """cxcywh to x0 y0 x1 y1, any leading shape."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def generalised_iou(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """GIoU and IoU of paired boxes x0 y0 x1 y1; leading shapes broadcast."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (first, second)]
    union = areas[0] + areas[1] - intersection
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    hull_area = hull.clamp(min=0).prod(-1)
    iou = intersection / union.clamp(min=1e-6)
    return iou - (hull_area - union) / hull_area.clamp(min=1e-6), iou


def match(
    logits: torch.Tensor, boxes: torch.Tensor, targets: Sequence[FloatArray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Assign queries to objects in every row. logits [R, Q]; boxes [R, Q, 4] cxcywh; targets: one [n, 4] per row.

    Returns row, query and object index of each pair. Cost: 2 focal + 5 L1 - 2 GIoU.
    """
    rows: list[int] = []
    queries: list[int] = []
    objects: list[int] = []
    boxes, p = boxes.detach(), logits.detach().sigmoid()
    focal = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
    for row, wanted in enumerate(targets):
        if len(wanted) == 0:
            continue
        truth = torch.from_numpy(wanted).to(boxes.device)
        giou, _ = generalised_iou(corners(boxes[row])[:, None], corners(truth)[None])
        cost = 2.0 * focal[row][:, None] + 5.0 * torch.cdist(boxes[row], truth, p=1) - 2.0 * giou
        found, named = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy(), nan=1e6))
        rows += [row] * len(found)
        queries += found.tolist()
        objects += named.tolist()
    return tuple(torch.tensor(index, dtype=torch.long, device=boxes.device) for index in (rows, queries, objects))
