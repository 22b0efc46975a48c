"""What an encoded picture is, told from its header: type, displayed size, and whether it is within bounds.

Nothing is decompressed here, so a small file that unpacks to gigabytes is refused for the price of a few hundred bytes.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from inference.avif_boxes import has_bounded_tables, is_avif
from inference.errors import InputRejected
from inference.task import Picture

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
}
PIXELS_MAX = 50_000_000
SIDE_PIXELS_MAX = 16_384
ASPECT_MAX = 200
HEADER_READS_MAX = 10_000

# Pillow's own bound only warns, and it is replaced by the stricter ones above.
Image.MAX_IMAGE_PIXELS = None
# Comments of a PNG are decompressed while it is opened; the default would let each take 64 MiB.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024
# One line for each odd entry, of which a hostile file has thousands. Bad metadata is not the operator's business.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """The opened, not yet decompressed picture; `width` and `height` are the displayed ones in pixels."""

    image: Image.Image
    format: str
    orientation: int
    width: int
    height: int


def open_header(data: bytes, *, field: str = "picture") -> PictureHeader:
    """Read the header of an encoded picture.

    Raises InputRejected for `field` if this is no JPEG, PNG, WebP, GIF or AVIF, or if it is too large: more than
    50 megapixels, a side over 16,384 pixels, or more than 200 times as long as wide.
    """
    if not data:
        raise InputRejected("The picture is empty.", field=field)
    file = _HeaderFile(data)
    try:
        if is_avif(data) and not has_bounded_tables(data):
            raise _EndlessHeader
        image = Image.open(file, formats=tuple(MEDIA_TYPES))
    except _EndlessHeader:
        raise InputRejected(
            "The picture's header is longer than any picture needs: save it again without metadata.", field=field
        ) from None
    except Exception as error:  # each of Pillow's readers has its own ways to fail on hostile bytes
        raise InputRejected(
            "This is not a picture that can be read: send JPEG, PNG, WebP, GIF or AVIF.", field=field
        ) from error
    file.reads_left = None
    width, height = image.size
    _check_size(width, height, field)
    orientation = _orientation(image)
    if orientation >= 5:  # quarter turns
        width, height = height, width
    return PictureHeader(image, str(image.format), orientation, width, height)


def inspect(data: bytes, *, field: str = "picture") -> Picture:
    """The picture with its displayed size and true media type, whatever its sender called it. Raises InputRejected."""
    header = open_header(data, field=field)
    return Picture(data=data, media_type=MEDIA_TYPES[header.format], width=header.width, height=header.height)


class _EndlessHeader(Exception):
    """The header is made to keep its reader busy."""


class _HeaderFile(io.BytesIO):
    """Bytes that may be read in so many pieces until `reads_left` is set to None, for the pixels.

    Headers are read by loops over their parts, and nothing else bounds how many parts there are: 15 MB of padding in a
    JPEG took six seconds.
    """

    reads_left: int | None = HEADER_READS_MAX

    def read(self, size: int | None = -1, /) -> bytes:
        if self.reads_left is not None:
            self.reads_left -= 1
            if self.reads_left < 0:
                raise _EndlessHeader
        return super().read(size)


def flatten(image: Image.Image) -> Image.Image:
    """RGB on white: transparency composited, 16 bits of grey reduced to 8, palettes and CMYK converted."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _check_size(width: int, height: int, field: str) -> None:
    if width < 1 or height < 1:
        raise InputRejected("The picture has no pixels.", field=field)
    if width * height > PIXELS_MAX:
        raise InputRejected(
            f"The picture has {width} x {height} pixels; at most {PIXELS_MAX // 1_000_000} megapixels are accepted.",
            field=field,
        )
    if max(width, height) > SIDE_PIXELS_MAX:
        raise InputRejected(f"A side of the picture is longer than {SIDE_PIXELS_MAX} pixels.", field=field)
    if max(width, height) > ASPECT_MAX * min(width, height):
        raise InputRejected(f"The picture is more than {ASPECT_MAX} times as long as wide.", field=field)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8. Only what stands before the pixels counts, so that the header suffices."""
    try:
        exif: Any = Image.Exif()
        exif.load(image.info.get("exif") or b"")
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # malformed metadata is no reason to refuse a picture that every viewer shows
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
