"""Encoded pictures to pixels: orientation, colour models, alpha and animation resolved, damage refused."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageChops

from inference.errors import InputRejected
from inference.pictures import PictureHeader, flatten, open_header
from inference.task import MaskSelects

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB


def decode_pixels(data: bytes, *, side_min: int | None = None, field: str = "picture") -> Pixels:
    """Decode to RGB as displayed: [height, width, 3].

    The first frame of an animation; alpha composited on white; 16 bits per channel reduced to 8; CMYK and palettes
    converted; EXIF orientation applied. With `side_min` a JPEG may come back scaled down by the decoder to no less
    than that many pixels on each side, which costs a fraction.

    Raises InputRejected for `field`, also when the file is truncated.
    """
    header = open_header(data, field=field)
    pixels = _decode_jpeg(data, side_min) if header.format == "JPEG" and header.image.mode != "CMYK" else None
    if pixels is None:
        pixels = _decode_any(header, field)
    return _orient(pixels, header.orientation)


def decode_mask_prompt(data: bytes, side: int, selects: MaskSelects) -> NDArray[np.bool_]:
    """A mask prompt, squashed to [side, side]: True on the part that it selects.

    Raises InputRejected for the field "mask".
    """
    header = open_header(data, field="mask")
    image = _load(header, "mask")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is None or alpha.getextrema() == (255, 255):  # nothing is transparent, so the colours must be the mask
        grey = flatten(image).convert("L")
    else:
        grey = ImageChops.invert(alpha) if selects is MaskSelects.TRANSPARENT else alpha
    turned = _orient(np.asarray(grey)[:, :, None], header.orientation)[:, :, 0]
    small = Image.fromarray(turned).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small) >= 128


def _decode_jpeg(data: bytes, side_min: int | None) -> Pixels | None:
    """By libjpeg-turbo directly, several times faster; None if it finds anything at all to complain about."""
    least = side_min or 0
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=least, min_width=least, min_factor=2 if least else 1
        )
    except ValueError:
        return None
    return pixels


def _load(header: PictureHeader, field: str) -> Image.Image:
    try:
        header.image.load()
    except Exception as error:  # each of Pillow's readers has its own ways to fail on hostile bytes
        raise InputRejected(
            f"The {field} is truncated or damaged: its header is a {header.format} header, the rest cannot be decoded.",
            field=field,
        ) from error
    return header.image


def _decode_any(header: PictureHeader, field: str) -> Pixels:
    return np.array(flatten(_load(header, field)))  # a copy: torch does not take the read-only view


def _orient(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels as EXIF orientation (1 to 8) says they are to be displayed."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
