"""Everything one training run holds in memory, and how it is saved and continued."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTokenizer, Sam3Model, Sam3TrackerModel

from inference.pool.tiny import initialisation
from inference.pool.tiny.configuration import grid_size
from inference.pool.tiny.losses.dense import ConceptHeads, TokenHead


@dataclass(frozen=True, slots=True)
class Models:
    """The two shipped models, which share one backbone, and the training-only heads."""

    tokenizer: CLIPTokenizer
    detector: Sam3Model
    tracker: Sam3TrackerModel
    token_head: TokenHead
    concept_heads: ConceptHeads
    device: torch.device

    @property
    def backbone(self) -> nn.Module:
        """The shared vision transformer."""
        backbone: nn.Module = self.detector.vision_encoder.backbone
        return backbone

    @property
    def image_size(self) -> int:
        """Side of the square pictures that the models take."""
        return int(self.detector.config.image_size)

    def state_dict(self) -> dict[str, Any]:
        """All weights. The backbone is in it twice, under the detector and the tracker, with equal values."""
        return {name: getattr(self, name).state_dict() for name in _PARTS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the weights of `state_dict()`'s answer."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])


_PARTS = ("detector", "tracker", "token_head", "concept_heads")


def build(seed: int, image_size: int, words: CLIPTokenizer, device: torch.device) -> Models:
    """Models with first weights; the same seed gives the same weights."""
    torch.manual_seed(seed)
    detector = initialisation.build_detector(image_size, words)
    tracker = initialisation.build_tracker(detector)
    token_head = TokenHead(detector.config.vision_config.backbone_config.hidden_size)
    parts = [detector, tracker, token_head, ConceptHeads()]
    for part in parts:
        part.to(device)
    return Models(words, detector, tracker, token_head, parts[3], device)


def enlarged(models: Models, image_size: int) -> Models:
    """The same weights for larger pictures: only the backbone's position embeddings depend on the size."""
    larger = build(0, image_size, models.tokenizer, models.device)
    state = models.state_dict()
    side = grid_size(models.image_size)
    for part in ("detector", "tracker"):
        name = "vision_encoder.backbone.embeddings.position_embeddings"
        table = state[part][name].transpose(1, 2).unflatten(2, (side, side))
        grid = (grid_size(image_size),) * 2
        state[part][name] = functional.interpolate(table, grid, mode="bicubic").flatten(2).transpose(1, 2)
    larger.load_state_dict(state)
    return larger


def write_atomically(state: dict[str, Any], path: Path) -> None:
    """Save so that a run killed in the middle leaves the previous file whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
