"""From what an upstream finds to what the customer asked for: masks at the right size, run lengths, boxes, pictures.

Upstreams are asked for bare masks and the pictures are drawn here, so that a style, a format or a size that one of them
does not know is no loss. All but `upright` computes: call it in a thread.
"""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from inference import masks
from inference.errors import InputRejected, ProviderFailed
from inference.masks import Bitmap, Pixels
from inference.pictures import PIXELS_MAX, SIDE_PIXELS_MAX, PictureHeader, flatten, open_header
from inference.task import Mask, MaskStyle, Picture, Rendering, SegmentResult, SegmentTask

UPRIGHT_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Found:
    """One object as an upstream found it: a bitmap [height, width] of the task's picture."""

    bitmap: Bitmap
    score: float | None
    object_id: int | None = None


def result_size(width: int, height: int, rendering: Rendering) -> tuple[int, int]:
    """The (width, height) that masks and pictures come back at. Raises InputRejected("size") if that is too large."""
    bounds = rendering.fit_within
    if bounds is not None and not (1 <= bounds[0] <= SIDE_PIXELS_MAX and 1 <= bounds[1] <= SIDE_PIXELS_MAX):
        raise InputRejected(f"The size must lie between 1x1 and {SIDE_PIXELS_MAX}x{SIDE_PIXELS_MAX}.", field="size")
    fitted = masks.fit_within(width, height, bounds)
    if fitted[0] * fitted[1] > PIXELS_MAX:
        raise InputRejected(f"The size must not exceed {PIXELS_MAX // 1_000_000} megapixels.", field="size")
    return fitted


def render(found: Sequence[Found], task: SegmentTask) -> SegmentResult:
    """The result of `task`: best first where there are scores, below the threshold or without a pixel left out.

    Raises InputRejected where the picture is damaged or the size too large.
    """
    picture, rendering = task.picture, task.rendering
    width, height = result_size(picture.width, picture.height, rendering)
    kept = [item for item in found if item.score is None or item.score >= task.threshold]
    kept.sort(key=lambda item: -(item.score or 0.0))
    pixels: Pixels | None = None
    if kept and rendering.max_pictures and rendering.style is not MaskStyle.MASK:
        pixels = masks.resize_pixels(np.asarray(flatten(_upright_image(open_header(picture.data)))), width, height)
    rendered: list[Mask] = []
    for item in kept:
        region = masks.tighten(_resized(item.bitmap, width, height), width=width, height=height)
        if region is None or len(rendered) == task.max_masks:
            continue
        drawn = None
        if len(rendered) < rendering.max_pictures:
            canvas = masks.draw(region, rendering.style, pixels, index=len(rendered))
            drawn = masks.encode_picture(canvas, rendering.format)
        rendered.append(
            Mask(
                rle=masks.encode_rle(region), score=item.score, box=region.box, object_id=item.object_id, picture=drawn
            )
        )
    return SegmentResult(masks=tuple(rendered), width=width, height=height)


def read_mask(data: bytes, picture: Picture, provider: str) -> Bitmap:
    """The bitmap [height, width] of a mask picture: its opaque part, or without transparency what is brighter than
    half. Raises ProviderFailed unless it is a picture of the same size as `picture`.
    """
    try:
        image = open_header(data).image
        if image.size == (picture.width, picture.height):
            image.load()
            alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
            if alpha is None or alpha.getextrema() == (255, 255):
                alpha = flatten(image).convert("L")
            return np.asarray(alpha) >= 128
    except Exception as error:  # each of Pillow's readers has its own ways to fail on hostile bytes
        raise ProviderFailed(f"{provider} answered with a mask that is no picture.") from error
    raise ProviderFailed(
        f"{provider} answered with a mask of {image.width}x{image.height} pixels for a picture of "
        f"{picture.width}x{picture.height}."
    )


def read_rle(text: str, picture: Picture, provider: str) -> Bitmap:
    """The bitmap [height, width] of run lengths over `picture`. Raises ProviderFailed where they do not fit it."""
    try:
        return masks.decode_rle(" ".join(text.split()), picture.width, picture.height)
    except (ValueError, OverflowError) as error:
        raise ProviderFailed(f"{provider} answered with run lengths that do not fit the picture.") from error


async def upright(picture: Picture) -> Picture:
    """The picture with its EXIF orientation applied to the pixels, for upstreams that may not look at it.

    Unchanged, byte for byte, where nothing has to be turned. Raises InputRejected where it is damaged.
    """
    header = open_header(picture.data)
    return picture if header.orientation == 1 else await asyncio.to_thread(_turned, picture, header)


def _turned(picture: Picture, header: PictureHeader) -> Picture:
    image = flatten(_upright_image(header))
    out = io.BytesIO()
    if header.format == "JPEG":
        image.save(out, "JPEG", quality=UPRIGHT_JPEG_QUALITY)
    else:
        image.save(out, "PNG", compress_level=1)
    media_type = "image/jpeg" if header.format == "JPEG" else "image/png"
    return Picture(data=out.getvalue(), media_type=media_type, width=picture.width, height=picture.height)


def _upright_image(header: PictureHeader) -> Image.Image:
    try:
        header.image.load()
        return ImageOps.exif_transpose(header.image)
    except Exception as error:  # as above
        raise InputRejected("The picture is truncated or damaged.", field="picture") from error


def _resized(bitmap: Bitmap, width: int, height: int) -> Bitmap:
    if bitmap.shape == (height, width):
        return bitmap
    grey = Image.fromarray(bitmap.view(np.uint8) * np.uint8(255)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(grey) >= 128
