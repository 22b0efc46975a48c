"""Every form in which a picture may be sent, and everything else that is sent in its place."""

import base64
import io
import struct
import textwrap
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from ipaddress import ip_network

import psutil
import pytest
from PIL import Image

from gateway.media.addresses import AddressBook
from gateway.media.downloader import Downloader
from gateway.media.errors import AddressBlocked, DownloadFailed, MediaError, PictureTooLarge, PictureUnreadable
from gateway.media.intake import PICTURE_BYTES_MAX, Intake
from inference.task import Picture
from tests.gateway.media.picture_server import Names, PictureServer, ok
from tests.pictures import data_uri, picture

PNG = picture(64, 48)
BASE64 = base64.b64encode(PNG).decode()
ESCAPED = BASE64.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
PARAM = "image[2]"


@pytest.fixture
async def server() -> AsyncIterator[PictureServer]:
    server = PictureServer()
    async with server.serve():
        yield server


@pytest.fixture
async def intake(server: PictureServer) -> AsyncIterator[Intake]:
    names = Names({"pictures.test": [["127.0.0.1"]], "private.test": [["10.0.0.1"]]})
    book = AddressBook(allow_networks=[ip_network("127.0.0.0/8")], allow_ports=[server.port], resolve=names)
    downloader = Downloader(book, bytes_max=PICTURE_BYTES_MAX)
    intake = Intake(downloader)
    yield intake
    intake.close()
    await downloader.aclose()


async def refusal(intake: Intake, source: str | bytes, kind: type[MediaError] = PictureUnreadable) -> str:
    """The words of the refusal, once it names the parameter."""
    with pytest.raises(kind) as raised:
        await intake.picture(source, param=PARAM)
    assert raised.value.param == PARAM
    return raised.value.message


def bomb(side: int) -> bytes:
    """A PNG of side x side one-bit pixels: 13,000 of them fit in 20 KiB and unpack to 160 MiB."""
    rows = zlib.compress(b"\x00" * ((side // 8 + 1) * side), 9)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    "source",
    [
        PNG,
        data_uri(PNG),
        f"  {data_uri(PNG)}\n",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:image/jpeg;base64,{BASE64}",  # what the sender claims is ignored
        f"data:text/html;charset=utf-8;base64,{BASE64}",
        f"data:image/png;name=a b.png;charset=utf-8;base64,{BASE64}",
        f"data:image/png; base64, {BASE64}",
        f"data:image/png;base64,{ESCAPED}",
        BASE64,
        f"\n {BASE64} \n",
        "\r\n".join(textwrap.wrap(BASE64, 76)),
        " ".join(BASE64),
        BASE64.rstrip("="),
        BASE64.rstrip("=") + "====",
    ],
    ids=["bytes", "data URI", "with blanks", "capitals", "no type", "wrong type", "with parameter", "two parameters",
         "blanks in it", "percent signs", "base64", "base64 with blanks", "lines", "spaced", "unpadded", "overpadded"],
)  # fmt: skip
async def test_every_way_to_send_a_picture(intake: Intake, source: str | bytes) -> None:
    taken = await intake.picture(source, param=PARAM)
    assert taken == Picture(data=PNG, media_type="image/png", width=64, height=48)


async def test_a_picture_by_its_address(intake: Intake, server: PictureServer) -> None:
    taken = await intake.picture(f" http://pictures.test:{server.port}/picture.png\n", param=PARAM)
    assert (taken.media_type, taken.width, taken.height) == ("image/png", 64, 48)


async def test_a_large_picture_in_lines_of_76_is_accepted(intake: Intake) -> None:
    data = PNG + b"\0" * (PICTURE_BYTES_MAX - len(PNG))  # what follows the end of a PNG is ignored
    taken = await intake.picture("data:image/png;base64," + base64.encodebytes(data).decode(), param=PARAM)
    assert len(taken.data) == PICTURE_BYTES_MAX


@pytest.mark.parametrize("encoding", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
async def test_every_kind_of_picture(intake: Intake, encoding: str) -> None:
    taken = await intake.picture(picture(40, 30, format=encoding), param=PARAM)
    assert (taken.media_type, taken.width, taken.height) == (f"image/{encoding.lower()}", 40, 30)


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "LA", "RGBA", "I;16"])
async def test_every_kind_of_colour(intake: Intake, mode: str) -> None:
    encoding = "JPEG" if mode == "CMYK" else "PNG"
    taken = await intake.picture(picture(40, 30, format=encoding, mode=mode), param=PARAM)
    assert (taken.width, taken.height) == (40, 30)


@pytest.mark.parametrize("encoding", ["GIF", "WEBP", "PNG"])
async def test_an_animated_picture_is_taken_by_its_first_frame(intake: Intake, encoding: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, encoding, save_all=True, append_images=frames[1:], duration=50)
    taken = await intake.picture(out.getvalue(), param=PARAM)
    assert (taken.width, taken.height) == (40, 30)


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40)), (8, (30, 40)), (99, (40, 30))]
)
async def test_sizes_are_those_of_the_picture_as_it_is_displayed(
    intake: Intake, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    taken = await intake.picture(picture(40, 30, format="JPEG", exif=exif.tobytes()), param=PARAM)
    assert (taken.width, taken.height) == size


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x00" * 100, "not a picture"),
        (b"%PDF-1.7 ...", "not a picture"),
        (b"BM" + b"\x00" * 60, "not a picture"),
        (b"8BPS\x00\x01" + b"\x00" * 60, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"SIMPLE  =                    T", "not a picture"),
        (b"<html><body>not found</body></html>", "web page"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html><svg></svg></html>", "web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by hand -->\n<svg/>", "SVG"),
        (b"<?xml version='1.0'?><rss/>", "not a picture"),
        (PNG[:8], "not a picture"),
        (PNG[:20], "not a picture"),
        (picture(format="JPEG")[:30], "not a picture"),
        (picture(format="WEBP")[:20], "not a picture"),
        (picture(format="GIF")[:9], "not a picture"),
        (picture(format="AVIF")[:40], "not a picture"),
        (picture(1, 4_000), "200 times as long as wide"),
        (picture(16_400, 100), "longer than 16384 pixels"),
        (bomb(13_000), "megapixels"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_what_is_no_picture_is_refused(intake: Intake, data: bytes, words: str) -> None:
    assert words in await refusal(intake, data)
    if data:
        assert words in await refusal(intake, data_uri(data))


@pytest.mark.parametrize(
    "source",
    [
        "", "   ", "cat", "cat.png", "/etc/passwd", "www.pictures.test/cat.png", "data:", "data:image/png;base64,",
        "data:image/png,raw", "data:image/png;base64;x", "data:image/png;base64" + BASE64, "a" * 101, "äöü", "\ud800",
        "=" * 1000, BASE64[:-8] + "!" + BASE64[-7:], "data:" + ";a=b" * 1_000 + ";base64," + BASE64, "%%%", "\0" * 8,
    ],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
async def test_what_stands_for_no_picture_is_refused(intake: Intake, source: str) -> None:
    await refusal(intake, source)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("http://private.test/a.png", AddressBlocked),
        ("file:///etc/passwd", AddressBlocked),
        ("ftp://pictures.test/a.png", AddressBlocked),
        ("C:\\pictures\\cat.png", AddressBlocked),
        ("http://unknown.test/a.png", DownloadFailed),
        ("http://", PictureUnreadable),
        ("https://" + "a" * 30_000_000, PictureUnreadable),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_addresses_that_are_refused_name_their_parameter(
    intake: Intake, source: str, kind: type[MediaError]
) -> None:
    await refusal(intake, source, kind)


@pytest.mark.parametrize(("body", "words"), [(b"<html>", "web page"), (b"", "empty"), (b"GIF89a", "not a picture")])
async def test_what_an_address_gives_is_looked_at(
    intake: Intake, server: PictureServer, body: bytes, words: str
) -> None:
    server.replies["/x"] = ok(body, "content-type: image/png")
    assert words in await refusal(intake, f"http://pictures.test:{server.port}/x")


@pytest.mark.parametrize("form", ["bytes", "base64", "address", "digits"])
async def test_more_than_20_mib_is_refused(intake: Intake, server: PictureServer, form: str) -> None:
    data = PNG + b"\0" * (PICTURE_BYTES_MAX + 1 - len(PNG))
    server.replies["/large"] = ok(data)
    sources: dict[str, str | bytes] = {
        "bytes": data,
        "base64": data_uri(data),
        "address": f"http://pictures.test:{server.port}/large",
        "digits": "A" * 31_000_000,
    }
    assert "more than 20 MiB" in await refusal(intake, sources[form], PictureTooLarge)


async def test_a_decompression_bomb_costs_nothing(intake: Intake) -> None:
    data = bomb(13_000)
    assert len(data) < 24 * 1024
    await refusal(intake, data)
    process = psutil.Process()
    memory, cpu = process.memory_info().rss, time.process_time()
    for _ in range(50):
        await refusal(intake, data)
    assert time.process_time() - cpu < 2  # unpacking takes more for each one of them
    assert process.memory_info().rss - memory < 32 * 1024 * 1024


@pytest.mark.parametrize("pattern", [" A", "AB \n", "%2B", "%41", "A==="], ids=ascii)
async def test_base64_made_to_be_costly_takes_little_memory(intake: Intake, pattern: str) -> None:
    source = pattern * (25_000_000 // len(pattern))
    tracemalloc.start()
    try:
        await refusal(intake, source)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * len(source)
