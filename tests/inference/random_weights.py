"""Checkpoints with random weights: the same work as trained ones, meaningless masks."""

from pathlib import Path

import torch

from inference.pool.tiny import tokenizer
from inference.pool.tiny.export import export
from inference.pool.tiny.initialisation import build_detector, build_tracker

PICTURE_SIDE = 96


def write_random_checkpoint(folder: Path, *, seed: int = 7) -> Path:
    """Fill `folder` with a small checkpoint in the layout of facebook/sam3, the same for the same seed."""
    words = tokenizer.build()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = build_detector(PICTURE_SIDE, words)
        tracker = build_tracker(detector)
        with torch.no_grad():
            tracker.no_memory_embedding.normal_()  # zero at first, which would hide its absence
    export(folder, detector.eval(), tracker.eval(), words)
    return folder
