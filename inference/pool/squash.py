"""Resize a picture to the square that the model was trained on, as `Sam3ImageProcessor` does, without torchvision."""

import numpy as np
import torch
from numpy.typing import NDArray


def squash(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """[h, w, 3] to [side, side, 3], bilinear with antialiasing on uint8, the aspect given up.

    Keeps the channels-last strides, on which torch's uint8 kernel is several times faster.
    """
    channels_last = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(channels_last, (side, side), mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())
