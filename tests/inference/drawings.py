"""Pictures for tests."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.task import Picture


def shapes(width: int = 320, height: int = 240, *, seed: int = 0) -> Image.Image:
    """A white page with a few coloured discs and rectangles, different for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(image)
    for colour in ("red", "blue", "green", "orange"):
        x, y = rng.uniform(0.1, 0.6, 2) * (width, height)
        corners = (x, y, x + width * rng.uniform(0.15, 0.35), y + height * rng.uniform(0.15, 0.35))
        if rng.random() < 0.5:
            canvas.ellipse(corners, fill=colour)
        else:
            canvas.rectangle(corners, fill=colour)
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The file's bytes."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture(image: Image.Image | None = None, form: str = "PNG", **options: Any) -> Picture:
    """The picture as a task carries it."""
    image = image or shapes()
    width, height = image.size
    return Picture(data=encoded(image, form, **options), media_type=f"image/{form.lower()}", width=width, height=height)


def pixels(data: bytes) -> NDArray[np.uint8]:
    """What any viewer decodes."""
    return np.asarray(Image.open(io.BytesIO(data)))
