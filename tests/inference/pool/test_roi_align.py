"""RoIAlign against its definition, and against torchvision where that is installed."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.pool.backends.roi_align import roi_align

BOXES = [
    (0.0, 0.0, 20.0, 15.0),  # everything
    (3.2, 1.7, 11.9, 14.0),
    (5.0, 5.0, 5.3, 5.2),  # smaller than a pixel
    (18.5, 13.2, 20.0, 15.0),  # in the corner
    (0.0, 0.0, 1.0, 15.0),
]


def by_definition(feature: NDArray[np.float64], box: tuple[float, ...], size: int) -> NDArray[np.float64]:
    """Sample by sample: He et al. 2017, with torchvision's conventions for aligned=False, sampling_ratio=-1."""
    channels, height, width = feature.shape
    x_min, y_min, x_max, y_max = box
    bin_width, bin_height = max(x_max - x_min, 1.0) / size, max(y_max - y_min, 1.0) / size
    per_x, per_y = math.ceil(bin_width), math.ceil(bin_height)
    out = np.zeros((channels, size, size))
    for row in range(size):
        for column in range(size):
            for iy in range(per_y):
                for ix in range(per_x):
                    y = y_min + row * bin_height + (iy + 0.5) * bin_height / per_y
                    x = x_min + column * bin_width + (ix + 0.5) * bin_width / per_x
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    low_y, low_x = int(y), int(x)
                    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
                    fy, fx = y - low_y, x - low_x
                    out[:, row, column] += (
                        feature[:, low_y, low_x] * (1 - fy) * (1 - fx)
                        + feature[:, low_y, high_x] * (1 - fy) * fx
                        + feature[:, high_y, low_x] * fy * (1 - fx)
                        + feature[:, high_y, high_x] * fy * fx
                    ) / (per_x * per_y)
    return out


@pytest.mark.parametrize("size", [3, 7])
def test_it_is_the_average_of_bilinear_samples(size: int) -> None:
    features = torch.randn(2, 4, 15, 20, generator=torch.Generator().manual_seed(0))
    boxes = (torch.tensor(BOXES), torch.tensor(BOXES[::-1]))
    pooled = roi_align(features, boxes, size)
    assert pooled.shape == (10, 4, size, size)
    for i, box in enumerate(BOXES + BOXES[::-1]):
        expected = by_definition(features[i // 5].double().numpy(), box, size)
        assert np.abs(pooled[i].numpy() - expected).max() < 1e-4


def test_it_equals_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    features = torch.randn(1, 4, 15, 20)
    boxes = (torch.tensor(BOXES),)
    assert torch.allclose(roi_align(features, boxes, 7), torchvision.ops.roi_align(features, boxes, 7), atol=1e-4)


def test_no_box_is_no_row() -> None:
    assert roi_align(torch.zeros(1, 4, 5, 5), (torch.zeros(0, 4),), 3).shape == (0, 4, 3, 3)
