"""The pool's HTTP face over a real socket, with a backend of paper behind it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from inference import wire
from inference.errors import InputRejected, ModelUnavailable, ProviderFailed, ProviderSaturated
from inference.pool.application import PoolApplication, PoolState
from inference.pool.models import LoadedModels
from inference.pool.pipeline import Pipeline
from inference.providers.local import LocalPool
from inference.task import Prompt, SegmentResult, SegmentTask
from tests.inference.drawings import picture
from tests.inference.pool.paper_backend import PaperBackend
from tests.running import RunningProgram

TASK = SegmentTask(model="m", picture=picture(), prompt=Prompt(text="cat"), organization="o")


class PaperPool:
    """A running pool and what a test wants to reach in it."""

    def __init__(self, folder: Path) -> None:
        self.backend = PaperBackend()
        self.application = PoolApplication(default_deadline_seconds=30)
        self.pipeline = Pipeline(
            {"paper": self.backend},
            metrics=self.application.metrics,
            max_queue=4,
            max_queue_bytes=10_000_000,
            max_batch=4,
            max_rows=16,
            cache_bytes=1_000_000,
            picture_threads=1,
        )
        self.models = LoadedModels("cpu", {"paper": self.backend}, {"m": "paper"}, {"m-3.1": "It needs other weights."})
        self.program = RunningProgram(self.application, unix_socket=folder / "pool.sock", lifespan="off")
        self.url = self.program.base_url

    def serve(self) -> None:
        self.application.serve(self.models, self.pipeline, "paper")

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=self.url.removeprefix("unix://"))
        with httpx.Client(transport=transport, base_url="http://pool", timeout=20) as client:
            return client.request(method, path, content=body, headers=headers)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PaperPool]:
    made = PaperPool(tmp_path)
    with made.program:
        yield made
    made.backend.gate.set()
    made.pipeline.close(5)


async def segment(url: str, task: SegmentTask = TASK, seconds: float = 20.0) -> SegmentResult:
    provider = LocalPool([url])
    try:
        return await provider.segment(task, deadline=asyncio.get_running_loop().time() + seconds)
    finally:
        await provider.aclose()


async def test_a_task_is_answered(pool: PaperPool) -> None:
    pool.serve()
    assert len((await segment(pool.url)).masks) == 1


async def test_while_loading_it_says_so_and_refuses(pool: PaperPool) -> None:
    response = pool.request("GET", "/health")
    assert (response.status_code, response.json()["status"]) == (503, "loading")
    with pytest.raises(ProviderSaturated, match="loading"):
        await segment(pool.url)


async def test_while_draining_it_refuses_new_requests(pool: PaperPool) -> None:
    pool.serve()
    pool.application.state = PoolState.DRAINING
    assert pool.request("GET", "/health").json()["status"] == "draining"
    with pytest.raises(ProviderSaturated, match="draining"):
        await segment(pool.url)


async def test_health_and_metrics_tell_an_operator_what_it_does(pool: PaperPool) -> None:
    pool.serve()
    await segment(pool.url)
    health = pool.request("GET", "/health")
    assert health.status_code == 200
    told = health.json()
    assert told["status"] == "ready"
    assert told["models"] == ["m"]
    assert told["unavailable"] == {"m-3.1": "It needs other weights."}
    assert told["device"] == "cpu"
    assert told["queue_length"] == 0
    assert told["estimated_wait_ms"] >= 0
    page = pool.request("GET", "/metrics").text
    assert 'sam3_pool_requests_total{outcome="ok"} 1' in page
    assert 'sam3_pool_stage_seconds_count{stage="inference"} 1' in page
    assert 'sam3_pool_batch_requests_bucket{le="1"} 1' in page
    assert "sam3_pool_ready 1" in page


async def test_a_model_that_is_not_offered_is_refused_with_the_reason(pool: PaperPool) -> None:
    pool.serve()
    for model, reason in (("m-3.1", "needs other weights"), ("gpt", "does not know")):
        with pytest.raises(ModelUnavailable, match=reason):
            await segment(pool.url, SegmentTask(model=model, picture=TASK.picture, prompt=TASK.prompt))


async def test_a_refusal_names_the_field(pool: PaperPool) -> None:
    pool.serve()
    with pytest.raises(InputRejected) as refusal:
        await segment(pool.url, SegmentTask(model="m", picture=TASK.picture, prompt=Prompt()))
    assert refusal.value.field == "prompt"


def test_a_malformed_frame_is_not_an_accusation_of_the_customer(pool: PaperPool) -> None:
    pool.serve()
    response = pool.request("POST", "/segment", b"SAM3 what")
    assert response.status_code == 400
    assert isinstance(wire.decode_error(response.content), ProviderFailed)


def test_an_oversized_body_is_refused_from_its_announcement(pool: PaperPool) -> None:
    pool.serve()
    answer = raw_exchange(
        pool.url, b"POST /segment HTTP/1.1\r\nhost: pool\r\ncontent-length: %d\r\n\r\n" % (wire.TASK_BYTES_MAX + 1)
    )
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_late_request_is_refused_before_its_body_is_sent(pool: PaperPool) -> None:
    pool.serve()
    answer = raw_exchange(
        pool.url, b"POST /segment HTTP/1.1\r\nhost: pool\r\ncontent-length: 1000000\r\nx-deadline-ms: 0\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after-ms: " in answer
    assert pool.backend.calls == []


def test_a_deadline_that_is_no_number_is_refused(pool: PaperPool) -> None:
    pool.serve()
    response = pool.request("POST", "/segment", wire.encode_task(TASK), **{"x-deadline-ms": "soon"})
    assert response.status_code == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/segment"), ("POST", "/health")])
def test_other_paths_are_not_there(pool: PaperPool, method: str, path: str) -> None:
    assert pool.request(method, path).status_code == 404


async def test_full_is_an_immediate_503(pool: PaperPool) -> None:
    pool.serve()
    pool.backend.gate.clear()
    others = [SegmentTask(model="m", picture=TASK.picture, prompt=TASK.prompt, organization=f"o{i}") for i in range(4)]
    waiting = [asyncio.create_task(segment(pool.url, task)) for task in others]
    await until(lambda: pool.pipeline.held == 4)
    with pytest.raises(ProviderSaturated) as refusal:
        await segment(pool.url)
    assert refusal.value.retry_after_seconds > 0
    pool.backend.gate.set()
    assert all(len(result.masks) == 1 for result in await asyncio.gather(*waiting))


async def test_a_caller_who_hangs_up_frees_its_place_without_device_time(pool: PaperPool) -> None:
    pool.serve()
    pool.backend.gate.clear()
    first = asyncio.create_task(segment(pool.url))
    await until(pool.backend.entered.is_set)
    gone = asyncio.create_task(
        segment(pool.url, SegmentTask(model="m", picture=TASK.picture, prompt=Prompt(text="gone")))
    )
    await until(lambda: pool.pipeline.held == 2)
    gone.cancel()
    await asyncio.wait({gone})
    await until(lambda: 'outcome="abandoned"' in pool.request("GET", "/metrics").text)
    pool.backend.gate.set()
    assert (await first).masks
    await until(lambda: pool.pipeline.held == 0)
    assert pool.backend.texts == ["cat"]


def test_health_is_json_under_load(pool: PaperPool) -> None:
    pool.serve()
    threads = [threading.Thread(target=pool.request, args=("GET", "/health")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(pool.request("GET", "/health").content)["status"] == "ready"


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up, "it never came to that"
        await asyncio.sleep(0.01)


def raw_exchange(url: str, request: bytes) -> bytes:
    """Send bytes as they are and return the head of the answer."""
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(url.removeprefix("unix://"))
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
        return answer
