"""The shipped small checkpoint, through plain transformers classes, on scenes that no training run has seen."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.pool.backends import roi_align
from inference.pool.backends.checkpoint import Checkpoint, CheckpointUnusable, load_checkpoint
from inference.pool.tiny import drawing, pictures
from inference.pool.tiny.evaluate import CHECKPOINT, Score, evaluate, format_table, iou
from inference.pool.tiny.segmentation import Picture

SCENES = 40
SIZE_MAX_BYTES = 15 * 1024 * 1024


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Sums in a fixed order: the same figures on every machine's every run."""
    torch.set_num_threads(1)
    roi_align.install()


@pytest.fixture(scope="module")
def table() -> dict[str, Score]:
    scores = evaluate(CHECKPOINT, SCENES)
    print("\n" + format_table(scores))
    return scores


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("text: colour and shape", 0.75),
        ("text: colour", 0.75),
        ("text: shape", 0.75),
        ("text: everything", 0.75),
        ("all like a box", 0.6),
        ("click", 0.8),
        ("box", 0.8),
        ("rough mask", 0.75),
    ],
)
def test_masks_match_the_truth_on_unseen_scenes(table: dict[str, Score], kind: str, least: float) -> None:
    assert table[kind].mean_iou >= least


@pytest.mark.parametrize(("kind", "least"), [("absent", 0.85), ("unknown word", 0.95)])
def test_what_is_not_there_is_not_found(table: dict[str, Score], kind: str, least: float) -> None:
    assert table[kind].clean_part >= least


def test_files_are_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files.keys()
    assert sum(files.values()) <= SIZE_MAX_BYTES


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - only this test takes files apart

    for path in CHECKPOINT.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["tracker_neck.fpn_layers.0.proj1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointUnusable, match="lacks 1 weights"):
        _load(tmp_path)


def _load(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, device=torch.device("cpu"), dtype=torch.float32)


def _picture(image: NDArray[np.uint8]) -> Picture:
    return Picture(image, _load(CHECKPOINT))


def _shipped(name: str) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(pictures.FOLDER / name)), dtype=np.uint8)[..., ::-1].copy()


@pytest.mark.parametrize("name", sorted(pictures.demo_scenes()))
def test_demo_picture_answers_text_click_and_box(name: str) -> None:
    """Every concept of every shipped picture is found, as often as it is there, and each object can be pointed at."""
    scene = pictures.demo_scenes()[name]
    _, coverages = drawing.render(scene, pictures.WIDTH, pictures.HEIGHT)
    truth = coverages > 0.5
    picture = _picture(_shipped(name))
    names = [(item.colour, item.shape) for item in scene.objects]
    for colour, shape in sorted(set(names)):
        wanted = [mask for mask, other in zip(truth, names, strict=True) if other == (colour, shape)]
        [found] = picture.texts([f"{colour} {shape}"])
        assert len(found.masks) == len(wanted), f"{colour} {shape}"
        assert all(max(iou(mask, real) for mask in found.masks) > 0.75 for real in wanted), f"{colour} {shape}"
    for mask in truth:
        ys, xs = np.nonzero(mask)
        nearest = int(np.argmin((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2))
        assert iou(picture.click(float(xs[nearest]), float(ys[nearest])), mask) > 0.8
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        assert iou(picture.boxed(*box), mask) > 0.8


def test_the_shipped_pictures_are_those_that_the_generator_draws() -> None:
    for name, scene in pictures.demo_scenes().items():
        drawn, _ = drawing.render(scene, pictures.WIDTH, pictures.HEIGHT)
        difference = np.abs(drawn.astype(int) - _shipped(name).astype(int))
        assert difference.mean() < 1.0, name


def test_a_photograph_like_picture_answers_nothing() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (9, 12, 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    assert all(len(found.masks) == 0 for found in _picture(image).texts(["dog", "red circle", "truck"]))


def test_answers_do_not_change_from_call_to_call() -> None:
    image = _shipped("shapes.png")
    first, second = (_picture(image).texts(["red circle"])[0] for _ in range(2))
    assert np.array_equal(first.masks, second.masks)
    assert np.array_equal(first.scores, second.scores)
