"""Masks as data: run lengths, tight boxes, and the pictures drawn of them. Pure numpy and Pillow.

A `RegionMask` keeps only the part of the picture that its object touches, so that thirty small objects on a
12-megapixel picture cost thirty small bitmaps.
"""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.task import MaskStyle, PictureFormat

Bitmap = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

JPEG_QUALITY = 90
WEBP_QUALITY = 85

# Tints that stay apart for the colour-blind too: Okabe & Ito, "Color Universal Design" (2008).
_TINTS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_TINT_PERCENT = 55


@dataclass(frozen=True, slots=True)
class RegionMask:
    """The pixels of one object: `bitmap` [h, w] lies at (`left`, `top`) in a picture of `width` x `height` pixels."""

    bitmap: Bitmap
    left: int
    top: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Number of pixels that belong to the object."""
        return int(np.count_nonzero(self.bitmap))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x_min, y_min, x_max, y_max) in pixels, maxima exclusive; tight if the mask came from `tighten`."""
        height, width = self.bitmap.shape
        return (float(self.left), float(self.top), float(self.left + width), float(self.top + height))

    def full(self) -> Bitmap:
        """The mask over the whole picture, [height, width]."""
        whole = np.zeros((self.height, self.width), dtype=np.bool_)
        rows, columns = self.bitmap.shape
        whole[self.top : self.top + rows, self.left : self.left + columns] = self.bitmap
        return whole


def tighten(bitmap: Bitmap, *, left: int = 0, top: int = 0, width: int, height: int) -> RegionMask | None:
    """Cut a bitmap [h, w] that lies at (`left`, `top`) down to what is set; None if nothing is."""
    rows = np.flatnonzero(bitmap.any(axis=1))
    if not rows.size:
        return None
    first_row, last_row = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(bitmap[first_row:last_row].any(axis=0))
    first, last = int(columns[0]), int(columns[-1]) + 1
    return RegionMask(bitmap[first_row:last_row, first:last], left + first, top + first_row, width, height)


# --- run lengths ------------------------------------------------------------------------------------------------------


def _runs(mask: RegionMask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """0-based start and length of each run, row by row over the picture's whole width."""
    rows, columns = mask.bitmap.shape
    spans_width = columns == mask.width
    # An empty column behind each row keeps runs inside their row; where the bitmap is as wide as the picture, runs
    # do continue on the next row.
    stride = columns if spans_width else columns + 1
    flat = np.zeros(rows * stride + 2, dtype=np.bool_)
    flat[1:-1].reshape(rows, stride)[:, :columns] = mask.bitmap
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = changes[0::2], changes[1::2]
    row, column = np.divmod(starts, stride)
    return (row + mask.top) * mask.width + column + mask.left, ends - starts


def encode_rle(mask: RegionMask) -> str:
    """Text of "start length" pairs, start 1-based, row by row over the picture: the form fal answers with."""
    starts, lengths = _runs(mask)
    pairs = np.empty(2 * len(starts), dtype=np.int64)
    pairs[0::2], pairs[1::2] = starts + 1, lengths
    return " ".join(map(str, pairs.tolist()))


def decode_rle(text: str, width: int, height: int) -> Bitmap:
    """The bitmap [height, width] of `encode_rle`'s text. Raises ValueError unless runs ascend and stay inside."""
    if not re.fullmatch(r"[0-9 ]*", text):
        raise ValueError("run lengths are not whole numbers")
    numbers = np.array(text.split(), dtype=np.int64)
    if numbers.size % 2:
        raise ValueError("a run has no length")
    starts, lengths = numbers[0::2] - 1, numbers[1::2]
    ends = starts + lengths
    if numbers.size and ((starts < 0).any() or (lengths < 1).any() or int(ends[-1]) > width * height):
        raise ValueError("a run leaves the picture")
    if (starts[1:] < ends[:-1]).any():
        raise ValueError("runs overlap or are not in order")
    steps = np.zeros(width * height + 1, dtype=np.int8)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return np.cumsum(steps[:-1], dtype=np.int8).reshape(height, width).astype(np.bool_)


def encode_coco_rle(mask: RegionMask) -> str:
    """COCO's compressed run lengths ("counts") of the mask: column by column, starting with a run of zeros.

    Each count from the third on is stored as its difference to the count two before, in 5-bit groups, lowest first,
    with bit 6 for "more follows", offset by 48 (pycocotools, maskApi.c, rleToString).
    """
    turned = RegionMask(mask.bitmap.T, mask.top, mask.left, mask.height, mask.width)
    starts, lengths = _runs(turned)
    edges = np.zeros(2 * len(starts) + 2, dtype=np.int64)
    edges[1:-1:2], edges[2:-1:2] = starts, starts + lengths
    edges[-1] = mask.width * mask.height
    counts = np.diff(edges)
    if counts.size and counts[-1] == 0:
        counts = counts[:-1]
    deltas = counts.copy()
    deltas[3:] -= counts[1:-2]
    groups = np.zeros((len(deltas), 8), dtype=np.uint8)
    open_ = np.ones(len(deltas), dtype=np.bool_)
    for position in range(8):
        low = deltas & 0x1F
        deltas >>= 5
        more = np.where(low & 0x10, deltas != -1, deltas != 0)
        groups[open_, position] = (low + np.where(more, 0x20, 0) + 48)[open_]
        open_ = open_ & more
    return groups[groups > 0].tobytes().decode("ascii")


# --- pictures ---------------------------------------------------------------------------------------------------------


def fit_within(width: int, height: int, bounds: tuple[int, int] | None) -> tuple[int, int]:
    """The (width, height) that fills `bounds` as far as the aspect allows, at least 1 x 1; unchanged without bounds."""
    if bounds is None:
        return width, height
    scale = min(bounds[0] / width, bounds[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_pixels(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize [h, w, 3] to [height, width, 3], antialiased."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image)


def draw_mask(mask: RegionMask) -> Pixels:
    """8-bit greyscale [height, width], 255 where the object is."""
    return mask.full().view(np.uint8) * np.uint8(255)


def draw_cutout(mask: RegionMask, pixels: Pixels) -> Pixels:
    """RGBA [height, width, 4]: the object's pixels, everything else transparent black."""
    canvas = np.zeros((mask.height, mask.width, 4), dtype=np.uint8)
    rows, columns = mask.bitmap.shape
    window = np.s_[mask.top : mask.top + rows, mask.left : mask.left + columns]
    canvas[window][..., :3] = pixels[window] * mask.bitmap[..., None]
    canvas[window][..., 3] = mask.bitmap.view(np.uint8) * np.uint8(255)
    return canvas


def draw_overlay(mask: RegionMask, pixels: Pixels, *, index: int = 0) -> Pixels:
    """RGB [height, width, 3]: the picture with the object tinted; `index` picks the tint."""
    canvas = pixels.copy()
    rows, columns = mask.bitmap.shape
    window = canvas[mask.top : mask.top + rows, mask.left : mask.left + columns]
    levels = np.arange(256, dtype=np.uint16)
    for channel, tint in enumerate(_TINTS[index % len(_TINTS)]):
        table = ((levels * (100 - _TINT_PERCENT) + tint * _TINT_PERCENT) // 100).astype(np.uint8)
        plane = window[..., channel]
        np.copyto(plane, table[plane], where=mask.bitmap)
    return canvas


def draw(mask: RegionMask, style: MaskStyle, pixels: Pixels | None, *, index: int = 0) -> Pixels:
    """The mask in a style; `pixels` [height, width, 3] are needed for every style but MASK."""
    if style is MaskStyle.MASK:
        return draw_mask(mask)
    if pixels is None or pixels.shape[:2] != (mask.height, mask.width):
        raise ValueError(f"{style} needs the picture at the mask's size")
    return draw_cutout(mask, pixels) if style is MaskStyle.CUTOUT else draw_overlay(mask, pixels, index=index)


def encode_picture(canvas: Pixels, form: PictureFormat) -> bytes:
    """Encode greyscale [h, w], RGB [h, w, 3] or RGBA [h, w, 4]. JPEG has no transparency: it shows white there."""
    if form is PictureFormat.PNG and canvas.ndim == 2:
        return _encode_grey_png(canvas)
    out = io.BytesIO()
    if form is PictureFormat.PNG:
        Image.fromarray(canvas).save(out, "PNG", compress_level=1)
    elif form is PictureFormat.JPEG:
        if canvas.ndim == 3 and canvas.shape[2] == 4:
            canvas = np.where(canvas[..., 3:] > 0, canvas[..., :3], np.uint8(255))
        Image.fromarray(canvas).save(out, "JPEG", quality=JPEG_QUALITY)
    elif canvas.ndim == 2:
        Image.fromarray(canvas).convert("RGB").save(out, "WEBP", lossless=True, quality=0, method=0)
    else:
        Image.fromarray(canvas).save(out, "WEBP", quality=WEBP_QUALITY, method=0)
    return out.getvalue()


def _encode_grey_png(canvas: Pixels) -> bytes:
    """8-bit greyscale PNG without row filters: masks are flat, so filtering costs time and saves nothing."""
    height, width = canvas.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # each row starts with its filter type, 0
    rows[:, 1:] = canvas
    chunks: Sequence[tuple[bytes, bytes]] = (
        (b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.data, level=1)),
        (b"IEND", b""),
    )
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        parts += [struct.pack("!I", len(data)), name, data, struct.pack("!I", zlib.crc32(data, zlib.crc32(name)))]
    return b"".join(parts)
