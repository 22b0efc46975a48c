"""The geometry of the full model (1008 pixels, 72 x 72 tokens, 288 x 288 masks, 200 queries) with narrow layers."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam3Config, Sam3Model, Sam3TrackerConfig, Sam3TrackerModel

from inference.pool.backend import DetectorRow, RowFailed, TrackerRow
from inference.pool.backends.checkpoint import Checkpoint
from inference.pool.backends.sam3 import Sam3Backend
from inference.pool.composition import iou
from inference.pool.squash import squash
from inference.pool.tiny import tokenizer
from tests.inference.drawings import shapes

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 16


def vision(scales: list[float]) -> dict[str, Any]:
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
        },
        "fpn_hidden_size": WIDTH,
        "scale_factors": scales,
    }


def models(scales: list[float]) -> tuple[Sam3Model, Sam3TrackerModel, Any]:
    """Detector and tracker that share one backbone, with random weights, and a tokenizer."""
    words = tokenizer.build()
    layers = {"hidden_size": WIDTH, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "dropout": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        detector = Sam3Model(
            Sam3Config(
                vision_config=vision(scales),
                text_config={
                    "model_type": "clip_text_model",
                    "vocab_size": len(words),
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "max_position_embeddings": 32,
                },
                geometry_encoder_config=layers,
                detr_encoder_config=layers,
                detr_decoder_config=layers,
                mask_decoder_config={"hidden_size": WIDTH, "num_attention_heads": 2},
            )
        )
        tracker = Sam3TrackerModel(
            Sam3TrackerConfig(
                vision_config=vision([4.0, 2.0, 1.0, 0.5]),
                prompt_encoder_config={"hidden_size": WIDTH},
                mask_decoder_config={"hidden_size": WIDTH, "mlp_dim": 16, "num_attention_heads": 2},
            )
        )
    for model in (detector, tracker):
        for parameter in model.parameters():  # the classes' own start is too small for masks to differ
            if parameter.ndim > 1:
                torch.nn.init.xavier_uniform_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    tracker.vision_encoder.backbone = detector.vision_encoder.backbone
    return detector.eval().requires_grad_(False), tracker.eval().requires_grad_(False), words


@pytest.fixture(scope="module")
def both() -> SimpleNamespace:
    detector, tracker, words = models([4.0, 2.0, 1.0, 0.5])
    plain = copy.deepcopy(detector)
    return SimpleNamespace(plain=plain, backend=Sam3Backend(Checkpoint(detector, tracker, words)))


def test_detection_equals_the_class(both: SimpleNamespace) -> None:
    backend, plain = both.backend, both.plain
    assert (backend.picture_side, backend.mask_side, backend.token_limit) == (1008, 288, 32)
    picture = squash(np.array(shapes(640, 480)), 1008)
    (embedding,) = backend.encode([picture])
    box = (0.4, 0.5, 0.7, 0.6)
    ids = backend.tokenize("red circle")
    for exemplars in ((), ((*box, True),)):
        (found,) = backend.detect([DetectorRow(embedding, ids, exemplars, 0.0, 3)])
        assert not isinstance(found, RowFailed)
        prompts = {"input_boxes": torch.tensor([[box]])} if exemplars else {}
        values = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        output = plain(
            pixel_values=values,
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            **prompts,
        )
        best, order = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0].topk(3)
        assert [c.score for c in found] == pytest.approx(best.tolist(), abs=1e-4)
        for candidate, place in zip(found, order.tolist(), strict=True):
            assert candidate.logits.shape == (288, 288)
            assert iou(candidate.logits, output.pred_masks[0, place].numpy()) >= 0.99


def test_clicks_work_at_this_size(both: SimpleNamespace) -> None:
    (embedding,) = both.backend.encode([squash(np.array(shapes(640, 480)), 1008)])
    mask = np.full((288, 288), -10, dtype=np.float32)
    rows = [
        TrackerRow(embedding, ((0.5, 0.5, True),), None, None),
        TrackerRow(embedding, (), (0.1, 0.1, 0.9, 0.9), None),
        TrackerRow(embedding, (), None, mask),
    ]
    for answer in both.backend.track(rows):
        assert not isinstance(answer, RowFailed)
        assert answer.logits.shape == (288, 288)


def test_a_neck_of_three_levels_as_in_sam_3_1_gives_the_same_levels() -> None:
    four, tracker, words = models([4.0, 2.0, 1.0, 0.5])
    three, _, _ = models([4.0, 2.0, 1.0])
    weights = {name: value for name, value in four.state_dict().items() if "fpn_layers.3" not in name}
    three.load_state_dict(weights)
    answers = []
    for detector in (four, three):
        backend = Sam3Backend(Checkpoint(detector, tracker, words))
        (embedding,) = backend.encode([squash(np.array(shapes(640, 480)), 1008)])
        (found,) = backend.detect([DetectorRow(embedding, backend.tokenize("circle"), (), 0.0, 2)])
        assert not isinstance(found, RowFailed)
        answers.append(found)
    assert [c.score for c in answers[0]] == pytest.approx([c.score for c in answers[1]], abs=1e-5)
    assert iou(answers[0][0].logits, answers[1][0].logits) >= 0.99
