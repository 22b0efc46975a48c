"""Small pictures for tests, made in code."""

import base64
import io
from typing import Any

from PIL import Image


def picture(width: int = 64, height: int = 48, *, format: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:  # noqa: A002
    """An encoded picture of one colour."""
    out = io.BytesIO()
    Image.new(mode, (width, height), 128).save(out, format, **options)
    return out.getvalue()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    """The picture as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
