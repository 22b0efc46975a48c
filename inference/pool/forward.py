"""Run a batch of prepared jobs on the device: encode what is new, then all detector rows, then all tracker rows.

Rows of different requests share model calls. A call that fails is repeated in halves, so that a batch too large for the
device's memory still gets through, and a row that breaks the model fails alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from inference.errors import ProviderFailed
from inference.pool.backend import Backend, DetectorRow, Embedding, RowFailed, TrackerRow
from inference.pool.composition import compose
from inference.pool.embedding_cache import CacheKey, EmbeddingCache
from inference.pool.job import Job, Prepared
from inference.pool.prompts import MASKS_MAX

_log = logging.getLogger(__name__)

R = TypeVar("R")
A = TypeVar("A")


def run_batch(
    backend: Backend, jobs: Sequence[Job], cache: EmbeddingCache, *, max_pictures: int, max_rows: int
) -> None:
    """Fill in `chosen` of each job, or fail it. Never raises."""
    prepared = {id(job): job.prepared for job in jobs if job.prepared is not None}
    embeddings = _encode(backend, list(prepared.values()), cache, max_pictures)
    detector: list[DetectorRow] = []
    tracker: list[TrackerRow] = []
    detector_owners: list[Job] = []
    tracker_owners: list[Job] = []
    for job in jobs:
        ready = prepared.get(id(job))
        embedding = None if ready is None else embeddings.get(ready.key)
        if ready is None or not isinstance(embedding, Embedding):
            job.fail(ProviderFailed("The model could not encode this picture."))
            continue
        rows = _detector_rows(job, ready, embedding)
        detector += rows
        detector_owners += [job] * len(rows)
        objects = _tracker_rows(ready, embedding)
        tracker += objects
        tracker_owners += [job] * len(objects)

    for job, candidates in zip(detector_owners, run_in_parts(backend.detect, detector, max_rows), strict=True):
        if isinstance(candidates, RowFailed):
            job.fail(ProviderFailed("The model gave no usable answer for this picture and prompt."))
        else:
            job.found.append(candidates)
    for job, candidate in zip(tracker_owners, run_in_parts(backend.track, tracker, max_rows), strict=True):
        if isinstance(candidate, RowFailed):
            job.fail(ProviderFailed("The model gave no usable answer for this picture and prompt."))
        else:
            job.tracked.append(candidate)
    for job in jobs:
        ready = prepared.get(id(job))
        if ready is not None and not job.future.done():
            job.chosen = compose(ready.plan, job.tracked, job.found, job.task.max_masks)


def run_in_parts(call: Callable[[Sequence[A]], Sequence[R]], rows: Sequence[A], rows_max: int) -> list[R | RowFailed]:
    """`call(rows)`, at most `rows_max` at once; a part that raises is halved until the row at fault stands alone."""
    results: list[R | RowFailed] = []
    for start in range(0, len(rows), rows_max):
        results += _run_halving(call, rows[start : start + rows_max])
    return results


def _run_halving(call: Callable[[Sequence[A]], Sequence[R]], rows: Sequence[A]) -> list[R | RowFailed]:
    try:
        return list(call(rows))
    except Exception as error:
        _log.warning("a model call of %d rows failed: %s", len(rows), error, exc_info=len(rows) == 1)
        if len(rows) == 1:
            return [RowFailed(str(error))]
    middle = len(rows) // 2
    return _run_halving(call, rows[:middle]) + _run_halving(call, rows[middle:])


def _encode(
    backend: Backend, prepared: Sequence[Prepared], cache: EmbeddingCache, max_pictures: int
) -> dict[CacheKey, Embedding | RowFailed]:
    """The embedding of every key; a picture that several jobs show is encoded once."""
    known: dict[CacheKey, Embedding | RowFailed] = {}
    new: dict[CacheKey, Prepared] = {}
    for item in prepared:
        if item.embedding is not None:
            known[item.key] = item.embedding
        else:
            new.setdefault(item.key, item)
    missing = [item for key, item in new.items() if key not in known]
    pictures = [item.squashed for item in missing if item.squashed is not None]
    for item, embedding in zip(missing, run_in_parts(backend.encode, pictures, max_pictures), strict=True):
        known[item.key] = embedding
        if isinstance(embedding, Embedding):
            cache.put(item.key, embedding)
    return known


def _detector_rows(job: Job, prepared: Prepared, embedding: Embedding) -> list[DetectorRow]:
    plan = prepared.plan
    # Matching and removal come after the model, so more than the wanted number of candidates may be needed.
    alone = len(plan.concepts) == 1 and not plan.objects and not plan.excluded
    limit = job.task.max_masks if alone else MASKS_MAX
    return [
        DetectorRow(embedding, tokens, concept.exemplars, job.task.threshold, limit)
        for concept, tokens in zip(plan.concepts, prepared.tokens, strict=True)
    ]


def _tracker_rows(prepared: Prepared, embedding: Embedding) -> list[TrackerRow]:
    return [
        TrackerRow(embedding, visual.points, visual.box, prepared.mask_prompt if visual.has_mask else None)
        for visual in prepared.plan.objects
    ]
