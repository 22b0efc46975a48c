"""Load a folder in the layout of facebook/sam3 into detector, tracker and tokenizer, completely or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerModel
from transformers.utils import logging as transformers_logging


class CheckpointUnusable(Exception):
    """The folder is missing, incomplete or of another kind; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Both models in evaluation mode on one device, sharing one backbone, and the tokenizer of their text encoder."""

    detector: Sam3Model
    tracker: Sam3TrackerModel
    tokenizer: Any


def load_checkpoint(folder: Path, *, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Read `folder` (config.json of type `sam3_video`, safetensors, tokenizer files).

    Raises CheckpointUnusable, also where transformers would only warn and fill a missing weight with random numbers.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointUnusable(
            f"There is no checkpoint at {folder}: it needs the files of facebook/sam3 "
            "(config.json, model.safetensors, tokenizer.json). GATEWAY_POOL_CHECKPOINT names the folder."
        )
    # The classes share a checkpoint by design and each says so in a warning that would alarm an operator.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    detector = _load(Sam3Model, folder, dtype)
    tracker = _load(Sam3TrackerModel, folder, torch.float32)
    tracker.vision_encoder.backbone = detector.vision_encoder.backbone
    # The rest of the tracker stays in single precision: its cost is nothing beside the ViT's, and a click in half
    # precision would land up to two pixels beside itself.
    tracker.vision_encoder.neck.to(dtype)
    # The convolutions' inputs come channels-last out of the ViT; weights in the same order save a tenth of the time.
    for convolutional in (detector.vision_encoder.neck, tracker.vision_encoder.neck, detector.mask_decoder):
        convolutional.to(memory_format=torch.channels_last)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointUnusable(f"The tokenizer of {folder} cannot be read: {error}") from error
    return Checkpoint(detector.to(device), tracker.to(device), tokenizer)


def _load(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    try:
        model, report = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, local_files_only=True)
    except Exception as error:
        raise CheckpointUnusable(f"{kind.__name__} cannot be read from {folder}: {error}") from error
    broken = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if broken:
        raise CheckpointUnusable(
            f"The checkpoint {folder} lacks {len(broken)} weights of {kind.__name__}, "
            f"among them {', '.join(broken[:3])}."
        )
    return model.eval()
