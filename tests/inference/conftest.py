"""A randomly initialised small checkpoint, for tests in which it does not matter what the masks show."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of facebook/sam3, the same weights in every run."""
    import torch  # noqa: PLC0415 - seconds to import, and most tests of this room do without

    from inference.pool.tiny import tokenizer  # noqa: PLC0415
    from inference.pool.tiny.export import export  # noqa: PLC0415
    from inference.pool.tiny.initialisation import build_detector, build_tracker  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("random-checkpoint")
    words = tokenizer.build()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        detector = build_detector(words)
        tracker = build_tracker(detector)
        with torch.no_grad():
            tracker.no_memory_embedding.normal_()  # zero at first, which would hide its absence
    export(folder, detector.eval(), tracker.eval(), words)
    return folder


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Model calls on one thread: tests share the machine."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
