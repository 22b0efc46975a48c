"""The shipped model used as the pool uses it: plain transformers calls on one picture, masks at the picture's size."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from inference.pool.backends.checkpoint import Checkpoint
from inference.pool.squash import squash
from inference.pool.tiny.configuration import TEXT_LENGTH, mask_size
from inference.pool.tiny.examples import to_model
from inference.pool.tiny.stages import as_picture
from inference.pool.tiny.tracker_stage import image_embeddings

SCORE_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one prompt: masks bool [n, H, W] with their scores [n], best first."""

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]


class Picture:
    """One encoded picture; each prompt costs only itself."""

    def __init__(self, image: NDArray[np.uint8], models: Checkpoint) -> None:
        """Encode RGB [H, W, 3]."""
        self._detector, self._tracker, self._tokenizer = models.detector, models.tracker, models.tokenizer
        self._height, self._width = image.shape[:2]
        self._side = int(models.detector.config.image_size)
        self.mask_side = mask_size(self._side)
        with torch.inference_mode():
            pixels = to_model(torch.from_numpy(squash(image, self._side)).permute(2, 0, 1))[None]
            self._vision = self._detector.get_vision_features(pixels)
            tokens = self._vision.last_hidden_state
            self._embeddings = image_embeddings(self._tracker, as_picture(tokens))

    def texts(self, phrases: Sequence[str]) -> list[Found]:
        """All instances of each phrase."""
        encoded = self._tokenizer(
            list(phrases), padding=True, truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        )
        with torch.inference_mode():
            return self._found(self._detector(vision_embeds=self._repeated(len(phrases)), **encoded))

    def like(self, box: NDArray[np.float32]) -> Found:
        """Everything like the object in a box, cxcywh in 0..1."""
        encoded = self._tokenizer(["visual"], return_tensors="pt")
        boxes = torch.from_numpy(box.astype(np.float32))[None, None]
        labels = torch.ones(1, 1, dtype=torch.long)
        with torch.inference_mode():
            output = self._detector(vision_embeds=self._vision, input_boxes=boxes, input_boxes_labels=labels, **encoded)
            return self._found(output)[0]

    def click(self, x: float, y: float) -> NDArray[np.bool_]:
        """The object under a click in pixels, [H, W]."""
        point = torch.tensor([[[[x * self._side / self._width, y * self._side / self._height]]]])
        return self._tracked(
            input_points=point, input_labels=torch.ones(1, 1, 1, dtype=torch.long), multimask_output=True
        )

    def boxed(self, x0: float, y0: float, x1: float, y1: float) -> NDArray[np.bool_]:
        """The object in a box given in pixels, [H, W]."""
        box = torch.tensor([[[x0 / self._width, y0 / self._height, x1 / self._width, y1 / self._height]]]) * self._side
        return self._tracked(input_boxes=box, multimask_output=False)

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The object that a rough mask means, given as logits of the mask grid's size; [H, W]."""
        return self._tracked(input_masks=torch.from_numpy(logits)[None, None], multimask_output=False)

    def _tracked(self, **prompt: Any) -> NDArray[np.bool_]:
        with torch.inference_mode():
            output = self._tracker(image_embeddings=self._embeddings, **prompt)
            best = int(output.iou_scores[0, 0].argmax())
            mask: NDArray[np.bool_] = self._full_size(output.pred_masks[:, 0, best : best + 1])[0]
        return mask

    def _repeated(self, count: int) -> Any:
        """The vision features once per prompt; the class does not broadcast them."""
        vision = copy(self._vision)
        for name in ("fpn_hidden_states", "fpn_position_encoding"):
            setattr(vision, name, tuple(level.expand(count, -1, -1, -1) for level in getattr(vision, name)))
        return vision

    def _found(self, output: Any) -> list[Found]:
        scores = output.pred_logits.sigmoid() * output.presence_logits.sigmoid()
        found = []
        for row_scores, row_masks in zip(scores, output.pred_masks, strict=True):
            order = row_scores.argsort(descending=True)
            kept = order[row_scores[order] > SCORE_THRESHOLD]
            found.append(Found(self._full_size(row_masks[None, kept]), row_scores[kept].numpy()))
        return found

    def _full_size(self, logits: torch.Tensor) -> NDArray[np.bool_]:
        """Logits [1, n, m, m] to masks [n, H, W]."""
        size = (self._height, self._width)
        if logits.shape[1] == 0:
            return np.zeros((0, *size), dtype=bool)
        masks: NDArray[np.bool_] = (functional.interpolate(logits.float(), size, mode="bilinear")[0] > 0.0).numpy()
        return masks
