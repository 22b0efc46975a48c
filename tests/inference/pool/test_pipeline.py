"""What the pool's stages promise: bounds, fairness, batches, and that one bad request stays one."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import pytest

from inference.errors import InputRejected, ProviderFailed, ProviderSaturated
from inference.pool.job import Job
from inference.pool.metrics import PoolMetrics
from inference.pool.pipeline import Pipeline
from inference.task import MaskStyle, PointPrompt, Prompt, Rendering, SegmentTask
from tests.inference.drawings import picture, pixels, shapes
from tests.inference.pool.paper_backend import PaperBackend

FAR = 60.0
SUN, MOON = picture(shapes(64, 48, seed=1)), picture(shapes(64, 48, seed=2))


@pytest.fixture
def make() -> Iterator[Callable[..., Pipeline]]:
    """Builds pipelines over a PaperBackend and closes them."""
    made: list[Pipeline] = []

    def build(backend: PaperBackend, **changes: Any) -> Pipeline:
        options: dict[str, Any] = {
            "max_queue": 64,
            "max_queue_bytes": 10_000_000,
            "max_batch": 4,
            "max_rows": 16,
            "cache_bytes": 1_000_000,
            "picture_threads": 2,
        }
        made.append(Pipeline({"paper": backend}, metrics=PoolMetrics(), **(options | changes)))
        return made[-1]

    yield build
    for pipeline in made:
        pipeline.close(5)


def submit(pipeline: Pipeline, text: str = "cat", *, organization: str = "a", seconds: float = FAR, **task: Any) -> Job:
    task.setdefault("picture", SUN)
    task.setdefault("prompt", Prompt(text=text))
    return pipeline.submit(
        SegmentTask(model="m", organization=organization, **task),
        checkpoint="paper",
        nbytes=len(task["picture"].data),
        deadline=time.monotonic() + seconds,
    )


def hold(pipeline: Pipeline, backend: PaperBackend) -> Job:
    """Keep the device busy with a first request until `backend.gate` is opened."""
    backend.gate.clear()
    backend.entered.clear()
    job = submit(pipeline, "first", organization="holder")
    assert backend.entered.wait(10)
    return job


def test_a_request_comes_back_with_mask_run_lengths_and_times(make: Callable[..., Pipeline]) -> None:
    result = submit(make(PaperBackend())).future.result(10)
    (mask,) = result.masks
    assert (result.width, result.height) == (64, 48)
    assert mask.score == 0.9
    assert mask.box is not None
    assert mask.box[:2] == (0, 0)
    assert mask.picture is not None
    assert pixels(mask.picture).shape == (48, 64)
    assert mask.rle is not None
    assert mask.rle.startswith("1 ")
    assert set(result.timings_ms) == {"queue", "decode", "inference", "encode"}


def test_what_waits_while_the_device_is_busy_runs_as_one_batch(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    first = hold(pipeline, backend)
    waiting = [submit(pipeline, f"t{i}", picture=picture(shapes(64, 48, seed=10 + i))) for i in range(4)]
    while pipeline._prepared.qsize() < 4:
        time.sleep(0.01)
    backend.gate.set()
    wait([first.future, *(job.future for job in waiting)], 10)
    assert backend.calls == [("encode", 1), ("detect", 1), ("encode", 4), ("detect", 4)]
    assert all(len(job.future.result(0).masks) == 1 for job in waiting)


def test_a_picture_is_encoded_once_per_customer(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    for organization, shown in (("a", SUN), ("a", SUN), ("b", SUN), ("a", MOON), ("a", SUN)):
        submit(pipeline, organization=organization, picture=shown).future.result(10)
    assert [call for call, _ in backend.calls].count("encode") == 3


def test_organizations_take_turns(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend, max_batch=1, picture_threads=1)
    hold(pipeline, backend)
    many = [submit(pipeline, f"a{i}", organization="a") for i in range(20)]
    last = submit(pipeline, "b", organization="b")
    backend.gate.set()
    wait([job.future for job in (*many, last)], 20)
    assert backend.texts.index("b") < 6  # behind what was already decoded, not behind all of a's


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend, max_queue=3)
    held = [hold(pipeline, backend)]
    held += [submit(pipeline, organization=name) for name in "xy"]
    with pytest.raises(ProviderSaturated) as refusal:
        submit(pipeline, organization="z")
    assert refusal.value.retry_after_seconds > 0
    backend.gate.set()
    wait([job.future for job in held], 10)
    assert submit(pipeline).future.result(10).masks


def test_one_organization_cannot_take_every_place(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend, max_queue=8)
    hold(pipeline, backend)
    for _ in range(4):
        submit(pipeline, organization="greedy")
    with pytest.raises(ProviderSaturated):
        submit(pipeline, organization="greedy")
    submit(pipeline, organization="modest")
    backend.gate.set()


def test_pictures_in_the_queue_are_bounded_by_bytes(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend, max_queue_bytes=2 * len(SUN.data))
    hold(pipeline, backend)
    submit(pipeline)
    with pytest.raises(ProviderSaturated, match="full"):
        submit(pipeline)
    backend.gate.set()


def test_a_wait_beyond_the_callers_deadline_is_refused(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    slow = hold(pipeline, backend)
    time.sleep(0.3)
    backend.gate.set()
    slow.future.result(10)  # it is now known to take 0.3 s and more
    again = hold(pipeline, backend)
    with pytest.raises(ProviderSaturated, match="caller waits"):
        submit(pipeline, seconds=0.1)
    with pytest.raises(ProviderSaturated, match="caller waits"):
        submit(pipeline, seconds=0.0)
    backend.gate.set()
    again.future.result(10)


def test_an_idle_pool_tries_however_slow_it_was_before(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    slow = hold(pipeline, backend)
    time.sleep(0.3)
    backend.gate.set()
    slow.future.result(10)
    assert pipeline.estimated_wait_seconds() > 0.1
    hasty = submit(pipeline, "hasty", seconds=0.1)  # admitted; whether it is in time is another matter
    assert wait([hasty.future], 10).done


def test_who_hung_up_or_is_too_late_costs_no_device_time(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    first = hold(pipeline, backend)
    gone, late, patient = submit(pipeline, "gone"), submit(pipeline, "late", seconds=1.0), submit(pipeline, "patient")
    gone.abandoned = True
    late.deadline = time.monotonic() - 1
    backend.gate.set()
    wait([job.future for job in (first, gone, late, patient)], 10)
    assert backend.texts == ["first", "patient"]
    assert isinstance(late.future.exception(0), ProviderSaturated)
    assert pipeline.held == 0


@pytest.mark.parametrize("bad", ["crash", "nan"])
def test_a_request_that_breaks_the_model_fails_alone(make: Callable[..., Pipeline], bad: str) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    hold(pipeline, backend)
    jobs = [submit(pipeline, text) for text in ("one", bad, "two", "three")]
    backend.gate.set()
    wait([job.future for job in jobs], 10)
    assert isinstance(jobs[1].future.exception(0), ProviderFailed)
    for job in (jobs[0], jobs[2], jobs[3]):
        assert len(job.future.result(0).masks) == 1


def test_a_batch_that_does_not_fit_is_halved(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend(rows_max=2)
    pipeline = make(backend)
    hold(pipeline, backend)
    jobs = [submit(pipeline, f"t{i}", picture=picture(shapes(64, 48, seed=20 + i))) for i in range(4)]
    backend.gate.set()
    wait([job.future for job in jobs], 10)
    assert all(job.future.result(0).masks for job in jobs)


def test_bad_input_is_refused_without_the_device(make: Callable[..., Pipeline]) -> None:
    backend = PaperBackend()
    pipeline = make(backend)
    truncated = picture()
    truncated = type(truncated)(
        data=truncated.data[: len(truncated.data) // 2], media_type="image/png", width=320, height=240
    )
    wrong: dict[str, dict[str, Any]] = {
        "picture": {"picture": truncated},
        "points": {"prompt": Prompt(points=(PointPrompt(x=1e9, y=0),))},
        "prompt": {"prompt": Prompt(text="far too long")},
        "size": {"rendering": Rendering(fit_within=(0, 5))},
    }
    for field, task in wrong.items():
        error = submit(pipeline, **task).future.exception(10)
        assert isinstance(error, InputRejected)
        assert error.field == field
    assert backend.calls == []
    assert pipeline.held == 0


def test_an_overlay_of_a_cached_picture_still_shows_the_picture(make: Callable[..., Pipeline]) -> None:
    pipeline = make(PaperBackend())
    rendering = Rendering(style=MaskStyle.OVERLAY)
    first, second = (submit(pipeline, rendering=rendering).future.result(10).masks[0].picture for _ in range(2))
    assert first is not None
    assert first == second


def test_a_device_that_answers_nobody_is_reported_and_everybody_told(make: Callable[..., Pipeline]) -> None:
    backend, lost = PaperBackend(), threading.Event()
    pipeline = make(backend, on_device_lost=lost.set)
    assert submit(pipeline).future.result(10).masks
    backend.broken = True
    assert isinstance(submit(pipeline, picture=MOON).future.exception(10), ProviderFailed)
    assert lost.wait(10)
    assert isinstance(submit(pipeline).future.exception(10), ProviderSaturated)


def test_requests_that_fail_for_their_own_reasons_do_not_condemn_the_device(make: Callable[..., Pipeline]) -> None:
    lost = threading.Event()
    pipeline = make(PaperBackend(), on_device_lost=lost.set)
    for text in ("crash", "nan"):
        assert isinstance(submit(pipeline, text).future.exception(10), ProviderFailed)
    assert submit(pipeline).future.result(10).masks
    assert not lost.is_set()


def test_closing_lets_what_was_admitted_finish(make: Callable[..., Pipeline]) -> None:
    pipeline = make(PaperBackend())
    jobs = [submit(pipeline) for _ in range(10)]
    pipeline.close(10)
    wait([job.future for job in jobs], 10)
    assert all(job.future.result(0).masks for job in jobs)
