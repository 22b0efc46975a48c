"""Each refusal as the `openai` package raises it, and that none of them costs anything."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from gateway.tenants.key_format import KeyKind, generate
from tests.fakes.pool import FakePool
from tests.pictures import data_uri, picture
from tests.serving import RunningGateway, wait_until

MODEL = "meta/sam-3-image"


def call(client: openai.OpenAI, **fields: Any) -> Any:
    model = fields.pop("model", MODEL)
    return client.images.generate(
        model=model, prompt=fields.pop("prompt", "red circle"), extra_body={"image": data_uri(picture())} | fields
    )


def refused(client: openai.OpenAI, **fields: Any) -> openai.APIStatusError:
    """The refusal of a call; checks what holds for all."""
    with pytest.raises(openai.APIStatusError) as raised:
        call(client, **fields)
    error = raised.value
    assert error.request_id is not None
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "code", "param"}
    return error


def test_keys_that_open_nothing(gateway: RunningGateway) -> None:
    for key in ("sk-aig-short", generate(KeyKind.LIVE), "sk-other", generate(KeyKind.ADMIN)):
        error = refused(gateway.openai(key))
        assert isinstance(error, openai.AuthenticationError)
        assert error.type == "authentication_error"
        assert key not in str(error)


def test_revoked_key_is_refused_within_seconds(gateway: RunningGateway) -> None:
    customer = gateway.customer()
    client = gateway.openai(customer)
    call(client)
    gateway.execute("UPDATE gateway.api_keys SET revoked_at = now() WHERE id = $1", customer.key_id)
    gateway.resources.authenticator.forget(customer.key_id)  # as its own time limit of ten seconds would do
    assert isinstance(refused(client), openai.AuthenticationError)


def test_key_may_be_limited_to_models(gateway: RunningGateway) -> None:
    client = gateway.openai(gateway.customer(allowed_models=["meta/sam-3-image-rle"]))
    error = refused(client)
    assert isinstance(error, openai.PermissionDeniedError)
    assert error.param == "model"
    assert call(client, model="meta/sam-3-image-rle").data
    assert [model.id for model in client.models.list()] == ["meta/sam-3-image-rle"]


def test_empty_wallet_is_402(gateway: RunningGateway, pool: FakePool) -> None:
    error = refused(gateway.openai(gateway.customer(usd=0), max_retries=2))
    assert (error.status_code, error.type) == (402, "insufficient_credits")
    assert "$0.005" in str(error)
    assert pool.tasks == []


def test_spend_cap_of_a_key_is_402(gateway: RunningGateway) -> None:
    customer = gateway.customer(usd=5, spend_cap_micros=12_000)
    client = gateway.openai(customer)
    call(client)
    call(client)
    error = refused(client)
    assert (error.status_code, error.code) == (402, "spend_cap_reached")
    assert gateway.balance(customer).balance_micros == 5_000_000 - 10_000


def test_unknown_model_is_404_and_names_those_that_exist(gateway: RunningGateway) -> None:
    error = refused(gateway.openai(gateway.customer()), model="meta/sam-9")
    assert isinstance(error, openai.NotFoundError)
    assert (error.type, error.param) == ("not_found", "model")
    assert "meta/sam-3-image" in str(error)


def test_unknown_paths_are_404_in_the_same_shape(gateway: RunningGateway) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        gateway.openai(gateway.customer()).chat.completions.create(model="x", messages=[])
    assert raised.value.type == "not_found"
    assert raised.value.request_id


def test_over_the_limit_is_429_with_retry_after(gateway: RunningGateway, pool: FakePool) -> None:
    client = gateway.openai(gateway.customer(requests_per_minute=3))
    for _ in range(3):
        call(client)
    error = refused(client)
    assert isinstance(error, openai.RateLimitError)
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(pool.tasks) == 3
    assert client.models.list().data  # looking something up is not counted


@pytest.mark.parametrize(
    ("behaviour", "kind", "status", "type_"),
    [
        ("fail", openai.InternalServerError, 500, "server_error"),
        ("garbage", openai.InternalServerError, 500, "server_error"),
        ("saturate", openai.InternalServerError, 503, "service_unavailable"),
        ("reject", openai.BadRequestError, 400, "invalid_request_error"),
    ],
)
def test_failures_of_the_pool_cost_nothing(
    gateway: RunningGateway, pool: FakePool, behaviour: str, kind: type[Exception], status: int, type_: str
) -> None:
    customer = gateway.customer(usd=1)
    pool.behaviour = behaviour
    error = refused(gateway.openai(customer))
    assert isinstance(error, kind)
    assert (error.status_code, error.type) == (status, type_)
    assert ("retry-after" in error.response.headers) == (status == 503)
    balance = gateway.balance(customer)
    assert (balance.balance_micros, balance.held_micros) == (1_000_000, 0)
    [prediction] = gateway.predictions(customer)
    assert (prediction["status"], prediction["charged_micros"]) == ("failed", 0)
    assert prediction["error"] is not None
    gateway.require_sound_books()


def test_the_sdk_repeats_what_failed_and_pays_once(gateway: RunningGateway, pool: FakePool) -> None:
    customer = gateway.customer(usd=1)
    pool.behaviour = "fail"
    with pytest.raises(openai.InternalServerError):
        call(gateway.openai(customer, max_retries=1))
    assert len(pool.tasks) == 2
    assert gateway.balance(customer).balance_micros == 1_000_000


def test_client_that_hangs_up_is_charged_once_for_finished_work(gateway: RunningGateway, pool: FakePool) -> None:
    customer = gateway.customer(usd=1)
    pool.behaviour = "stall"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.base_url}/v1/images/generations",
            headers={"authorization": f"Bearer {customer.key}"},
            json={"prompt": "red circle", "image": data_uri(picture())},
            timeout=1,
        )
    wait_until(lambda: len(pool.tasks) == 1)
    assert gateway.balance(customer).held_micros == 5_000
    pool.release()
    wait_until(lambda: gateway.resources.calls.in_flight == 0)
    balance = gateway.balance(customer)
    assert (balance.balance_micros, balance.held_micros) == (995_000, 0)
    [prediction] = gateway.predictions(customer)
    assert prediction["status"] == "completed"
    assert prediction["output"] is not None


def test_client_that_announces_how_long_it_waits_pays_for_no_late_answer(
    gateway: RunningGateway, pool: FakePool
) -> None:
    customer = gateway.customer(usd=1)
    pool.behaviour = "stall"
    with pytest.raises(openai.APIConnectionError):
        call(gateway.openai(customer, timeout=1))
    wait_until(lambda: gateway.resources.calls.in_flight == 0)
    pool.release()
    [prediction] = gateway.predictions(customer)
    assert (prediction["status"], prediction["error"]["code"]) == ("failed", "provider_timed_out")
    assert gateway.balance(customer).available_micros == 1_000_000


def test_a_database_that_is_away_is_503_not_401(own_gateway: RunningGateway) -> None:
    client = own_gateway.openai(own_gateway.customer())
    own_gateway.run(own_gateway.resources.database.pool.close())
    error = refused(client)
    assert (error.status_code, error.type) == (503, "service_unavailable")


def test_ready_tells_of_database_and_pool(own_gateway: RunningGateway) -> None:
    answer = httpx.get(f"{own_gateway.base_url}/readyz")
    assert answer.status_code == 200
    assert answer.json()["pools"][0]["status"] == "ready"
    own_gateway.run(own_gateway.resources.database.pool.close())
    assert httpx.get(f"{own_gateway.base_url}/readyz").status_code == 503
    assert httpx.get(f"{own_gateway.base_url}/healthz").status_code == 200


def test_async_client_gets_the_same(gateway: RunningGateway) -> None:
    customer = gateway.customer()

    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key=customer.key) as client:
            return await client.images.edit(model=MODEL, image=picture(), prompt="red circle")

    assert asyncio.run(run()).data[0].score == 0.9
