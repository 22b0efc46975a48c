"""First stage, on CPU threads: check the prompt, decode the picture, squash it, tokenize."""

import hashlib
import time

from inference.errors import InputRejected
from inference.pictures import open_header
from inference.pool.backend import Backend
from inference.pool.composition import dense_prompt
from inference.pool.embedding_cache import CacheKey, EmbeddingCache
from inference.pool.job import Job, Prepared
from inference.pool.pictures import Pixels, decode_mask_prompt, decode_pixels
from inference.pool.prompts import Plan, plan
from inference.pool.results import needs_pixels
from inference.pool.squash import squash
from inference.rendering import result_size

# Larger pictures are decoded a second time for drawing rather than kept while their job waits for the device.
_KEPT_PIXELS_MAX = 4_000_000


def prepare(job: Job, cache: EmbeddingCache) -> Prepared:
    """All that can be done without the device; cheapest checks first. Raises InputRejected."""
    started = time.monotonic()
    task, backend = job.task, job.backend
    header = open_header(task.picture.data)
    width, height = header.width, header.height
    result_width, result_height = result_size(width, height, task.rendering)
    planned = plan(task, width=width, height=height)
    tokens = _tokens(planned, backend)
    mask = task.prompt.mask
    selects = task.prompt.mask_selects
    dense = dense_prompt(decode_mask_prompt(mask.data, backend.mask_side, selects)) if mask else None
    key = CacheKey(job.checkpoint, task.organization, hashlib.sha256(task.picture.data).digest())
    embedding = cache.get(key)
    drawing = needs_pixels(task.rendering)
    pixels: Pixels | None = None
    squashed = None
    if embedding is None:
        pixels = decode_pixels(task.picture.data, side_min=None if drawing else backend.picture_side)
        squashed = squash(pixels, backend.picture_side)
    keep = drawing and width * height <= _KEPT_PIXELS_MAX
    job.seconds["decode"] = time.monotonic() - started
    return Prepared(
        key=key,
        width=width,
        height=height,
        result_width=result_width,
        result_height=result_height,
        plan=planned,
        tokens=tokens,
        squashed=squashed,
        embedding=embedding,
        mask_prompt=dense,
        pixels=pixels if keep else None,
    )


def _tokens(planned: Plan, backend: Backend) -> tuple[tuple[int, ...], ...]:
    """Token ids of each concept. A phrase that does not fit is refused: cutting it would change what it means."""
    tokens = []
    for concept in planned.concepts:
        ids = backend.tokenize(concept.text)
        if len(ids) > backend.token_limit:
            shown = concept.text if len(concept.text) <= 40 else concept.text[:40] + "…"
            raise InputRejected(
                f"The concept '{shown}' is {len(ids) - 2} tokens long; at most {backend.token_limit - 2} (about "
                f"{(backend.token_limit - 2) * 3 // 4} words) are accepted. Name the object in a few words; several "
                "concepts are separated by commas.",
                field="prompt",
            )
        tokens.append(ids)
    return tuple(tokens)
