"""One training step of the detector."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from inference.pool.tiny.examples import Example
from inference.pool.tiny.forward import Answers, Rows, answer, masks_of, rows_of
from inference.pool.tiny.losses.dense import TokenTargets
from inference.pool.tiny.losses.detection import Pairs, detection_loss, mask_loss
from inference.pool.tiny.models import Models
from inference.pool.tiny.prompts import Prompt, prompts_for
from inference.pool.tiny.schedule import Phase
from inference.pool.tiny.stages import ParameterGroups, backbone_map, pixel_batch
from inference.pool.tiny.vocabulary import COLOUR_NAMES

_PROMPTS_PER_IMAGE = 4
_TOKEN_WEIGHT = 0.5
_MEMORY_WEIGHT = 2.0
_ALIGNMENT_WEIGHT = 1.5
_COSINE_PART = 0.03


class DetectorStage:
    """Text and box prompts on batches of scenes; the backbone is trained along unless the phase freezes it."""

    batch_size = 8

    def __init__(self, models: Models, phase: Phase) -> None:
        """Train `models.detector` and all helpers."""
        self._models, self._phase = models, phase

    def begin(self, examples: Sequence[Example]) -> None:
        """See `Stage`; nothing to adapt."""

    def parameter_groups(self) -> ParameterGroups:
        """See `Stage`. The text tower is slow: at full rate all words become one before any of them is of use."""
        models, phase = self._models, self._phase
        backbone = list(models.backbone.parameters())
        text = [*models.detector.text_encoder.parameters(), *models.detector.text_projection.parameters()]
        special = {id(parameter) for parameter in (*backbone, *text)}
        rest = [p for p in models.detector.parameters() if id(p) not in special]
        groups: ParameterGroups = [
            (phase.text_factor, text),
            (1.0, [*rest, *models.concept_heads.parameters()]),
        ]
        if phase.vision_factor > 0:
            groups += [(phase.vision_factor, backbone), (1.0, list(models.token_head.parameters()))]
        return groups

    def loss(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Stage`."""
        models = self._models
        detector = models.detector
        vision = backbone_map(models, pixel_batch(examples, models.device), trained=self._phase.vision_factor > 0)
        neck, positions = detector.vision_encoder.neck(vision)
        levels = neck[:3]
        prompts = [prompts_for(example, rng, _PROMPTS_PER_IMAGE) for example in examples]
        rows = rows_of(prompts, models.tokenizer, models.device)
        answers = answer(detector, levels, positions[2], rows)
        flat = [(example, prompt) for example, asked in zip(examples, prompts, strict=True) for prompt in asked]
        total, pairs, figures = detection_loss(answers, [example.boxes[prompt.targets] for example, prompt in flat])
        by_mask, mask_figures = self._masks(levels, rows, answers, pairs, flat)
        by_memory, by_alignment = self._concepts(levels[-1], rows, answers, flat)
        total = total + by_mask + _MEMORY_WEIGHT * by_memory + _ALIGNMENT_WEIGHT * by_alignment
        figures |= mask_figures
        figures |= {"memory": float(by_memory.detach()), "alignment": float(by_alignment.detach())}
        if rng.random() < _COSINE_PART:
            figures["colour_cosine"] = self._colour_cosine()
        if self._phase.vision_factor > 0:
            by_token, token_figures = models.token_head(
                vision.flatten(2).transpose(1, 2), TokenTargets(examples, models.device)
            )
            total = total + _TOKEN_WEIGHT * by_token
            figures["token_shape"] = token_figures["token_shape"]
        return total, figures

    def _masks(
        self,
        levels: Sequence[torch.Tensor],
        rows: Rows,
        answers: Answers,
        pairs: Pairs,
        flat: Sequence[tuple[Example, Prompt]],
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Masks of one prompt per picture: the fine convolutions are half of the step's cost."""
        groups = [range(first, first + _PROMPTS_PER_IMAGE) for first in range(0, len(flat), _PROMPTS_PER_IMAGE)]
        # The prompt with the most answers: telling equal objects apart is the hardest part of their masks.
        chosen = [max(group, key=lambda index: len(flat[index][1].targets)) for group in groups]
        kept = [index for index in chosen if len(flat[index][1].targets)]
        if not kept:
            return answers.logits.new_zeros(()), {}
        device = answers.logits.device
        masks, unions = masks_of(self._models.detector, levels, rows, answers, torch.tensor(kept, device=device))
        place = {row: index for index, row in enumerate(kept)}
        triples = [
            (place[row], query, flat[row][0].masks[flat[row][1].targets[item]])
            for row, query, item in zip(
                pairs.rows.tolist(), pairs.queries.tolist(), pairs.objects.tolist(), strict=True
            )
            if row in place
        ]
        owner = torch.tensor([triple[0] for triple in triples], device=device)
        query = torch.tensor([triple[1] for triple in triples], device=device)
        target = torch.from_numpy(np.stack([triple[2] for triple in triples])).to(device).float() / 255.0
        return mask_loss(masks[owner, query], unions, target, owner)

    def _concepts(
        self, neck: torch.Tensor, rows: Rows, answers: Answers, flat: Sequence[tuple[Example, Prompt]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Helpers B and C on every row."""
        union = np.stack(
            [example.masks[prompt.targets].sum(axis=0, dtype=np.float32).clip(0, 255) for example, prompt in flat]
        )
        target = functional.adaptive_avg_pool2d(torch.from_numpy(union).to(neck.device) / 255.0, neck.shape[-2:])
        named = torch.tensor([prompt.named for _, prompt in flat], device=neck.device)
        tokens = neck.flatten(2).transpose(1, 2)[rows.image_index]
        by_memory, by_alignment = self._models.concept_heads(
            answers.memory, tokens, answers.text, named, target.flatten(1)
        )
        return by_memory, by_alignment

    def _colour_cosine(self) -> float:
        """Mean cosine between the colours' text features; near 1 means that the text tower has collapsed."""
        models = self._models
        words = models.tokenizer(list(COLOUR_NAMES), padding=True, return_tensors="pt").to(models.device)
        with torch.no_grad():
            features = models.detector.get_text_features(**words).pooler_output
        weights = words.attention_mask.unsqueeze(-1)
        mean = nn.functional.normalize((features * weights).sum(1) / weights.sum(1), dim=-1)
        count = len(COLOUR_NAMES)
        return float(((mean @ mean.T).sum() - count) / (count * (count - 1)))
