"""The backend answers as the plain transformers classes do, whatever it shares, batches, caches or skips."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Sam3Model, Sam3TrackerModel

from inference.pool.backend import Candidate, DetectorRow, Embedding, RowFailed, TrackerRow
from inference.pool.backends.checkpoint import Checkpoint, CheckpointUnusable, load_checkpoint
from inference.pool.backends.sam3 import Sam3Backend
from inference.pool.composition import iou
from inference.pool.squash import squash
from tests.inference.drawings import shapes

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 96


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(random_checkpoint, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def backend(checkpoint: Checkpoint) -> Sam3Backend:
    return Sam3Backend(checkpoint)


@pytest.fixture(scope="module")
def plain(random_checkpoint: Path, backend: Sam3Backend) -> SimpleNamespace:
    """The same weights in unshared classes, called the way their documentation says."""
    return SimpleNamespace(
        detector=Sam3Model.from_pretrained(random_checkpoint, dtype=torch.float32).eval().requires_grad_(False),
        tracker=Sam3TrackerModel.from_pretrained(random_checkpoint, dtype=torch.float32).eval().requires_grad_(False),
    )


def squashed(seed: int) -> NDArray[np.uint8]:
    return squash(np.array(shapes(seed=seed)), SIDE)


def values(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1


def assert_same(found: list[Candidate] | RowFailed, scores: torch.Tensor, masks: torch.Tensor) -> None:
    assert not isinstance(found, RowFailed)
    assert len(found) == len(scores) > 0
    for candidate, score, mask in zip(found, scores, masks, strict=True):
        assert candidate.score == pytest.approx(float(score), abs=1e-4)
        assert iou(candidate.logits, mask.numpy()) >= 0.99


def reference_detection(
    plain: SimpleNamespace,
    backend: Sam3Backend,
    picture: NDArray[np.uint8],
    text: str,
    boxes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best five, one picture and one prompt per call, text padded to 32 tokens as the processor does."""
    ids = list(backend.tokenize(text))
    padded = torch.tensor([ids + [ids[-1]] * (32 - len(ids))])
    mask = torch.tensor([[1] * len(ids) + [0] * (32 - len(ids))])
    prompts = (
        {} if boxes is None else {"input_boxes": boxes[None, :, :4], "input_boxes_labels": boxes[None, :, 4].long()}
    )
    output = plain.detector(pixel_values=values(picture), input_ids=padded, attention_mask=mask, **prompts)
    scores = (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]
    best, order = scores.topk(5)
    return best, output.pred_masks[0, order]


def test_a_mixed_batch_finds_what_single_calls_find(plain: SimpleNamespace, backend: Sam3Backend) -> None:
    """Different pictures, one of them twice, texts of different length, with and without exemplars, in one call."""
    pictures = [squashed(seed) for seed in range(3)]
    embeddings = backend.encode(pictures)
    exemplar = (0.4, 0.45, 0.3, 0.2, True)
    negative = (0.7, 0.6, 0.2, 0.2, False)
    wanted = [
        (0, "red circle", ()),
        (0, "everything that is blue", ()),
        (1, "circle", (exemplar,)),
        (2, "visual", (exemplar, negative)),
        (1, "green rectangle", ()),
        (2, "visual", (negative,)),
    ]
    rows = [DetectorRow(embeddings[i], backend.tokenize(text), boxes, 0.0, 5) for i, text, boxes in wanted]
    for found, (i, text, boxes) in zip(backend.detect(rows), wanted, strict=True):
        exemplars = torch.tensor(boxes, dtype=torch.float32) if boxes else None
        assert_same(found, *reference_detection(plain, backend, pictures[i], text, exemplars))


def test_only_candidates_above_the_threshold_come_back(plain: SimpleNamespace, backend: Sam3Backend) -> None:
    picture = squashed(0)
    best, _ = reference_detection(plain, backend, picture, "circle")
    between = float(best[1] + best[2]) / 2
    (embedding,) = backend.encode([picture])
    tokens = backend.tokenize("circle")
    rows = [DetectorRow(embedding, tokens, (), between, 5), DetectorRow(embedding, tokens, (), 1.0, 5)]
    some, none = backend.detect(rows)
    assert not isinstance(some, RowFailed)
    assert len(some) == 2
    assert none == []


def reference_tracking(
    plain: SimpleNamespace, picture: NDArray[np.uint8], row: TrackerRow
) -> tuple[float, torch.Tensor]:
    """One object of one picture, embeddings by the class itself plus the no-memory term that it forgets."""
    tracker = plain.tracker
    features = tracker.get_image_features(values(picture), return_dict=True).fpn_hidden_states[:3]
    sizes = tracker.backbone_feature_sizes
    levels = [f.permute(1, 2, 0).view(1, -1, *size) for f, size in zip(features, sizes, strict=True)]
    levels[2] = levels[2] + tracker.no_memory_embedding.view(1, -1, 1, 1)
    output = tracker(
        image_embeddings=levels,
        input_points=torch.tensor([[[p[:2] for p in row.points]]]) * SIDE if row.points else None,
        input_labels=torch.tensor([[[int(p[2]) for p in row.points]]]) if row.points else None,
        input_boxes=torch.tensor([[row.box]]) * SIDE if row.box else None,
        input_masks=torch.from_numpy(row.mask)[None, None] if row.mask is not None else None,
        multimask_output=len(row.points) == 1 and row.box is None and row.mask is None,
    )
    best = int(output.iou_scores[0, 0].argmax())
    score = output.iou_scores[0, 0, best] * output.object_score_logits[0, 0, 0].sigmoid()
    return float(score), output.pred_masks[0, 0, best]


def test_objects_of_every_kind_in_one_batch_equal_single_calls(plain: SimpleNamespace, backend: Sam3Backend) -> None:
    pictures = [squashed(seed) for seed in range(2)]
    embeddings = backend.encode(pictures)
    rough = np.full((backend.mask_side, backend.mask_side), -10, dtype=np.float32)
    rough[10:30, 12:28] = 10
    point, other, negative = (0.3, 0.4, True), (0.6, 0.5, True), (0.8, 0.8, False)
    box = (0.2, 0.25, 0.6, 0.7)
    wanted = [
        (0, TrackerRow(embeddings[0], (point,), None, None)),
        (1, TrackerRow(embeddings[1], (point, negative), None, None)),
        (0, TrackerRow(embeddings[0], (), box, None)),
        (0, TrackerRow(embeddings[0], (other,), box, None)),
        (1, TrackerRow(embeddings[1], (), None, rough)),
        (1, TrackerRow(embeddings[1], (other,), None, None)),
        (0, TrackerRow(embeddings[0], (point, other, negative), box, rough)),
    ]
    answers = backend.track([row for _, row in wanted])
    for answer, (i, row) in zip(answers, wanted, strict=True):
        assert not isinstance(answer, RowFailed)
        score, mask = reference_tracking(plain, pictures[i], row)
        assert answer.score == pytest.approx(score, abs=1e-4)
        assert iou(answer.logits, mask.numpy()) >= 0.99


def test_the_no_memory_embedding_counts(random_checkpoint: Path, backend: Sam3Backend) -> None:
    """Meta's code adds it to the features that clicks are matched against; without it, clicks land elsewhere."""
    other = load_checkpoint(random_checkpoint, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        other.tracker.no_memory_embedding.zero_()
    without = Sam3Backend(other)
    answers = []
    for either in (backend, without):
        (embedding,) = either.encode([squashed(0)])
        (answer,) = either.track([TrackerRow(embedding, ((0.3, 0.4, True),), None, None)])
        assert not isinstance(answer, RowFailed)
        answers.append(answer.logits)
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_detector_and_tracker_share_one_backbone(checkpoint: Checkpoint) -> None:
    assert checkpoint.tracker.vision_encoder.backbone is checkpoint.detector.vision_encoder.backbone


def test_a_row_with_nan_fails_alone(backend: Sam3Backend) -> None:
    healthy, poisoned = backend.encode([squashed(0), squashed(1)])
    poisoned = Embedding(torch.full_like(poisoned.features, float("nan")), poisoned.nbytes)
    tokens = backend.tokenize("circle")
    alone = backend.detect([DetectorRow(healthy, tokens, (), 0.0, 2)])[0]
    both = backend.detect([DetectorRow(e, tokens, (), 0.0, 2) for e in (poisoned, healthy)])
    assert isinstance(both[0], RowFailed)
    assert not isinstance(both[1], RowFailed)
    assert not isinstance(alone, RowFailed)
    assert [c.score for c in both[1]] == pytest.approx([c.score for c in alone], abs=1e-5)
    clicks = backend.track([TrackerRow(e, ((0.5, 0.5, True),), None, None) for e in (poisoned, healthy)])
    assert isinstance(clicks[0], RowFailed)
    assert not isinstance(clicks[1], RowFailed)


def test_half_precision_takes_the_same_way_and_stays_close(random_checkpoint: Path, backend: Sam3Backend) -> None:
    half = Sam3Backend(load_checkpoint(random_checkpoint, device=torch.device("cpu"), dtype=torch.bfloat16))
    exemplar = (0.4, 0.45, 0.3, 0.2, True)
    answers = []
    for either in (backend, half):
        (embedding,) = either.encode([squashed(0)])
        tokens = either.tokenize("circle")
        found, alike = either.detect(
            [DetectorRow(embedding, tokens, (), 0.0, 1), DetectorRow(embedding, tokens, (exemplar,), 0.0, 1)]
        )
        clicked, boxed = either.track(
            [
                TrackerRow(embedding, ((0.3, 0.4, True),), None, None),
                TrackerRow(embedding, (), (0.2, 0.2, 0.6, 0.6), None),
            ]
        )
        assert not isinstance(found, RowFailed)
        assert not isinstance(alike, RowFailed)
        answers.append([found[0], alike[0], clicked, boxed])
    for exact, rounded in zip(*answers, strict=True):
        assert not isinstance(exact, RowFailed)
        assert not isinstance(rounded, RowFailed)
        assert rounded.score == pytest.approx(exact.score, abs=0.02)
        assert iou(exact.logits, rounded.logits) > 0.95  # random weights draw ragged masks, the hardest case


def test_a_missing_weight_is_a_refusal_to_start(random_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    for file in random_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["tracker_model.mask_decoder.iou_token.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointUnusable, match=r"lacks 1 weights of Sam3TrackerModel.*iou_token"):
        load_checkpoint(tmp_path, device=torch.device("cpu"), dtype=torch.float32)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnusable, match="GATEWAY_POOL_CHECKPOINT"):
        load_checkpoint(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
