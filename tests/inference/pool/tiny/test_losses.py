"""The losses have their optimum where the truth is."""

import numpy as np
import torch

from inference.pool.tiny.losses.masks import balanced, dice, mask_iou
from inference.pool.tiny.losses.matching import corners, generalised_iou, match


def test_a_half_covered_pixel_wants_one_half() -> None:
    target = torch.tensor([[1.0] * 3 + [0.5] + [0.0] * 60])
    logits = torch.zeros_like(target).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(400):
        optimiser.zero_grad()
        (balanced(logits, target) + dice(logits, target)).sum().backward()
        optimiser.step()
    p = logits.detach().sigmoid()[0]
    assert abs(float(p[3]) - 0.5) < 0.05
    assert float(p[:3].min()) > 0.95
    assert float(p[4:].max()) < 0.05


def test_dice_and_iou_of_a_perfect_mask() -> None:
    target = torch.zeros(2, 100)
    target[0, :30] = 1.0
    logits = torch.where(target > 0.5, 20.0, -20.0)
    assert torch.allclose(dice(logits, target), torch.zeros(2), atol=1e-4)
    assert mask_iou(logits, target).tolist() == [1.0, 0.0]


def test_generalised_iou_of_known_boxes() -> None:
    first = corners(torch.tensor([0.5, 0.5, 1.0, 1.0]))
    half = corners(torch.tensor([0.25, 0.5, 0.5, 1.0]))
    giou, iou = generalised_iou(first, half)
    assert float(iou) == 0.5
    assert float(giou) == 0.5


def test_each_object_gets_the_query_whose_box_fits() -> None:
    boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]]])
    wanted = np.array([[0.8, 0.8, 0.12, 0.1], [0.2, 0.2, 0.1, 0.12]], dtype=np.float32)
    rows, queries, objects = match(torch.zeros(1, 3), boxes, [wanted])
    assert rows.tolist() == [0, 0]
    assert dict(zip(objects.tolist(), queries.tolist(), strict=True)) == {0: 1, 1: 0}
