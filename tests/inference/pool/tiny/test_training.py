"""A run of a few steps through every kind of phase: it goes on where it stopped and writes a loadable checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from inference.pool.backends import roi_align
from inference.pool.backends.checkpoint import load_checkpoint
from inference.pool.tiny.schedule import Phase
from inference.pool.tiny.train import Run

CPU = torch.device("cpu")
PHASES = (
    Phase("tokens", 96, 2, 1e-3, vision_factor=1.0),
    Phase("detector", 96, 2, 1e-3, vision_factor=0.5, text_factor=0.1),
    Phase("tracker", 128, 2, 1e-3, rescale_neck=True),
    Phase("detector", 128, 1, 1e-3, text_factor=0.1),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    roi_align.install()


def test_a_run_resumes_and_exports(tmp_path: Path) -> None:
    Run(tmp_path, 3, CPU).finish(PHASES[:2])
    resumed = Run(tmp_path, 3, CPU)
    assert resumed.phase_index == 2
    resumed.finish(PHASES)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in curve] == [0, 1, 2, 3]
    assert all(line["loss"] > 0.0 for line in curve)
    models = load_checkpoint(tmp_path / "checkpoint", device=CPU, dtype=torch.float32)
    kept = models.detector.vision_encoder.backbone.layers[0].mlp.fc1.weight
    live = resumed.models.backbone.layers[0].mlp.fc1.weight
    assert torch.allclose(kept, live, atol=1e-2)


def test_the_same_seed_starts_from_the_same_weights(tmp_path: Path) -> None:
    first, second = (Run(tmp_path / name, 5, CPU).models.state_dict()["detector"] for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
