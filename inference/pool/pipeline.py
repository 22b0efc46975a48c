"""The pool's three stages and what passes between them.

    submit → fair queue → [prepare: CPU threads] → a few prepared jobs → [device: one thread] → [render: CPU threads]

The device thread takes whatever is prepared, up to a batch, the moment it is free; no timer makes anybody wait for
company. Only encoded pictures wait in the fair queue, so its memory is bounded by the bytes that `submit` admits;
decoded ones wait in the short queue behind it.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from inference.errors import InferenceError, ProviderFailed, ProviderSaturated
from inference.pool.backend import Backend, exercise
from inference.pool.embedding_cache import EmbeddingCache
from inference.pool.fair_queue import FairQueue
from inference.pool.forward import run_batch
from inference.pool.job import Job, Prepared
from inference.pool.metrics import PoolMetrics
from inference.pool.pictures import decode_pixels
from inference.pool.preparation import prepare
from inference.pool.results import needs_pixels, render
from inference.task import Mask, SegmentResult, SegmentTask

_log = logging.getLogger(__name__)

_CLOSE_POLL_SECONDS = 0.01
_SMOOTHING = 0.2  # weight of the newest measurement in a moving average


class Pipeline:
    """Jobs in, results out. Owns its threads; `close` ends them."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        *,
        metrics: PoolMetrics,
        max_queue: int,
        max_queue_bytes: int,
        max_batch: int,
        max_rows: int,
        cache_bytes: int,
        picture_threads: int,
        on_device_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`backends` by checkpoint name. `on_device_lost` is called from the device's thread when a backend does not
        work any more; from then on every request is refused.
        """
        self._backends = dict(backends)
        self._metrics = metrics
        self._max_queue, self._max_queue_bytes = max_queue, max_queue_bytes
        self._max_batch, self._max_rows = max_batch, max_rows
        self._picture_threads = picture_threads
        self._on_device_lost = on_device_lost
        self._device_lost = False
        self.cache = EmbeddingCache(cache_bytes)

        self._lock = threading.Lock()
        self._held = 0
        self._held_bytes = 0
        self._held_by: Counter[str] = Counter()
        self._device_seconds = 0.0  # moving averages per request
        self._picture_seconds = 0.0

        self._waiting: FairQueue[Job] = FairQueue()
        self._prepared: queue.Queue[Job | None] = queue.Queue(maxsize=2 * max_batch)
        # Rendering may be slower than the device (large overlays); then the device waits, not a growing pile of pixels.
        self._renderings = threading.Semaphore(max_batch + 2 * picture_threads)
        self._renderers = ThreadPoolExecutor(picture_threads, thread_name_prefix="render")
        self._preparers = [
            threading.Thread(target=self._prepare_jobs, name=f"prepare-{i}", daemon=True)
            for i in range(picture_threads)
        ]
        self._device = threading.Thread(target=self._run_device, name="device", daemon=True)
        for thread in (*self._preparers, self._device):
            thread.start()

    # --- admission ----------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Requests admitted and not yet answered."""
        return self._held

    def estimated_wait_seconds(self) -> float:
        """How long a request admitted now would take, judged by the slower of the stages."""
        per_request = max(self._device_seconds, self._picture_seconds / self._picture_threads)
        return (self._held + 1) * per_request

    def check_room(self, *, nbytes: int, deadline: float) -> None:
        """Refuse early what would be refused or be late anyway. Raises ProviderSaturated; reserves nothing."""
        wait = self.estimated_wait_seconds()
        if self._held >= self._max_queue or self._held_bytes + nbytes > self._max_queue_bytes:
            raise ProviderSaturated("The pool's queue is full.", retry_after_seconds=max(wait / 2, 0.05))
        left = deadline - time.monotonic()
        # An idle pool tries, whatever it measured before: otherwise one slow request could close it to hasty callers
        # for good, as nothing would ever be measured again.
        if left <= 0 or (self._held and wait > left):
            raise ProviderSaturated(
                f"The pool would need about {wait:.1f} s and the caller waits {max(left, 0):.1f} s.",
                retry_after_seconds=max(wait - left, 0.05),
            )

    def submit(self, task: SegmentTask, *, checkpoint: str, nbytes: int, deadline: float) -> Job:
        """Admit a task; its answer arrives in the job's future. Raises ProviderSaturated, then nothing was begun.

        One organization may hold at most half of the places, so that others always find one.
        """
        job = Job(task, self._backends[checkpoint], checkpoint, deadline)
        with self._lock:
            self.check_room(nbytes=nbytes, deadline=deadline)
            if self._held_by[task.organization] >= max(1, self._max_queue // 2):
                raise ProviderSaturated(
                    "This organization already has as many requests waiting as one may.",
                    retry_after_seconds=max(self.estimated_wait_seconds() / 2, 0.05),
                )
            self._held += 1
            self._held_bytes += nbytes
            self._held_by[task.organization] += 1
        job.future.add_done_callback(lambda _: self._release(task.organization, nbytes))
        self._waiting.put(task.organization, job)
        return job

    def _release(self, organization: str, nbytes: int) -> None:
        with self._lock:
            self._held -= 1
            self._held_bytes -= nbytes
            self._held_by[organization] -= 1
            if not self._held_by[organization]:
                del self._held_by[organization]

    # --- stages -------------------------------------------------------------------------------------------------------

    def _prepare_jobs(self) -> None:
        while (job := self._waiting.take()) is not None:
            if job.drop_if_dead():
                continue
            try:
                job.prepared = prepare(job, self.cache)
            except InferenceError as refusal:
                job.fail(refusal)
            except Exception:
                _log.exception("preparing a request failed")
                job.fail(ProviderFailed("The picture could not be prepared; this is a fault of the pool."))
            else:
                self._prepared.put(job)  # waits while the device is behind

    def _run_device(self) -> None:
        while (first := self._prepared.get()) is not None:
            jobs, ended = [first], False
            while len(jobs) < self._max_batch and not ended:
                try:
                    job = self._prepared.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    ended = True
                else:
                    jobs.append(job)
            self._run_jobs([job for job in jobs if not job.drop_if_dead()])
            if ended:
                return

    def _run_jobs(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        started = time.monotonic()
        for job in jobs:
            job.seconds["queue"] = started - job.submitted_at - job.seconds.get("decode", 0.0)
        self._metrics.observe_batch(len(jobs))
        for checkpoint, backend in self._backends.items():
            own = [job for job in jobs if job.checkpoint == checkpoint]
            if own:
                self._run_backend(backend, own)
        seconds = time.monotonic() - started
        self._device_seconds = _average(self._device_seconds, seconds / len(jobs))
        for job in jobs:
            job.seconds["inference"] = seconds
            if not job.future.done():
                self._renderings.acquire()
                self._renderers.submit(self._render, job).add_done_callback(lambda _: self._renderings.release())

    def _run_backend(self, backend: Backend, jobs: list[Job]) -> None:
        if self._device_lost:
            for job in jobs:
                job.fail(ProviderSaturated("The pool has lost its device and is starting again."))
            return
        try:
            run_batch(backend, jobs, self.cache, max_pictures=self._max_batch, max_rows=self._max_rows)
        except Exception:
            _log.exception("a batch of %d requests failed", len(jobs))
            for job in jobs:
                job.fail(ProviderFailed("The pool failed on this request."))
        if all(job.future.done() for job in jobs):
            self._check_device(backend)

    def _check_device(self, backend: Backend) -> None:
        """After a batch in which nothing succeeded: is it the requests, or does the device answer nobody any more?"""
        try:
            exercise(backend)
        except Exception:
            _log.critical("the device does not work any more", exc_info=True)
            self._device_lost = True
            self._on_device_lost()

    def _render(self, job: Job) -> None:
        prepared = job.prepared
        if prepared is None or job.drop_if_dead():
            return
        started = time.monotonic()
        try:
            masks = _drawn(job, prepared)
        except InferenceError as refusal:
            job.fail(refusal)
            return
        except Exception:
            _log.exception("rendering a result failed")
            job.fail(ProviderFailed("The masks could not be drawn; this is a fault of the pool."))
            return
        job.seconds["encode"] = time.monotonic() - started
        self._picture_seconds = _average(self._picture_seconds, job.seconds["encode"] + job.seconds.get("decode", 0.0))
        for stage, seconds in job.seconds.items():
            self._metrics.observe_stage(stage, seconds)
        timings = {stage: seconds * 1000 for stage, seconds in job.seconds.items()}
        size = {"width": prepared.result_width, "height": prepared.result_height}
        job.future.set_result(SegmentResult(masks=masks, timings_ms=timings, **size))

    # --- end ----------------------------------------------------------------------------------------------------------

    def close(self, timeout_seconds: float) -> None:
        """Finish what was admitted, as far as `timeout_seconds` allow, and end the threads."""
        deadline = time.monotonic() + timeout_seconds
        self._waiting.close()
        for thread in self._preparers:
            thread.join(max(0.0, deadline - time.monotonic()))
        try:
            self._prepared.put(None, timeout=max(0.0, deadline - time.monotonic()))
        except queue.Full:
            _log.warning("the device is still busy; its thread is left behind")
        self._device.join(max(0.0, deadline - time.monotonic()))
        while self._held and time.monotonic() < deadline:
            time.sleep(_CLOSE_POLL_SECONDS)
        self._renderers.shutdown(wait=False, cancel_futures=True)


def _drawn(job: Job, prepared: Prepared) -> tuple[Mask, ...]:
    rendering, pixels = job.task.rendering, prepared.pixels
    if job.chosen and needs_pixels(rendering) and pixels is None:
        least = min(prepared.result_width, prepared.result_height)
        pixels = decode_pixels(job.task.picture.data, side_min=least)
    return render(
        job.chosen,
        width=prepared.result_width,
        height=prepared.result_height,
        rendering=rendering,
        pixels=pixels,
    )


def _average(previous: float, newest: float) -> float:
    return newest if previous == 0.0 else previous + _SMOOTHING * (newest - previous)
