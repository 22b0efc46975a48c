"""What one training step does in each kind of phase."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from inference.pool.tiny.examples import Example, to_model
from inference.pool.tiny.losses.dense import TokenTargets
from inference.pool.tiny.models import Models
from inference.pool.tiny.schedule import Phase

ParameterGroups = list[tuple[float, list[nn.Parameter]]]


class Stage(Protocol):
    """One kind of phase."""

    batch_size: int

    def __init__(self, models: Models, phase: Phase) -> None:
        """Take the models to train and the phase's settings."""

    def begin(self, examples: Sequence[Example]) -> None:
        """Adapt first weights to the data, once, before the phase's first step."""

    def parameter_groups(self) -> ParameterGroups:
        """What is trained, each with its learning-rate factor."""

    def loss(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of one batch and figures for the curve."""


def pixel_batch(examples: Sequence[Example], device: torch.device) -> torch.Tensor:
    """The examples' pixels as the model's input [batch, 3, S, S]."""
    return to_model(torch.from_numpy(np.stack([example.pixels for example in examples])).to(device))


def backbone_map(models: Models, pixels: torch.Tensor, *, trained: bool) -> torch.Tensor:
    """The shared backbone's output as a picture [batch, C, grid, grid]; without gradients unless it is trained."""
    with torch.set_grad_enabled(trained):
        tokens = models.backbone(pixels).last_hidden_state
    return as_picture(tokens)


def as_picture(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [batch, grid², C] to [batch, C, grid, grid]."""
    grid = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (grid, grid))


class TokenStage:
    """The backbone alone learns to name what lies under each of its tokens."""

    batch_size = 16

    def __init__(self, models: Models, phase: Phase) -> None:
        """Train `models.backbone` and helper A."""
        self._models, self._phase = models, phase

    def begin(self, examples: Sequence[Example]) -> None:
        """See `Stage`; nothing to adapt."""

    def parameter_groups(self) -> ParameterGroups:
        """See `Stage`."""
        models = self._models
        return [
            (self._phase.vision_factor, list(models.backbone.parameters())),
            (1.0, list(models.token_head.parameters())),
        ]

    def loss(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Stage`."""
        models = self._models
        tokens = models.backbone(pixel_batch(examples, models.device)).last_hidden_state
        loss, figures = models.token_head(tokens, TokenTargets(examples, models.device))
        return loss, figures
