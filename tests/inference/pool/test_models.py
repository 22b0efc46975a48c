"""Which models a pool offers on which weights."""

from pathlib import Path

import pytest

from inference.errors import ModelUnavailable
from inference.pool.models import LoadedModels, load_models, offer
from inference.pool.settings import PoolSettings
from tests.inference.pool.paper_backend import PaperBackend

SAM_3, SAM_3_RLE, SAM_3_1 = "meta/sam-3-image", "meta/sam-3-image-rle", "meta/sam-3-1-image"


def offered(picture_side: int, name_3_1: str | None = None) -> LoadedModels:
    backend = PaperBackend()
    backend.picture_side = picture_side
    return offer("cpu", {"weights": backend, "new weights": backend}, "weights", name_3_1)


def test_the_small_checkpoint_serves_every_model() -> None:
    assert offered(96).checkpoints == {SAM_3: "weights", SAM_3_RLE: "weights", SAM_3_1: "weights"}


def test_full_weights_without_those_of_3_1_do_not_pretend() -> None:
    models = offered(1008)
    assert set(models.checkpoints) == {SAM_3, SAM_3_RLE}
    with pytest.raises(ModelUnavailable, match=r"needs SAM 3\.1 weights.*GATEWAY_POOL_CHECKPOINT_3_1"):
        models.checkpoint_of(SAM_3_1)


def test_weights_of_3_1_serve_their_model_beside_the_others() -> None:
    models = offered(1008, "new weights")
    assert models.checkpoint_of(SAM_3_1) == "new weights"
    assert models.checkpoint_of(SAM_3) == "weights"


def test_two_folders_are_loaded_and_kept_apart(random_checkpoint: Path) -> None:
    settings = PoolSettings(checkpoint=random_checkpoint, checkpoint_3_1=random_checkpoint, device="cpu")
    models = load_models(settings)
    assert models.checkpoint_of(SAM_3_1) != models.checkpoint_of(SAM_3)
    assert len(models.backends) == 2
