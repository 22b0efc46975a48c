"""Masks at the model's resolution to masks at the customer's: enlarged inside their box, run lengths, pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference import masks
from inference.masks import RegionMask
from inference.pool.backend import Logits
from inference.pool.composition import Chosen
from inference.pool.pictures import Pixels
from inference.task import Mask, MaskStyle, Rendering


def needs_pixels(rendering: Rendering) -> bool:
    """Whether the result's pictures show the customer's picture."""
    return rendering.max_pictures > 0 and rendering.style is not MaskStyle.MASK


def enlarge(logits: Logits, width: int, height: int) -> RegionMask | None:
    """The mask of a picture of `width` x `height` pixels; None if it has no pixel.

    Logits are interpolated bilinearly (sample positions at pixel centres, edges repeated) and cut at zero, as Meta's
    processor does, but only where a mask pixel is possible.
    """
    side_y, side_x = logits.shape
    positive = logits > 0
    rows, columns = np.flatnonzero(positive.any(axis=1)), np.flatnonzero(positive.any(axis=0))
    if not rows.size:
        return None
    top, bottom = _reach(int(rows[0]), int(rows[-1]), side_y, height)
    left, right = _reach(int(columns[0]), int(columns[-1]), side_x, width)

    low, high, share = _neighbours(left, right, width, side_x)
    stretched = logits[:, low] + (logits[:, high] - logits[:, low]) * share
    low, high, share = _neighbours(top, bottom, height, side_y)
    bitmap = np.empty((bottom - top, right - left), dtype=np.bool_)
    # Rows between the same two source rows are done together. Where those two agree, so does all that lies between.
    starts = np.flatnonzero(np.diff(low, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(low)], strict=True):
        upper, lower = stretched[low[start]], stretched[high[start]]
        band = bitmap[start:end]
        band[:] = upper > 0
        mixed = np.flatnonzero((upper > 0) != (lower > 0))
        if mixed.size:
            rise = (lower - upper)[mixed]
            band[:, mixed] = upper[mixed] + rise * share[start:end, None] > 0
    return masks.tighten(bitmap, left=left, top=top, width=width, height=height)


def _reach(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    """Target pixels, first and one past the last, that a positive source pixel between `first` and `last` can reach."""
    start = int(np.floor((first - 0.5) * length / side - 0.5))
    end = int(np.ceil((last + 1.5) * length / side - 0.5)) + 1
    return max(0, start), min(length, end)


def _neighbours(
    start: int, end: int, length: int, side: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For target pixels `start` to `end` of `length`: the two source pixels of `side` and the second one's share."""
    position = (np.arange(start, end, dtype=np.float32) + np.float32(0.5)) * np.float32(side / length)
    position = np.clip(position - np.float32(0.5), 0, side - 1)
    low = position.astype(np.intp)
    return low, np.minimum(low + 1, side - 1), position - low


def render(
    chosen: Sequence[Chosen], *, width: int, height: int, rendering: Rendering, pixels: Pixels | None
) -> tuple[Mask, ...]:
    """Masks of the result at `width` x `height`, the first `rendering.max_pictures` of them drawn.

    `pixels` is the picture at any size and is needed unless the style is MASK. A mask too thin to cover one pixel is
    left out.
    """
    canvas = None if pixels is None else masks.resize_pixels(pixels, width, height)
    rendered: list[Mask] = []
    for item in chosen:
        region = enlarge(item.logits, width, height)
        if region is None:
            continue
        picture = None
        if len(rendered) < rendering.max_pictures:
            drawn = masks.draw(region, rendering.style, canvas, index=len(rendered))
            picture = masks.encode_picture(drawn, rendering.format)
        rendered.append(
            Mask(
                rle=masks.encode_rle(region),
                score=item.score,
                box=region.box,
                object_id=item.object_id,
                picture=picture,
            )
        )
    return tuple(rendered)
