"""Headers made to keep their reader busy, or to fill its memory, are refused for little."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import psutil
import pytest
from PIL import Image

from inference.errors import InputRejected
from inference.pictures import inspect

MANY = 500_000
MEMORY_BYTES_MAX = 32 * 1024 * 1024  # without bounds it is up to half a gigabyte, and up to eight seconds


def _encoded(form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (10, 200, 30)).save(out, form, **options)
    return out.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    return found


def _png_with(chunks: bytes) -> bytes:
    data = _encoded("PNG")
    return data[:33] + chunks + data[33:]


def _jpeg_with(segments: bytes) -> bytes:
    data = _encoded("JPEG")
    return data[:2] + segments + data[2:]


def _gif_with(blocks: bytes) -> bytes:
    data = _encoded("GIF")
    at = 13 + 3 * (2 << (data[10] & 7))
    return data[:at] + blocks + data[at:]


def _avif_with(change: Callable[[bytes, bytes], bytes]) -> bytes:
    """A still AVIF whose boxes inside `meta` went through `change`."""
    boxes = _boxes(_encoded("AVIF"))
    meta = dict(boxes)[b"meta"]
    changed = meta[:4] + b"".join(_box(name, change(name, content)) for name, content in _boxes(meta[4:]))
    return b"".join(_box(name, changed if name == b"meta" else content) for name, content in boxes)


def _many_items(name: bytes, content: bytes) -> bytes:
    if name != b"iloc":
        return content
    (count,) = struct.unpack_from(">H", content, 6)
    extra = b"".join(struct.pack(">HHH", number + 100, 0, 0) for number in range(60_000))
    return content[:6] + struct.pack(">H", count + 60_000) + content[8:] + extra


def _many_properties(name: bytes, content: bytes) -> bytes:
    if name != b"iprp":
        return content
    return b"".join(
        _box(kind, inner + _box(b"free", b"") * 2 * MANY * (kind == b"ipco")) for kind, inner in _boxes(content)
    )


def _many_frames() -> bytes:
    data = bytearray(_encoded("AVIF", save_all=True, append_images=[Image.new("RGB", (64, 48))]))
    frames = struct.pack(">I", 2_500_000)
    for name, at in ((b"stsc", 16), (b"stsz", 12), (b"stts", 12)):
        data[data.find(name) + at : data.find(name) + at + 4] = frames
    data[data.find(b"stsz") + 8 : data.find(b"stsz") + 12] = struct.pack(">I", 1)
    return bytes(data) + bytes(2_600_000)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG of comments": lambda: _png_with(_chunk(b"tEXt", b"k\0v") * MANY),
    "PNG of packed comments": lambda: _png_with(_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20))) * 60),
    "JPEG of segments": lambda: _jpeg_with(_segment(0xEF, b"x") * MANY),
    "JPEG of padding": lambda: _jpeg_with(b"\xff" * 10_000_000),
    "JPEG of junk": lambda: _jpeg_with(b"j" * 10_000_000),
    "GIF of comments": lambda: _gif_with(b"\x21\xfe\x01c\x00" * MANY),
    "GIF of junk": lambda: _gif_with(b"j" * 10_000_000),
    "AVIF of items": lambda: _avif_with(_many_items),
    "AVIF of properties": lambda: _avif_with(_many_properties),
    "AVIF of frames": _many_frames,
    "AVIF of boxes": lambda: _encoded("AVIF") + _box(b"free", b"") * MANY,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_header_that_goes_on_and_on_is_refused_for_little(kind: str) -> None:
    data = HOSTILE[kind]()
    memory = psutil.Process().memory_info().rss
    with pytest.raises(InputRejected, match=r"longer than any picture needs|can be read") as refusal:
        inspect(data, field="image")
    assert refusal.value.field == "image"
    assert psutil.Process().memory_info().rss - memory < MEMORY_BYTES_MAX


def test_ordinary_metadata_passes() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description" * 100
    profile = bytes(300_000)
    assert inspect(_encoded("JPEG", exif=exif, icc_profile=profile, comment=b"c" * 60_000)).width == 64
    assert inspect(_encoded("AVIF", exif=exif, icc_profile=profile)).width == 64
    assert inspect(_encoded("WEBP", exif=exif, icc_profile=profile)).width == 64
    assert inspect(_png_with(_chunk(b"tEXt", b"k\0" + b"v" * 500_000))).width == 64
    assert inspect(_gif_with(b"\x21\xfe" + (b"\xff" + b"c" * 255) * 200 + b"\0")).width == 64


@pytest.mark.parametrize("form", ["AVIF", "GIF", "WEBP"])
def test_an_animation_of_a_few_seconds_passes(form: str) -> None:
    frames = [Image.new("RGB", (64, 48), (shade, 0, 0)) for shade in range(100)]
    assert inspect(_encoded(form, save_all=True, append_images=frames)).width == 64


def test_every_beginning_of_a_picture_is_read_or_refused() -> None:
    for form in ("AVIF", "GIF", "JPEG", "PNG", "WEBP"):
        data = _encoded(form)
        for end in range(0, len(data), 3):
            with contextlib.suppress(InputRejected):
                inspect(data[:end])
