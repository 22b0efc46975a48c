"""Run lengths, boxes and pictures of masks."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image

from inference import masks
from inference.masks import Bitmap, Pixels, RegionMask
from inference.task import MaskStyle, PictureFormat
from tests.inference.drawings import pixels as decoded

Scene = tuple[RegionMask, Pixels]
bitmaps = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


def region(bitmap: Bitmap) -> RegionMask | None:
    return masks.tighten(bitmap, width=bitmap.shape[1], height=bitmap.shape[0])


def naive_rle(bitmap: Bitmap) -> str:
    """One pixel after the other, as the format's description reads."""
    pairs, start = [], 1
    for value, run in itertools.groupby(bitmap.ravel().tolist()):
        length = len(list(run))
        if value:
            pairs.append(f"{start} {length}")
        start += length
    return " ".join(pairs)


def naive_coco(bitmap: Bitmap) -> str:
    """rleToString of pycocotools, count by count."""
    counts, expected = [], False
    for value, run in itertools.groupby(bitmap.T.ravel().tolist()):
        if value != expected:
            counts.append(0)
        counts.append(len(list(run)))
        expected = not value
    text = ""
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            group = rest & 0x1F
            rest >>= 5
            more = rest != -1 if group & 0x10 else rest != 0
            text += chr((group | 0x20 if more else group) + 48)
    return text


@given(bitmaps)
def test_run_lengths_are_those_of_the_whole_picture(bitmap: Bitmap) -> None:
    found = region(bitmap)
    if found is None:
        assert not bitmap.any()
        return
    assert masks.encode_rle(found) == naive_rle(bitmap)
    assert masks.encode_coco_rle(found) == naive_coco(bitmap)
    assert (masks.decode_rle(masks.encode_rle(found), *bitmap.shape[::-1]) == bitmap).all()
    assert (found.full() == bitmap).all()
    rows, columns = np.nonzero(bitmap)
    assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found.area == bitmap.sum()


def test_long_coco_counts_survive() -> None:
    bitmap = np.zeros((3000, 2000), dtype=np.bool_)
    bitmap[1234:2345, 678:1890] = True
    found = region(bitmap)
    assert found is not None
    assert masks.encode_coco_rle(found) == naive_coco(bitmap)


@pytest.mark.parametrize(
    "text", ["1", "0 3", "1 0", "-1 2", "5 5 4 1", "1 3 3 1", "90 20", "1 2 x 4", "1.5 2", "99999999999999999999 1"]
)
def test_impossible_run_lengths_are_refused(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        masks.decode_rle(text, 10, 10)


def test_no_run_lengths_are_an_empty_mask() -> None:
    assert not masks.decode_rle("", 4, 3).any()
    assert masks.decode_rle("", 4, 3).shape == (3, 4)


@pytest.fixture
def scene() -> Scene:
    """A 40 x 30 picture in even blue with a 10 x 8 object at (5, 6)."""
    bitmap = np.zeros((30, 40), dtype=np.bool_)
    bitmap[6:14, 5:15] = True
    found = region(bitmap)
    assert found is not None
    return found, np.full((30, 40, 3), (10, 20, 200), dtype=np.uint8)


@pytest.mark.parametrize("form", list(PictureFormat))
def test_a_mask_picture_is_white_on_black_greyscale(scene: Scene, form: PictureFormat) -> None:
    found, _ = scene
    data = masks.encode_picture(masks.draw_mask(found), form)
    image = Image.open(io.BytesIO(data))
    assert image.get_format_mimetype() == form.media_type
    assert image.size == (40, 30)
    assert ((np.asarray(image.convert("L")) > 127) == found.full()).all()
    if form is PictureFormat.PNG:
        assert image.mode == "L"


def test_a_cutout_is_transparent_around_the_object(scene: Scene) -> None:
    found, page = scene
    cut = decoded(masks.encode_picture(masks.draw(found, MaskStyle.CUTOUT, page), PictureFormat.PNG))
    assert ((cut[..., 3] == 255) == found.full()).all()
    assert (cut[10, 10] == (10, 20, 200, 255)).all()
    assert (cut[0, 0] == 0).all()


def test_a_jpeg_cutout_is_on_white(scene: Scene) -> None:
    found, page = scene
    cut = decoded(masks.encode_picture(masks.draw(found, MaskStyle.CUTOUT, page), PictureFormat.JPEG))
    assert cut.shape == (30, 40, 3)
    assert (cut[28, 38] > 250).all()
    assert abs(int(cut[10, 10, 2]) - 200) < 12


def test_an_overlay_tints_the_object_and_nothing_else(scene: Scene) -> None:
    found, page = scene
    for index in range(9):
        tinted = decoded(
            masks.encode_picture(masks.draw(found, MaskStyle.OVERLAY, page, index=index), PictureFormat.PNG)
        )
        assert ((tinted != page).any(axis=-1) == found.full()).all()
    assert (page == (10, 20, 200)).all()  # the caller's pixels are untouched


def test_drawing_on_a_picture_of_another_size_is_a_mistake(scene: Scene) -> None:
    found, page = scene
    with pytest.raises(ValueError, match="size"):
        masks.draw(found, MaskStyle.OVERLAY, page[1:])


@pytest.mark.parametrize(
    ("size", "bounds", "fitted"),
    [
        ((800, 600), None, (800, 600)),
        ((800, 600), (400, 400), (400, 300)),
        ((800, 600), (1600, 1600), (1600, 1200)),
        ((1000, 5), (100, 100), (100, 1)),
    ],
)
def test_fitting_keeps_the_aspect(
    size: tuple[int, int], bounds: tuple[int, int] | None, fitted: tuple[int, int]
) -> None:
    assert masks.fit_within(*size, bounds) == fitted
