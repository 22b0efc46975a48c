"""The generator: same seed, same scene; the truth that it tells is what it draws."""

import numpy as np
import pytest

from inference.pool.tiny import drawing, examples, prompts, scenes, tokenizer
from inference.pool.tiny.configuration import TEXT_LENGTH, mask_size
from inference.pool.tiny.vocabulary import COLOUR_NAMES, SHAPE_NAMES, phrase_for, unknown_phrase

SIDE = 96
PAGE = scenes.Background("page", ((250, 250, 250), (250, 250, 250)), 0.0, 0)


def test_a_seed_gives_the_same_picture_every_time() -> None:
    first, second = (drawing.render(scenes.sample(17), 120, 90) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_different_seeds_give_different_pictures() -> None:
    first, second = (drawing.render(scenes.sample(seed), 120, 90)[0] for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("shape", SHAPE_NAMES)
@pytest.mark.parametrize("size", [(96, 96), (960, 640)])
def test_mask_covers_exactly_the_pixels_of_the_objects_colour(shape: str, size: tuple[int, int]) -> None:
    scene = scenes.compose(2, (("blue", shape),), PAGE, size[0] / size[1])
    image, coverages = drawing.render(scene, *size)
    blue = np.abs(image.astype(int) - 250).max(axis=2) > 100
    inside = coverages[0] > 0.5
    assert (blue & inside).sum() / (blue | inside).sum() > 0.93


def test_an_object_in_front_takes_its_pixels_from_the_one_behind() -> None:
    for seed in range(40):
        _, coverages = drawing.render(scenes.sample(seed), 96, 96)
        assert coverages.sum(axis=0).max(initial=0.0) <= 1.001


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="fit into the scene"):
        scenes.compose(0, (("red", "circle"),) * 60, PAGE, 1.0)


def test_turning_an_example_moves_boxes_with_their_masks() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        example = examples.turned(examples.make(seed, SIDE), rng)
        assert example.pixels.shape == (3, SIDE, SIDE)
        for mask, box in zip(example.masks, example.boxes, strict=True):
            ys, xs = np.nonzero(mask > 127)
            low, high = (box[:2] - box[2:] / 2) * mask_size(SIDE), (box[:2] + box[2:] / 2) * mask_size(SIDE)
            assert np.allclose([xs.min(), ys.min()], low, atol=1.6)
            assert np.allclose([xs.max() + 1, ys.max() + 1], high, atol=1.6)


def test_prompts_mean_the_objects_that_they_name() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        example = examples.make(seed, SIDE)
        for prompt in prompts.prompts_for(example, rng, 6):
            colours = [COLOUR_NAMES[int(example.colours[index])] for index in prompt.targets]
            shapes = [SHAPE_NAMES[int(example.shapes[index])] for index in prompt.targets]
            said = set(prompt.text.split())
            for colour in said & set(COLOUR_NAMES):
                assert set(colours) <= {colour}
            for shape in said & set(SHAPE_NAMES):
                assert set(shapes) <= {shape}
            assert len(prompt.boxes) == len(prompt.labels)


def test_every_phrase_and_any_text_fits_the_tokenizer() -> None:
    rng = np.random.default_rng(0)
    words = tokenizer.build()
    phrases = [phrase_for(rng, str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPE_NAMES))) for _ in range(200)]
    phrases += [unknown_phrase(rng) for _ in range(200)]
    assert max(len(ids) for ids in words(phrases).input_ids) <= TEXT_LENGTH
    for text in ("", "ROTER KREIS", "圆 🟥", "\x00\n"):
        assert words(text).input_ids[-1] == words.eos_token_id


def test_the_store_keeps_its_bound() -> None:
    store = examples.ReplayStore(80, 0, SIDE)
    drawn = store.draw(np.random.default_rng(0), 4, 8)
    store.fill(200)
    assert len(drawn) == 4
    assert store.next_seed == 200
    assert len(store) == 80
