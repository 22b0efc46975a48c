"""A randomly initialised small checkpoint, for tests in which it does not matter what the masks show."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of facebook/sam3, the same weights in every run."""
    from tests.inference.random_weights import write_random_checkpoint  # noqa: PLC0415 - imports torch, seconds

    return write_random_checkpoint(tmp_path_factory.mktemp("random-checkpoint"))


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Model calls on one thread: tests share the machine."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
