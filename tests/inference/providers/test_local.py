"""The provider that calls this installation's pools: which pool it asks, and what it makes of each answer."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from inference import wire
from inference.errors import (
    InferenceError,
    InputRejected,
    ModelUnavailable,
    ProviderFailed,
    ProviderSaturated,
    ProviderTimedOut,
)
from inference.providers.local import LocalPool
from inference.task import Mask, PointPrompt, Prompt, SegmentResult, SegmentTask
from tests.inference.drawings import picture

TASK = SegmentTask(model="m", picture=picture(), prompt=Prompt(text="cat"))
RESULT = SegmentResult(masks=(Mask(rle="1 5", score=0.5, box=(0, 0, 5, 1)),), width=10, height=1)

Handler = Callable[[httpx.Request], httpx.Response]


def ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=wire.encode_result(RESULT))


def refusing(status: int, error: InferenceError, **headers: str) -> Handler:
    return lambda _: httpx.Response(status, content=wire.encode_error(error), headers=headers)


def by_host(**handlers: Handler) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: handlers[request.url.host](request))


async def ask(pool: LocalPool, seconds: float = 5.0, task: SegmentTask = TASK) -> SegmentResult:
    try:
        return await pool.segment(task, deadline=asyncio.get_running_loop().time() + seconds)
    finally:
        await pool.aclose()


async def test_the_task_arrives_whole_with_the_time_left() -> None:
    seen: list[httpx.Request] = []

    def record(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return ok(request)

    assert await ask(LocalPool(["http://one"], transport=by_host(one=record)), 5.0) == RESULT
    assert wire.decode_task(seen[0].read()) == TASK
    assert 0 < int(seen[0].headers["x-deadline-ms"]) <= 5000


@pytest.mark.parametrize(
    ("handler", "expected", "said"),
    [
        (refusing(400, InputRejected("Bad box.", field="boxes")), InputRejected, "Bad box."),
        (refusing(413, InputRejected("Too large.", field="picture")), InputRejected, "Too large."),
        (refusing(404, ModelUnavailable("Needs weights.")), ModelUnavailable, "Needs weights."),
        (refusing(400, ProviderFailed("Malformed frame.")), ProviderFailed, "Malformed"),
        (refusing(503, ProviderSaturated("Full.")), ProviderSaturated, "Full."),
        (refusing(500, ProviderFailed("Broken.")), ProviderFailed, "Broken."),
        (refusing(504, ProviderTimedOut("Slow.")), ProviderTimedOut, "Slow."),
        (lambda _: httpx.Response(200, content=b"<html>"), ProviderFailed, "cannot be read"),
        (lambda _: httpx.Response(200, content=b""), ProviderFailed, "cannot be read"),
        (lambda _: httpx.Response(502, content=b"<html>"), ProviderFailed, "502"),
        (lambda _: httpx.Response(418, content=b"teapot"), ProviderFailed, "418"),
    ],
)
async def test_each_answer_becomes_its_error(handler: Handler, expected: type[InferenceError], said: str) -> None:
    with pytest.raises(expected, match=said) as raised:
        await ask(LocalPool(["http://one"], transport=by_host(one=handler)))
    assert type(raised.value) is expected
    if isinstance(raised.value, InputRejected):
        assert raised.value.field in ("boxes", "picture")


async def test_saturation_carries_the_pools_own_waiting_time() -> None:
    full = refusing(503, ProviderSaturated("Full."), **{"retry-after-ms": "250"})
    with pytest.raises(ProviderSaturated) as raised:
        await ask(LocalPool(["http://one"], transport=by_host(one=full)))
    assert raised.value.retry_after_seconds == 0.25


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout])
async def test_an_unreachable_pool_is_passed_over_and_alone_it_is_saturation(error: type[httpx.TransportError]) -> None:
    def unreachable(_: httpx.Request) -> httpx.Response:
        raise error("refused")

    transport = by_host(down=unreachable, up=ok)
    assert await ask(LocalPool(["http://down", "http://up"], transport=transport)) == RESULT
    with pytest.raises(ProviderSaturated):
        await ask(LocalPool(["http://down"], transport=transport))


@pytest.mark.parametrize("error", [httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError])
async def test_a_broken_connection_is_not_repeated_elsewhere(error: type[httpx.TransportError]) -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise error("reset")

    def unexpected(_: httpx.Request) -> httpx.Response:
        raise AssertionError("asked although the work may have been done")

    with pytest.raises(ProviderFailed):
        await ask(LocalPool(["http://a", "http://b"], transport=by_host(a=broken, b=unexpected)))


async def test_of_several_full_pools_the_shortest_wait_is_reported() -> None:
    handlers = {
        name: refusing(503, ProviderSaturated("Full."), **{"retry-after-ms": wait})
        for name, wait in (("a", "900"), ("b", "100"))
    }
    with pytest.raises(ProviderSaturated) as raised:
        await ask(LocalPool(["http://a", "http://b"], transport=by_host(**handlers)))
    assert raised.value.retry_after_seconds == 0.1


async def test_a_model_that_another_pool_offers_is_found_there() -> None:
    transport = by_host(a=refusing(404, ModelUnavailable("Needs weights.")), b=ok)
    assert await ask(LocalPool(["http://a", "http://b"], transport=transport)) == RESULT


async def test_the_less_busy_pool_is_asked_first() -> None:
    asked: list[str] = []
    release = asyncio.Event()

    async def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if len(asked) == 1:
            await release.wait()
        return ok(request)

    pool = LocalPool(["http://a", "http://b"], transport=httpx.MockTransport(serve))
    deadline = asyncio.get_running_loop().time() + 10
    slow = asyncio.create_task(pool.segment(TASK, deadline=deadline))
    while not asked:
        await asyncio.sleep(0)
    await pool.segment(TASK, deadline=deadline)
    await pool.segment(TASK, deadline=deadline)
    release.set()
    await slow
    await pool.aclose()
    assert asked == ["a", "b", "b"]


async def test_a_pool_that_does_not_answer_ends_at_the_deadline() -> None:
    async def silent(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ProviderTimedOut):
        await ask(LocalPool(["http://a"], transport=httpx.MockTransport(silent)), 0.05)


async def test_a_deadline_in_the_past_asks_nobody() -> None:
    with pytest.raises(ProviderTimedOut):
        await ask(LocalPool(["http://a"], transport=by_host()), -1.0)


async def test_a_coordinate_that_is_no_number_is_the_callers_fault() -> None:
    task = SegmentTask(model="m", picture=picture(), prompt=Prompt(points=(PointPrompt(x=float("nan"), y=1),)))
    with pytest.raises(InputRejected):
        await ask(LocalPool(["http://a"], transport=by_host()), task=task)


async def test_health_lists_every_pool() -> None:
    def healthy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=json.dumps({"status": "ready"}))

    def unreachable(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    transport = by_host(up=healthy, down=unreachable, odd=lambda _: httpx.Response(200, content=b"[]"))
    pool = LocalPool(["http://up", "http://down", "http://odd"], transport=transport)
    assert await pool.health() == [
        {"url": "http://up", "status": "ready"},
        {"url": "http://down", "status": "unreachable"},
        {"url": "http://odd", "status": "unreachable"},
    ]
    await pool.aclose()


async def test_a_socket_that_is_not_there_is_saturation(tmp_path: Path) -> None:
    with pytest.raises(ProviderSaturated):
        await ask(LocalPool([f"unix://{tmp_path}/none.sock"]))


@pytest.mark.parametrize("url", ["", "ftp://x", "unix://", "pool:8090"])
def test_an_address_of_another_kind_is_refused_when_it_is_configured(url: str) -> None:
    with pytest.raises(ValueError, match="URL is"):
        LocalPool([url])


def test_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        LocalPool([])
