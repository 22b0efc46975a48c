"""First weights of the small model.

transformers starts every matrix from a normal of 0.02, made for widths near 1000; at width 64 nothing would move for
thousands of steps. Here every matrix starts Xavier- or Kaiming-scaled and the decoder's anchors start as a grid.
"""

import math

import torch
from torch import nn
from transformers import CLIPTokenizer, Sam3Model, Sam3TrackerModel

from inference.pool.tiny.configuration import (
    QUERY_GRID,
    WIDTH,
    detector_configuration,
    tracker_configuration,
)

_ANCHOR_SIZE = 0.22
_NECK_NORM = 6.0
_OUTSIDE_PENALTY = 4.0


def build_detector(image_size: int, tokenizer: CLIPTokenizer) -> Sam3Model:
    """A detector with first weights from torch's current random state, in training mode."""
    detector = Sam3Model(detector_configuration(image_size, tokenizer))
    _scale(detector)
    embeddings = detector.text_encoder.text_model.embeddings
    nn.init.normal_(embeddings.token_embedding.weight, std=1.0)
    nn.init.normal_(embeddings.position_embedding.weight, std=0.3)
    nn.init.normal_(detector.vision_encoder.backbone.embeddings.position_embeddings, std=0.2)
    _place_anchors(detector.detr_decoder)
    return detector.train()


def build_tracker(detector: Sam3Model) -> Sam3TrackerModel:
    """A tracker with first weights that shares the detector's vision backbone, in training mode."""
    tracker = Sam3TrackerModel(tracker_configuration(int(detector.config.image_size)))
    _scale(tracker)
    tracker.vision_encoder.backbone = detector.vision_encoder.backbone
    encoder = tracker.prompt_encoder
    with torch.no_grad():
        # One random Fourier basis for clicks and for the image grid: only then can attention compare the two.
        encoder.shared_embedding.positional_embedding.copy_(tracker.shared_image_embedding.positional_embedding)
        for name, module in tracker.mask_decoder.named_modules():
            if name.endswith(("cross_attn_token_to_image", "cross_attn_image_to_token", "final_attn_token_to_image")):
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.k_proj.bias.copy_(module.q_proj.bias)
    return tracker.train()


def rescale_tracker_neck(tracker: Sam3TrackerModel, vision: torch.Tensor) -> None:
    """Scale the tracker's neck so that its features have about the norm of the positional encoding.

    The backbone has no final LayerNorm; without this its features drown the clicks. vision: [B, C, H, W].
    """
    with torch.no_grad():
        levels, _ = tracker.vision_encoder.neck(vision)
        for level, layer in zip(levels[:3], tracker.vision_encoder.neck.fpn_layers[:3], strict=True):
            factor = _NECK_NORM / float(level.norm(dim=1).mean())
            layer.proj2.weight.mul_(factor)
            layer.proj2.bias.mul_(factor)


def _scale(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5.0) if module.kernel_size == (1, 1) else 1.0)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
            continue
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _place_anchors(decoder: nn.Module) -> None:
    """Anchors on a grid, no box correction yet, and attention that keeps inside each query's box."""
    centres = (torch.arange(QUERY_GRID) + 0.5) / QUERY_GRID
    grid_y, grid_x = torch.meshgrid(centres, centres, indexing="ij")
    sizes = torch.full_like(grid_x, _ANCHOR_SIZE)
    with torch.no_grad():
        decoder.reference_points.weight.copy_(
            torch.logit(torch.stack([grid_x, grid_y, sizes, sizes], dim=-1).reshape(-1, 4))
        )
        nn.init.zeros_(decoder.box_head.layer3.weight)
        nn.init.zeros_(decoder.box_head.layer3.bias)
        for embed in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y):
            # Inputs: signed log distances of a position from the box's low and high edge. Two units fire outside.
            nn.init.normal_(embed.layer1.weight, std=0.5)
            nn.init.normal_(embed.layer2.weight, std=0.1 / math.sqrt(WIDTH))
            embed.layer1.weight[0] = torch.tensor([-3.0, 0.0])
            embed.layer1.weight[1] = torch.tensor([0.0, 3.0])
            embed.layer1.bias[:2] = 0.0
            embed.layer2.weight[:, :2] = -_OUTSIDE_PENALTY / 3.0
