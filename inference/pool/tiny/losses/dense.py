"""Training-only helpers that teach the backbone and the encoder where what is; none of them is shipped.

A: each image token names the shape and colour of the object under it, its box and its 4×4 foreground.
B: each token of the DETR encoder's memory says whether it belongs to the prompted concept.
C: each token of the neck is compared with the text itself, so that words and looks meet early.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from inference.pool.tiny.configuration import WIDTH
from inference.pool.tiny.examples import Example
from inference.pool.tiny.losses.masks import balanced
from inference.pool.tiny.vocabulary import COLOUR_NAMES, SHAPE_NAMES

_CELL = 4


class TokenTargets:
    """What helper A has to say about each token of a batch: tensors [batch, tokens, …] built from examples."""

    def __init__(self, examples: Sequence[Example], device: torch.device) -> None:
        """Build the targets; a token belongs to the object that covers most of it, and to none below a tenth."""
        shapes, colours, boxes, fine = zip(*(_token_targets(example) for example in examples), strict=True)
        self.shapes = torch.from_numpy(np.stack(shapes)).to(device)
        self.colours = torch.from_numpy(np.stack(colours)).to(device)
        self.boxes = torch.from_numpy(np.stack(boxes)).to(device)
        self.fine = torch.from_numpy(np.stack(fine)).to(device)


def _token_targets(
    example: Example,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    grid = example.masks.shape[-1] // _CELL
    tokens = grid * grid
    cells = example.masks.reshape(-1, grid, _CELL, grid, _CELL).transpose(0, 1, 3, 2, 4)
    fine = cells.reshape(-1, tokens, _CELL * _CELL).astype(np.float32) / 255.0
    shapes = np.full(tokens, len(SHAPE_NAMES), dtype=np.int64)
    colours = np.full(tokens, len(COLOUR_NAMES), dtype=np.int64)
    boxes = np.zeros((tokens, 4), dtype=np.float32)
    if len(fine) == 0:
        return shapes, colours, boxes, np.zeros((tokens, _CELL * _CELL), dtype=np.float32)
    cover = fine.mean(axis=2)
    owner = cover.argmax(axis=0)
    owned = cover[owner, np.arange(tokens)] > 0.1
    shapes[owned] = example.shapes[owner[owned]]
    colours[owned] = example.colours[owner[owned]]
    centres = (np.stack(np.meshgrid(np.arange(grid), np.arange(grid)), -1).reshape(-1, 2) + 0.5) / grid
    chosen = example.boxes[owner[owned]]
    boxes[owned] = np.concatenate([chosen[:, :2] - centres[owned].astype(np.float32), chosen[:, 2:]], axis=1)
    return shapes, colours, boxes, np.minimum(fine.sum(axis=0), 1.0)


class TokenHead(nn.Module):  # type: ignore[misc]
    """Helper A."""

    def __init__(self, width: int) -> None:
        """`width`: the backbone's hidden size."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.shape = nn.Linear(width, len(SHAPE_NAMES) + 1)
        self.colour = nn.Linear(width, len(COLOUR_NAMES) + 1)
        self.box = nn.Linear(width, 4)
        self.fine = nn.Linear(width, _CELL * _CELL)

    def forward(self, tokens: torch.Tensor, targets: TokenTargets) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of the backbone's output [batch, tokens, width] and figures for the log."""
        features = functional.gelu(self.hidden(self.norm(tokens)))
        owned = targets.shapes < len(SHAPE_NAMES)
        shape, colour = self.shape(features), self.colour(features)
        count = owned.sum().clamp(min=1)
        weight = torch.where(owned, 1.0, 0.3)
        names = sum(
            (
                functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none") * weight.flatten()
            ).sum()
            / weight.sum()
            for logits, target in ((shape, targets.shapes), (colour, targets.colours))
        )
        box = (functional.l1_loss(self.box(features), targets.boxes, reduction="none").sum(-1) * owned).sum() / count
        fine = functional.binary_cross_entropy_with_logits(self.fine(features), targets.fine)
        figures = {
            "token_shape": float((shape.argmax(-1) == targets.shapes)[owned].float().mean()),
            "token_colour": float((colour.argmax(-1) == targets.colours)[owned].float().mean()),
            "token_fine": float(fine.detach()),
        }
        return names + 5.0 * box + 2.0 * fine, figures


class ConceptHeads(nn.Module):  # type: ignore[misc]
    """Helpers B and C."""

    def __init__(self) -> None:
        """Start with a neutral scale; a token is rarely a part of the concept, which the biases begin with."""
        super().__init__()
        self.memory = nn.Linear(WIDTH, 1)
        self.token_norm = nn.LayerNorm(WIDTH)
        self.text_norm = nn.LayerNorm(WIDTH)
        self.scale = nn.Parameter(torch.tensor(0.1))
        self.bias = nn.Parameter(torch.tensor(-2.0))
        nn.init.constant_(self.memory.bias, -2.0)

    def forward(
        self,
        memory: torch.Tensor,
        neck: torch.Tensor,
        text: torch.Tensor,
        named: torch.Tensor,
        target: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of B and C.

        memory and neck: [rows, tokens, width]; text: mean text feature [rows, width]; named: rows whose text says the
        concept, bool [rows]; target: covered part of each token by the concept, [rows, tokens].
        """
        by_memory = balanced(self.memory(memory).squeeze(-1), target)
        match = (self.token_norm(neck) @ self.text_norm(text).unsqueeze(-1)).squeeze(-1) * self.scale + self.bias
        return by_memory.mean(), (balanced(match, target) * named).sum() / named.sum().clamp(min=1)
