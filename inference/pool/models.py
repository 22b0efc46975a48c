"""Which models this pool offers, on which weights, and why not the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from inference.errors import ModelUnavailable
from inference.pool.backend import Backend, exercise
from inference.pool.backends.checkpoint import load_checkpoint
from inference.pool.backends.sam3 import Sam3Backend
from inference.pool.settings import SHIPPED_CHECKPOINT, PoolSettings

SAM_3_MODELS = ("meta/sam-3-image", "meta/sam-3-image-rle")
SAM_3_1_MODEL = "meta/sam-3-1-image"
_FULL_PICTURE_SIDE = 1008  # what Meta's weights are trained at; anything else is a checkpoint of another kind


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """Weights on the device. `checkpoints` maps the models on offer to the name of the checkpoint that serves them."""

    device: str
    backends: Mapping[str, Backend]
    checkpoints: Mapping[str, str]
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def checkpoint_of(self, model: str) -> str:
        """Name of the checkpoint that serves `model`. Raises ModelUnavailable, whose message says why."""
        if model in self.checkpoints:
            return self.checkpoints[model]
        raise ModelUnavailable(self.unavailable.get(model, f"This pool does not know the model '{model}'."))


def choose_device(wanted: str) -> torch.device:
    """The device of a setting; "auto" is the first CUDA device if there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def load_models(settings: PoolSettings) -> LoadedModels:
    """Load what the settings name and run each once. Raises CheckpointUnusable, or whatever the device raises."""
    device = choose_device(settings.device)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    name = checkpoint_name(settings.checkpoint)
    backends = {name: load_backend(settings.checkpoint, device)}
    name_3_1 = None
    if settings.checkpoint_3_1 is not None:
        name_3_1 = f"{checkpoint_name(settings.checkpoint_3_1)} (3.1)"
        backends[name_3_1] = load_backend(settings.checkpoint_3_1, device)
    return offer(str(device), backends, name, name_3_1)


def offer(device: str, backends: Mapping[str, Backend], name: str, name_3_1: str | None) -> LoadedModels:
    """Decide which models the checkpoint `name`, and for SAM 3.1 the checkpoint `name_3_1` if there is one, serve."""
    checkpoints = dict.fromkeys(SAM_3_MODELS, name)
    unavailable: dict[str, str] = {}
    if name_3_1 is not None:
        checkpoints[SAM_3_1_MODEL] = name_3_1
    elif backends[name].picture_side != _FULL_PICTURE_SIDE:
        checkpoints[SAM_3_1_MODEL] = name  # the demonstration checkpoint stands in for every model
    else:
        unavailable[SAM_3_1_MODEL] = (
            f"The model '{SAM_3_1_MODEL}' needs SAM 3.1 weights, and this pool has only those of SAM 3. "
            "GATEWAY_POOL_CHECKPOINT_3_1 names their folder."
        )
    return LoadedModels(device, backends, checkpoints, unavailable)


def load_backend(folder: Path, device: torch.device) -> Backend:
    """One checkpoint, warmed up: half precision on an accelerator, single precision on a CPU."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    backend = Sam3Backend(load_checkpoint(folder, device=device, dtype=dtype))
    exercise(backend)
    return backend


def checkpoint_name(folder: Path) -> str:
    """What a checkpoint is called in health reports and logs."""
    if folder.resolve() == SHIPPED_CHECKPOINT.resolve():
        return "small demonstration checkpoint"
    return folder.resolve().name
