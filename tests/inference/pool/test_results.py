"""Masks at the customer's size."""

import numpy as np
import pytest
import torch

from inference import masks
from inference.errors import InputRejected
from inference.pool.backend import Logits
from inference.pool.composition import Chosen
from inference.pool.results import enlarge, render
from inference.rendering import result_size
from inference.task import MaskStyle, PictureFormat, Rendering
from tests.inference.drawings import pixels


def blob(side: int, seed: int = 0) -> Logits:
    """A disc with a ragged edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    center_x, center_y, radius = rng.uniform(0.2, 0.8, 3) * (side, side, side / 3)
    logits = radius - np.hypot(x - center_x, y - center_y) + rng.normal(size=(side, side))
    return np.asarray(logits, dtype=np.float32)


@pytest.mark.parametrize("size", [(1, 1), (30, 17), (48, 48), (333, 250), (1000, 41)])
@pytest.mark.parametrize("seed", range(4))
def test_enlarging_only_the_object_equals_enlarging_everything(size: tuple[int, int], seed: int) -> None:
    width, height = size
    logits = blob(48, seed)
    whole = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], (height, width), mode="bilinear")
    expected = (whole[0, 0] > 0).numpy()
    region = enlarge(logits, width, height)
    assert (region.full() if region else np.zeros_like(expected)).sum() == pytest.approx(expected.sum(), abs=1)
    if region is not None:
        assert np.count_nonzero(region.full() != expected) <= 1  # rounding on the very edge
        assert region.box == masks.tighten(region.full(), width=width, height=height).box  # type: ignore[union-attr]


def test_nothing_positive_is_no_mask() -> None:
    assert enlarge(np.full((48, 48), -1, dtype=np.float32), 100, 100) is None


def test_only_as_many_pictures_are_drawn_as_wanted_and_the_numbers_always_come() -> None:
    chosen = [Chosen(blob(48, seed), 0.9 - seed / 10, seed) for seed in range(3)]
    rendered = render(chosen, width=120, height=90, rendering=Rendering(max_pictures=2), pixels=None)
    assert [m.picture is not None for m in rendered] == [True, True, False]
    assert [m.object_id for m in rendered] == [0, 1, 2]
    for mask in rendered:
        assert mask.rle is not None
        bitmap = masks.decode_rle(mask.rle, 120, 90)
        rows, columns = np.nonzero(bitmap)
        assert mask.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if mask.picture:
            assert ((pixels(mask.picture) == 255) == bitmap).all()


def test_pictures_of_the_object_show_the_source_at_the_results_size() -> None:
    source = np.full((200, 300, 3), (200, 100, 50), dtype=np.uint8)
    rendering = Rendering(style=MaskStyle.CUTOUT, format=PictureFormat.PNG, fit_within=(150, 150))
    width, height = result_size(300, 200, rendering)
    (mask,) = render([Chosen(blob(48), 0.9)], width=width, height=height, rendering=rendering, pixels=source)
    assert mask.picture is not None
    cut = pixels(mask.picture)
    assert cut.shape == (100, 150, 4)
    assert (cut[cut[..., 3] == 255][:, :3] == (200, 100, 50)).all()


@pytest.mark.parametrize("bounds", [(0, 10), (10, 20_000), (16_000, 16_000)])
def test_an_absurd_result_size_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(InputRejected) as refusal:
        result_size(300, 300, Rendering(fit_within=bounds))
    assert refusal.value.field == "size"
