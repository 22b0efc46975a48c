"""Several deployments behind one model: who serves when the pool is busy or gone, and a gateway behind a gateway."""

import multiprocessing
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from tests.fakes.fal_upstream import FalUpstream
from tests.fakes.openai_upstream import OpenAIUpstream
from tests.fakes.pool import FakePool
from tests.fakes.upstream import GOOD_KEY
from tests.pictures import data_uri, picture
from tests.postgres import PostgresServer
from tests.running import RunningProgram, listen
from tests.serving import Customer, RunningGateway

MODEL = "meta/sam-3-image"
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def fal() -> FalUpstream:
    return FalUpstream()


@contextmanager
def gateway_with(
    postgres: PostgresServer, folder: Path, upstreams: dict[str, Any], *, pool_url: str = NOWHERE, **settings: Any
) -> Iterator[RunningGateway]:
    with RunningGateway.start(postgres, pool_url, folder, upstreams=upstreams, **settings) as gateway:
        yield gateway


def generate(gateway: RunningGateway, customer: Customer, **fields: Any) -> Any:
    body = {"image": data_uri(picture())} | fields
    return gateway.openai(customer).images.generate(model=MODEL, prompt="red circle", extra_body=body)


def test_a_pool_that_is_gone_is_replaced_by_the_next_deployment_and_all_gone_is_503(
    postgres: PostgresServer, tmp_path: Path, pool: FakePool, fal: FalUpstream
) -> None:
    with RunningProgram(fal.app) as upstream:
        settings = {"fal": {"kind": "fal", "key": GOOD_KEY, "base_url": upstream.base_url}}
        with gateway_with(postgres, tmp_path, settings) as gateway:
            customer = gateway.customer(usd=1)
            assert generate(gateway, customer).usage.cost_usd == "0.005000"
            assert gateway.predictions(customer)[0]["deployment"] == "fal"
            fal.behaviour = "busy"
            with pytest.raises(openai.InternalServerError) as raised:
                generate(gateway, customer)
            assert raised.value.status_code == 503
            assert int(raised.value.response.headers["retry-after"]) >= 1
            [_, failed] = gateway.predictions(customer)
            assert set(failed["error"]["causes"]) == {"pool", "fal"}
            assert "ProviderUnreachable" in failed["error"]["causes"]["pool"]
            assert gateway.balance(customer).balance_micros == 995_000
            gateway.require_sound_books()


def test_our_own_refused_key_is_our_business_and_the_next_deployment_serves(
    postgres: PostgresServer, tmp_path: Path, pool: FakePool, fal: FalUpstream
) -> None:
    with RunningProgram(fal.app) as upstream, RunningProgram(pool.app) as local:
        settings = {"fal": {"kind": "fal", "key": "revoked-0123456789", "base_url": upstream.base_url, "priority": 1}}
        with gateway_with(postgres, tmp_path, settings, pool_url=local.base_url) as gateway:
            customer = gateway.customer(usd=1)
            assert generate(gateway, customer).usage.payer == "wallet"
            assert gateway.predictions(customer)[0]["deployment"] == "pool"
            assert fal.keys == ["revoked-0123456789"]


def test_the_order_can_be_set_for_one_model(
    postgres: PostgresServer, tmp_path: Path, pool: FakePool, fal: FalUpstream
) -> None:
    with RunningProgram(fal.app) as upstream, RunningProgram(pool.app) as local:
        settings = {"fal": {"kind": "fal", "key": GOOD_KEY, "base_url": upstream.base_url}}
        order = {MODEL: ["fal", "pool"]}
        with gateway_with(postgres, tmp_path, settings, pool_url=local.base_url, deployment_order=order) as gateway:
            customer = gateway.customer(usd=1)
            generate(gateway, customer)
            gateway.openai(customer).images.generate(
                model="meta/sam-3-image-rle", prompt="x", extra_body={"image": data_uri(picture())}
            )
            assert [p["deployment"] for p in gateway.predictions(customer)] == ["fal", "pool"]


def test_work_that_may_have_been_done_is_not_done_again_elsewhere(
    postgres: PostgresServer, tmp_path: Path, pool: FakePool, fal: FalUpstream
) -> None:
    pool.behaviour = "fail"
    with RunningProgram(fal.app) as upstream, RunningProgram(pool.app) as local:
        settings = {"fal": {"kind": "fal", "key": GOOD_KEY, "base_url": upstream.base_url}}
        with gateway_with(postgres, tmp_path, settings, pool_url=local.base_url) as gateway:
            customer = gateway.customer(usd=1)
            with pytest.raises(openai.InternalServerError):
                generate(gateway, customer)
            assert fal.asked == []
            assert gateway.balance(customer).balance_micros == 1_000_000


def serve_until_killed(listening: socket.socket, began: Any) -> None:
    """fal's queue, which takes every job and never ends one."""
    upstream = FalUpstream(behaviour="never_done", began=began)
    config = uvicorn.Config(upstream.app, log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


@pytest.mark.parametrize("is_own", [False, True], ids=["our key", "the customer's key"])
def test_an_upstream_that_is_killed_in_the_middle_is_settled_once_and_nothing_charged(
    postgres: PostgresServer, tmp_path: Path, pool: FakePool, is_own: bool
) -> None:
    context = multiprocessing.get_context("fork")
    listening, began = listen(), context.Event()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = {} if is_own else {"fal": {"kind": "fal", "key": GOOD_KEY, "base_url": url, "priority": 1}}
    upstream = context.Process(target=serve_until_killed, args=(listening, began), daemon=True)
    upstream.start()
    listening.close()
    with (
        RunningProgram(pool.app) as local,
        gateway_with(
            postgres, tmp_path, settings, pool_url=local.base_url, fal_url=url, key_encryption_key="k" * 40
        ) as gateway,
        ThreadPoolExecutor(1) as threads,
    ):
        customer = gateway.customer(usd=1)
        if is_own:
            body = {"provider": "fal", "key": GOOD_KEY, "may_fall_back": True}
            headers = {"authorization": f"Bearer {customer.key}"}
            added = httpx.post(f"{gateway.base_url}/v1/provider-credentials", json=body, headers=headers, timeout=30)
            assert added.status_code == 201
        calling = threads.submit(generate, gateway, customer)
        assert began.wait(30)
        upstream.kill()
        upstream.join(30)
        with pytest.raises(openai.InternalServerError) as raised:
            calling.result(60)
        assert raised.value.code == "provider_failed"
        [prediction] = gateway.predictions(customer)
        assert (prediction["status"], prediction["charged_micros"]) == ("failed", 0)
        assert prediction["payer"] == ("customer" if is_own else "wallet")
        balance = gateway.balance(customer)
        assert (balance.balance_micros, balance.held_micros) == (1_000_000, 0)
        assert pool.tasks == []
        gateway.require_sound_books()


def test_pictures_from_text_cost_one_unit_each(postgres: PostgresServer, tmp_path: Path) -> None:
    maker = OpenAIUpstream()
    with RunningProgram(maker.app) as upstream:
        settings = {
            "maker": {
                "kind": "openai",
                "key": GOOD_KEY,
                "base_url": f"{upstream.base_url}/v1",
                "segments": False,
                "generates": True,
            }
        }
        with gateway_with(postgres, tmp_path, settings) as gateway:
            customer = gateway.customer(usd=1)
            answer: Any = gateway.openai(customer).images.generate(model=MODEL, prompt="a red circle", n=3)
            assert (len(answer.data), answer.usage.cost_usd) == (3, "0.015000")
            assert maker.asked[0].text == "a red circle"
            [prediction] = gateway.predictions(customer)
            assert (prediction["units"], prediction["charged_micros"]) == (3, 15_000)
            with pytest.raises(openai.InternalServerError):  # to segment there is only the pool, which is gone
                generate(gateway, customer)
            assert gateway.balance(customer).balance_micros == 985_000


def test_a_gateway_behind_a_gateway_gives_the_same_masks(
    postgres: PostgresServer, tmp_path: Path, gateway: RunningGateway, pool: FakePool
) -> None:
    direct = gateway.customer(usd=1)
    account = gateway.customer(usd=1)
    settings = {"inner": {"kind": "openai", "key": account.key, "base_url": f"{gateway.base_url}/v1"}}
    with gateway_with(postgres, tmp_path, settings) as outer:
        customer = outer.customer(usd=1)
        fields: dict[str, Any] = {
            "point_prompts": [{"x": 3.5, "y": 4, "label": 0, "object_id": 2}],
            "box_prompts": [{"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40, "label": 0}],
            "max_masks": 3,
            "n": 2,
            "threshold": 0.25,
            "mask_style": "overlay",
            "output_format": "webp",
            "size": "32x24",
            "response_format": "b64_json",
            "mask_prompt": data_uri(picture(mode="L")),
        }
        first = generate(gateway, direct, **fields)
        second = generate(outer, customer, **fields)
        assert [d.model_dump() for d in first.data] == [d.model_dump() for d in second.data]
        asked_directly, asked_through = (task for task in pool.tasks)
        assert asked_directly.prompt == asked_through.prompt
        assert asked_directly.rendering == asked_through.rendering
        assert (asked_directly.max_masks, asked_directly.threshold) == (3, 0.25)
        assert outer.balance(customer).balance_micros == gateway.balance(account).balance_micros == 995_000


def test_cancel_after_shortens_the_call(gateway: RunningGateway, pool: FakePool) -> None:
    pool.behaviour = "stall"
    customer = gateway.customer(usd=1)
    try:
        with pytest.raises(openai.InternalServerError) as raised:
            gateway.openai(customer).images.generate(
                model=MODEL,
                prompt="x",
                extra_body={"image": data_uri(picture())},
                extra_headers={"Cancel-After": "0.5s"},
            )
        assert raised.value.code == "provider_timed_out"
    finally:
        pool.release()
    assert gateway.balance(customer).balance_micros == 1_000_000
