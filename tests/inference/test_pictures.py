"""What is accepted as a picture, what is not, and what comes out of it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from inference.errors import InputRejected
from inference.pictures import inspect
from inference.pool.pictures import decode_mask_prompt, decode_pixels
from inference.pool.squash import squash
from inference.task import MaskSelects
from tests.inference.drawings import encoded, shapes

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")


@pytest.mark.parametrize("form", FORMATS)
def test_each_accepted_format_is_recognised_and_decoded(form: str) -> None:
    data = encoded(shapes(64, 48), form)
    told = inspect(data)
    assert (told.media_type, told.width, told.height) == (f"image/{form.lower()}", 64, 48)
    difference = decode_pixels(data).astype(int) - np.asarray(shapes(64, 48))
    assert np.abs(difference).mean() < 12


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_although_the_library_could(form: str) -> None:
    with pytest.raises(InputRejected, match="JPEG, PNG, WebP, GIF or AVIF") as refusal:
        inspect(encoded(shapes(64, 48), form))
    assert refusal.value.field == "picture"


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"<svg/>", b"%PDF-1.4", b"\xff\xd8\xff", b"GIF89a"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InputRejected):
        inspect(data)


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_picture_is_refused_and_the_message_says_so(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(shapes(200, 150, seed=3), form, **options)
    with pytest.raises(InputRejected, match=r"truncated|cannot be read|not a picture") as refusal:
        decode_pixels(data[: len(data) * 2 // 3])
    assert refusal.value.field == "picture"


def test_a_truncated_jpeg_is_refused_at_every_length() -> None:
    data = encoded(shapes(64, 48), "JPEG")
    for end in range(0, len(data) - 2, 37):
        with pytest.raises(InputRejected):
            decode_pixels(data[:end])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    data = encoded(shapes(64, 40), form, exif=exif, **options)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    told = inspect(data)
    assert (told.height, told.width) == shown.shape[:2]
    assert np.abs(decode_pixels(data).astype(int) - shown).max() <= 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_malformed_exif_is_ignored() -> None:
    data = encoded(shapes(64, 48), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xffgarbage")
    assert inspect(data).width == 64


def test_transparency_is_composited_on_white() -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.putpixel((1, 1), (200, 0, 0, 255))
    image.putpixel((2, 1), (0, 0, 0, 128))
    pixels = decode_pixels(encoded(image))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 0, 0]
    assert abs(int(pixels[1, 2, 0]) - 127) <= 1


def test_a_transparent_palette_entry_is_composited_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((2, 2), 1)
    pixels = decode_pixels(encoded(image, "GIF", transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[2, 2].tolist() == [0, 255, 0]


def test_cmyk_is_converted() -> None:
    data = encoded(Image.new("RGB", (32, 32), (250, 20, 30)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_pixels(data)[16, 16].astype(int) - (250, 20, 30)).max() < 12


def test_sixteen_bit_greyscale_keeps_its_tones() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    pixels = decode_pixels(encoded(Image.fromarray(ramp)))
    assert np.abs(pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_pictures_become_rgb(mode: str) -> None:
    assert decode_pixels(encoded(shapes(32, 24).convert("L").convert(mode))).shape == (24, 32, 3)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.abs(decode_pixels(data)[8, 8].astype(int) - (255, 0, 0)).max() < 10


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and has hardly any data."""
    chunks = [
        (b"IHDR", struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (13_000, 13_000, "50 megapixels"),
        (60_000, 60_000, "50 megapixels"),
        (20_000, 200, "16384 pixels"),
        (10_000, 10, "200 times"),
    ],
)
def test_a_picture_over_the_bounds_is_refused_from_its_header(width: int, height: int, said: str) -> None:
    with pytest.raises(InputRejected, match=said):
        inspect(png_header(width, height))


def test_large_jpegs_may_be_decoded_smaller_but_never_below_what_is_needed() -> None:
    data = encoded(shapes(1600, 800), "JPEG")
    small = decode_pixels(data, side_min=96)
    assert min(small.shape[:2]) >= 96
    assert small.shape[1] < 1600
    assert decode_pixels(data, side_min=801).shape == (800, 1600, 3)


def test_squashing_equals_the_reference_resize() -> None:
    """Bilinear with antialiasing, as the model was trained with; Pillow computes the same up to rounding."""
    for width, height, side in ((640, 480, 96), (50, 70, 96), (1800, 1200, 1008)):
        image = shapes(width, height, seed=2)
        expected = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).astype(int)
        difference = np.abs(squash(np.array(image), side) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 0.05


def half(mode: str, empty: object, filled: object) -> bytes:
    """40 x 20 pixels, the left half filled."""
    image = Image.new(mode, (40, 20), empty)  # type: ignore[arg-type]
    image.paste(filled, (0, 0, 20, 20))  # type: ignore[arg-type]
    return encoded(image)


@pytest.mark.parametrize(
    ("data", "selects", "left"),
    [
        (half("L", 0, 255), MaskSelects.OPAQUE, True),
        (half("L", 0, 255), MaskSelects.TRANSPARENT, True),  # nothing is transparent: brightness decides
        (half("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)), MaskSelects.TRANSPARENT, True),
        (half("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), MaskSelects.OPAQUE, True),
        (half("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), MaskSelects.TRANSPARENT, False),
    ],
)
def test_a_mask_prompt_selects_what_it_is_meant_to(data: bytes, selects: MaskSelects, left: bool) -> None:
    mask = decode_mask_prompt(data, 8, selects)
    assert mask.shape == (8, 8)
    assert (mask[:, :4] == left).all()
    assert (mask[:, 4:] != left).all()


def test_a_damaged_mask_prompt_is_named() -> None:
    data = encoded(shapes(64, 48))
    with pytest.raises(InputRejected, match="mask is truncated") as refusal:
        decode_mask_prompt(data[: len(data) // 2], 8, MaskSelects.OPAQUE)
    assert refusal.value.field == "mask"
