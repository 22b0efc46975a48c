"""The detector's forward pass for training: many prompts per picture, every decoder layer's answer kept.

The class's own forward returns the last layer only and needs the vision features repeated by the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPTokenizer, Sam3Model

from inference.pool.tiny.configuration import TEXT_LENGTH
from inference.pool.tiny.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of (picture, prompt) pairs.

    image_index [R]; token_ids and token_mask [R, T]; box_rows: indices of the rows with boxes [K]; boxes [K, N, 4]
    cxcywh; labels [K, N], -10 where padded.
    """

    image_index: torch.Tensor
    token_ids: torch.Tensor
    token_mask: torch.Tensor
    box_rows: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Answers:
    """What the detector says. L decoder layers, R rows, Q queries.

    logits [L, R, Q]; boxes [L, R, Q, 4] cxcywh; presence [L, R]; queries [R, Q, C]; memory [R, tokens, C];
    text [R, C], the mean over words; prompt [R, P, C] and prompt_mask [R, P].
    """

    logits: torch.Tensor
    boxes: torch.Tensor
    presence: torch.Tensor
    queries: torch.Tensor
    memory: torch.Tensor
    text: torch.Tensor
    prompt: torch.Tensor
    prompt_mask: torch.Tensor


def rows_of(prompts: Sequence[Sequence[Prompt]], tokenizer: CLIPTokenizer, device: torch.device) -> Rows:
    """Tokenise and pad the prompts of each picture."""
    flat = [prompt for of_image in prompts for prompt in of_image]
    encoded = tokenizer(
        [prompt.text for prompt in flat], padding=True, truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    )
    with_boxes = [index for index, prompt in enumerate(flat) if len(prompt.boxes)]
    longest = max((len(flat[index].boxes) for index in with_boxes), default=0)
    boxes = np.full((len(with_boxes), longest, 4), 0.5, dtype=np.float32)
    labels = np.full((len(with_boxes), longest), -10, dtype=np.int64)
    for place, index in enumerate(with_boxes):
        boxes[place, : len(flat[index].boxes)] = flat[index].boxes
        labels[place, : len(flat[index].labels)] = flat[index].labels
    image_index = np.repeat(np.arange(len(prompts)), [len(of_image) for of_image in prompts])
    return Rows(
        torch.from_numpy(image_index).to(device),
        encoded.input_ids.to(device),
        encoded.attention_mask.to(device),
        torch.tensor(with_boxes, dtype=torch.long, device=device),
        torch.from_numpy(boxes).to(device),
        torch.from_numpy(labels).to(device),
    )


def answer(detector: Sam3Model, levels: Sequence[torch.Tensor], position: torch.Tensor, rows: Rows) -> Answers:
    """Run text, geometry, encoder and decoder. levels: the neck's first three outputs; position: of the last one."""
    features = levels[-1][rows.image_index]
    position = position[:1].expand(len(features), -1, -1, -1)
    text = detector.get_text_features(rows.token_ids, rows.token_mask).pooler_output
    weights = rows.token_mask.unsqueeze(-1).to(text.dtype)
    mean = (text * weights).sum(1) / weights.sum(1)
    prompt, prompt_mask = _with_geometry(detector, features, position, text, rows)
    encoded = detector.detr_encoder(
        vision_features=[features], text_features=prompt, vision_pos_embeds=[position], text_mask=prompt_mask
    )
    decoded = detector.detr_decoder(
        vision_features=encoded.last_hidden_state,
        text_features=prompt,
        vision_pos_encoding=encoded.pos_embeds_flattened,
        text_mask=prompt_mask,
        spatial_shapes=encoded.spatial_shapes,
    )
    hidden = decoded.intermediate_hidden_states
    offsets = detector.detr_decoder.box_head(hidden)
    anchors = torch.logit(decoded.reference_boxes.clamp(1e-3, 1.0 - 1e-3))
    logits = detector.dot_product_scoring(hidden, prompt, prompt_mask).squeeze(-1)
    return Answers(
        logits,
        (anchors + offsets).sigmoid(),
        decoded.presence_logits.squeeze(-1),
        hidden[-1],
        encoded.last_hidden_state,
        mean,
        prompt,
        prompt_mask,
    )


def masks_of(
    detector: Sam3Model, levels: Sequence[torch.Tensor], rows: Rows, answers: Answers, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits [K, Q, M, M] and union logits [K, M, M] of the chosen rows [K]."""
    images = rows.image_index[chosen]
    output = detector.mask_decoder(
        decoder_queries=answers.queries[chosen],
        backbone_features=[level[images] for level in levels],
        encoder_hidden_states=answers.memory[chosen],
        prompt_features=answers.prompt[chosen],
        prompt_mask=answers.prompt_mask[chosen],
    )
    return output.pred_masks, output.semantic_seg.squeeze(1)


def _with_geometry(
    detector: Sam3Model,
    features: torch.Tensor,
    position: torch.Tensor,
    text: torch.Tensor,
    rows: Rows,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Append box tokens to the rows that have boxes; in the others these places are masked out."""
    valid = rows.token_mask.bool()
    if len(rows.box_rows) == 0:
        return text, valid
    geometry = detector.geometry_encoder(
        box_embeddings=rows.boxes,
        box_mask=rows.labels != -10,
        box_labels=rows.labels.clamp(min=0),
        img_feats=(features[rows.box_rows],),
        img_pos_embeds=(position[rows.box_rows],),
    )
    length = geometry.last_hidden_state.shape[1]
    tokens = text.new_zeros(len(text), length, text.shape[-1]).index_copy(
        0, rows.box_rows, geometry.last_hidden_state.to(text.dtype)
    )
    mask = torch.zeros(len(text), length, dtype=torch.bool, device=text.device).index_copy(
        0, rows.box_rows, geometry.attention_mask.bool()
    )
    return torch.cat([text, tokens], dim=1), torch.cat([valid, mask], dim=1)
