"""SAM 3 by the classes of transformers: `Sam3Model` finds concepts, `Sam3TrackerModel` cuts out what was pointed at.

Both share one ViT, which is nine tenths of the work and does not depend on the prompt: a picture is encoded once
(`Sam3Backend.encode`) and prompted any number of times. The detector's parts are called one by one rather than through
`Sam3Model.forward`, so that rows of different pictures batch together, only candidates above the threshold reach the
mask head, and the spatial shape stays on the host (the class reads it back from the device twice per decoder layer).
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3SinePositionEmbedding

from inference.pool.backend import (
    Candidate,
    DetectorRow,
    DeviceOutOfMemory,
    Embedding,
    RowFailed,
    TrackerRow,
)
from inference.pool.backends import roi_align
from inference.pool.backends.checkpoint import Checkpoint

_TEXT_CACHE_ENTRIES = 4096  # 16 KB each at full size


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What the detector's transformer made of R rows: prompt tokens [R, T, C] and which of them count, picture tokens
    [R, side², C], queries [R, Q, C] and their scores [R, Q].
    """

    prompt: Tensor
    prompt_mask: Tensor | None
    memory: Tensor
    queries: Tensor
    scores: Tensor


class Sam3Backend:
    """One checkpoint on one device. All methods but `tokenize` belong to the thread that owns the device."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        roi_align.install()
        self._detector, self._tracker = checkpoint.detector, checkpoint.tracker
        self._tokenizer = checkpoint.tokenizer
        parameter = next(self._detector.parameters())
        self.device, self._dtype = parameter.device, parameter.dtype
        vision = self._detector.config.vision_config
        patch = vision.backbone_config.patch_size
        self.picture_side = int(vision.backbone_config.image_size)
        self._grid = self.picture_side // int(patch)
        self.mask_side = 4 * self._grid
        self.token_limit = int(self._detector.config.text_config.max_position_embeddings)
        self._texts: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        width = int(vision.fpn_hidden_size)
        self._position = Sam3SinePositionEmbedding(width // 2, normalize=True)(
            torch.Size((1, width, self._grid, self._grid)), self.device, self._dtype
        )
        # On the host on purpose: reading a number from it must not wait for the device.
        self._spatial_shapes = torch.tensor([[self._grid, self._grid]])

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a phrase, begin and end included, not shortened."""
        return tuple(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def memory_bytes(self) -> int:
        """Device memory in use; on a CPU the process's resident memory."""
        if self.device.type == "cuda":
            return int(torch.cuda.memory_allocated(self.device))
        return int(psutil.Process().memory_info().rss)

    # --- encode -------------------------------------------------------------------------------------------------------

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Run the shared ViT on uint8 pictures [side, side, 3]; one embedding each. Raises DeviceOutOfMemory."""
        with _device_call():
            stacked = torch.from_numpy(np.stack(pictures)).to(self.device, non_blocking=True)
            values = (stacked.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self._dtype)
            hidden = self._detector.vision_encoder.backbone(values).last_hidden_state
            # Each picture gets storage of its own: a view would keep the whole batch alive in the cache.
            return [Embedding(h.clone(), h.numel() * h.element_size()) for h in hidden]

    def _pyramid(self, neck: Any, hidden: Tensor, scales: Sequence[int]) -> list[Tensor]:
        """Levels of a neck by scale (4, 2, 1), [B, C, scale * grid, scale * grid] each. A 0.5x level exists in SAM 3
        and not in SAM 3.1; nothing reads it.
        """
        spatial = hidden.view(-1, self._grid, self._grid, hidden.shape[-1]).permute(0, 3, 1, 2)
        layers = {layer.scale_factor: layer for layer in neck.fpn_layers}
        return [layers[scale](spatial) for scale in scales]

    # --- detector -----------------------------------------------------------------------------------------------------

    def detect(self, rows: Sequence[DetectorRow]) -> list[list[Candidate] | RowFailed]:
        """Candidates of each row, best first. Rows with and without exemplars are run apart, because an exemplar row
        carries one more prompt token even when all its boxes are padding. Raises DeviceOutOfMemory.
        """
        results: list[list[Candidate] | RowFailed] = [[] for _ in rows]
        kinds: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            kinds.setdefault(len(row.exemplars), []).append(i)
        with _device_call():
            for members in kinds.values():
                for i, result in zip(members, self._detect([rows[i] for i in members]), strict=True):
                    results[i] = result
        return results

    def _detect(self, rows: list[DetectorRow]) -> list[list[Candidate] | RowFailed]:
        neck = self._detector.vision_encoder.neck
        hidden, places = _stack([row.embedding for row in rows])
        (coarse,) = self._pyramid(neck, hidden, (1,))
        decoded = self._decode(rows, coarse[places])
        limit = min(max(row.limit for row in rows), decoded.scores.shape[1])
        best, order = decoded.scores.topk(limit, dim=1)
        ranked = best.cpu().numpy()  # the only wait for the device before the masks

        results: list[list[Candidate] | RowFailed] = [[] for _ in rows]
        kept: dict[int, int] = {}  # rows with candidates, and how many
        for i, row in enumerate(rows):
            if np.isnan(ranked[i]).any():  # NaN sorts first, so it cannot hide below the cut
                results[i] = RowFailed("the detector returned NaN")
            elif count := int((ranked[i, : row.limit] >= row.threshold).sum()):
                kept[i] = count
        if not kept:
            return results
        some = list(kept)
        # The fine levels are most of a neck's work, and only pictures with something to draw need them.
        drawable = sorted({places[i] for i in some})
        fine = [drawable.index(places[i]) for i in some]
        levels = [level[fine] for level in self._pyramid(neck, hidden[drawable], (4, 2))]
        levels.append(coarse[[places[i] for i in some]])
        drawn = self._draw(decoded, levels, some, order[some, : max(kept.values())])
        for logits, (i, count) in zip(drawn, kept.items(), strict=True):
            if np.isnan(logits[:count]).any():
                results[i] = RowFailed("the mask head returned NaN")
            else:
                results[i] = [Candidate(float(ranked[i, k]), logits[k]) for k in range(count)]
        return results

    def _decode(self, rows: list[DetectorRow], coarse: Tensor) -> _Decoded:
        """All object queries of each row and their scores, for 1x features [R, C, side, side]."""
        position = self._position.expand(len(rows), -1, -1, -1)
        prompt, prompt_mask = self._prompt(rows, coarse, position)
        encoded = self._detector.detr_encoder(
            vision_features=[coarse],
            text_features=prompt,
            vision_pos_embeds=[position],
            text_mask=prompt_mask,
        )
        decoded = self._detector.detr_decoder(
            vision_features=encoded.last_hidden_state,
            text_features=encoded.text_features,
            vision_pos_encoding=encoded.pos_embeds_flattened,
            text_mask=prompt_mask,
            spatial_shapes=self._spatial_shapes,
        )
        queries = decoded.intermediate_hidden_states
        logits = self._detector.dot_product_scoring(
            decoder_hidden_states=queries[-1:], text_features=encoded.text_features, text_mask=prompt_mask
        )
        scores = logits[0].squeeze(-1).float().sigmoid() * decoded.presence_logits[-1].float().sigmoid()
        return _Decoded(prompt, prompt_mask, encoded.last_hidden_state, queries[-1], scores)

    def _draw(self, decoded: _Decoded, levels: list[Tensor], some: list[int], chosen: Tensor) -> NDArray[np.float32]:
        """Mask logits [S, K, side, side] of the queries `chosen` [S, K] of the rows `some` [S]."""
        mask = decoded.prompt_mask
        masks: Tensor = self._detector.mask_decoder(
            decoder_queries=decoded.queries[some].gather(
                1, chosen[..., None].expand(-1, -1, decoded.queries.shape[-1])
            ),
            backbone_features=levels,
            encoder_hidden_states=decoded.memory[some],
            prompt_features=decoded.prompt[some],
            prompt_mask=None if mask is None else mask[some],
        ).pred_masks
        logits: NDArray[np.float32] = masks.float().cpu().numpy()
        return logits

    def _prompt(self, rows: list[DetectorRow], coarse: Tensor, position: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prompt tokens [R, T, C] of text and exemplars, and which of them count, None if all do."""
        texts = self._text_features([row.token_ids for row in rows])
        longest = max(len(text) for text in texts)
        prompt = torch.stack([torch.nn.functional.pad(t, (0, 0, 0, longest - len(t))) for t in texts])
        mask = None
        if any(len(text) != longest for text in texts):
            lengths = torch.tensor([len(text) for text in texts], device=self.device)
            mask = torch.arange(longest, device=self.device)[None] < lengths[:, None]
        if not rows[0].exemplars:
            return prompt, mask
        boxes = torch.tensor([[e[:4] for e in row.exemplars] for row in rows], device=self.device)
        labels = torch.tensor([[int(e[4]) for e in row.exemplars] for row in rows], device=self.device)
        geometry = self._detector.geometry_encoder(
            box_embeddings=boxes.to(self._dtype),
            box_mask=torch.ones_like(labels, dtype=torch.bool),
            box_labels=labels,
            img_feats=(coarse,),
            img_pos_embeds=(position,),
        )
        if mask is None:
            mask = torch.ones(prompt.shape[:2], dtype=torch.bool, device=self.device)
        return (
            torch.cat([prompt, geometry.last_hidden_state], dim=1),
            torch.cat([mask, geometry.attention_mask], dim=1),
        )

    def _text_features(self, phrases: list[tuple[int, ...]]) -> list[Tensor]:
        """Per-token features [T, C] of each phrase, computed once per phrase."""
        missing = [ids for ids in dict.fromkeys(phrases) if ids not in self._texts]
        if missing:
            longest = max(len(ids) for ids in missing)
            padded = torch.tensor([list(ids) + [ids[-1]] * (longest - len(ids)) for ids in missing])
            mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in missing])
            features = self._detector.get_text_features(
                padded.to(self.device), attention_mask=mask.to(self.device)
            ).pooler_output
            for ids, feature in zip(missing, features, strict=True):
                self._texts[ids] = feature[: len(ids)].clone()
        found = [self._texts[ids] for ids in phrases]
        for ids in phrases:
            self._texts.move_to_end(ids)
        while len(self._texts) > _TEXT_CACHE_ENTRIES:
            self._texts.popitem(last=False)
        return found

    # --- tracker ------------------------------------------------------------------------------------------------------

    def track(self, rows: Sequence[TrackerRow]) -> list[Candidate | RowFailed]:
        """The mask of each row.

        Rows are run in groups of the same number of points, box or not, mask or not: padding points with zero tokens
        would change the attention of the shorter rows. Raises DeviceOutOfMemory.
        """
        results: list[Candidate | RowFailed] = [RowFailed("not run") for _ in rows]
        kinds: dict[tuple[int, bool, bool], list[int]] = {}
        for i, row in enumerate(rows):
            kind = (len(row.points), row.box is not None, row.mask is not None)
            kinds.setdefault(kind, []).append(i)
        with _device_call():
            hidden, places = _stack([row.embedding for row in rows])
            levels = self._tracker_levels(hidden)
            for members in kinds.values():
                pictures = [places[i] for i in members]
                group = self._track([rows[i] for i in members], [level[pictures] for level in levels])
                for i, result in zip(members, group, strict=True):
                    results[i] = result
        return results

    def _tracker_levels(self, hidden: Tensor) -> list[Tensor]:
        """The tracker's image embeddings [B, C/8, 4g, 4g], [B, C/4, 2g, 2g], [B, C, g, g] from the shared ViT's output.

        The no-memory embedding belongs on the coarsest of them, as in Meta's code; `Sam3TrackerModel` of transformers
        5.23 adds it to a fourth level that nothing reads.
        """
        levels = self._pyramid(self._tracker.vision_encoder.neck, hidden, (4, 2, 1))
        fine, middle, coarse = (level.float() for level in levels)
        decoder = self._tracker.mask_decoder
        memory = self._tracker.no_memory_embedding.view(1, -1, 1, 1)
        return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + memory]

    def _track(self, rows: list[TrackerRow], levels: list[Tensor]) -> list[Candidate | RowFailed]:
        first, side = rows[0], float(self.picture_side)
        points = labels = boxes = masks = None
        if first.points:
            points = torch.tensor([[[p[:2] for p in row.points]] for row in rows], device=self.device) * side
            labels = torch.tensor([[[int(p[2]) for p in row.points]] for row in rows], device=self.device)
            labels = labels.to(torch.int32)
        if first.box is not None:
            boxes = torch.tensor([[row.box] for row in rows], device=self.device) * side
        if first.mask is not None:
            stacked = np.stack([row.mask for row in rows if row.mask is not None])
            masks = torch.from_numpy(stacked)[:, None].to(self.device)
        ambiguous = len(first.points) == 1 and boxes is None and masks is None
        output = self._tracker(
            input_points=points,
            input_labels=labels,
            input_boxes=boxes,
            input_masks=masks,
            image_embeddings=levels,
            multimask_output=ambiguous,
        )
        quality = output.iou_scores[:, 0].float()
        choice = quality.argmax(dim=1)
        every = torch.arange(len(rows), device=self.device)
        scores = quality[every, choice] * output.object_score_logits[:, 0, 0].float().sigmoid()
        numbers = scores.cpu().numpy()
        drawn = output.pred_masks[every, 0, choice].float().cpu().numpy()
        results: list[Candidate | RowFailed] = []
        for i in range(len(rows)):
            if np.isnan(numbers[i]) or np.isnan(drawn[i]).any():
                results.append(RowFailed("the tracker returned NaN"))
            else:
                results.append(Candidate(float(numbers[i].clip(0, 1)), drawn[i]))
        return results


def _stack(embeddings: list[Embedding]) -> tuple[Tensor, list[int]]:
    """The distinct embeddings as [U, ...], and which of them each row uses."""
    distinct = {id(e): e for e in embeddings}
    order = {key: place for place, key in enumerate(distinct)}
    return torch.stack([e.features for e in distinct.values()]), [order[id(e)] for e in embeddings]


@contextmanager
def _device_call() -> Iterator[None]:
    """No gradients, and running out of memory under the name that the caller knows."""
    with torch.inference_mode():
        try:
            yield
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceOutOfMemory(str(error)) from error
