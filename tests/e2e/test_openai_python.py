"""The stock `openai` package for Python against the running gateway."""

import httpx

from tests.fakes.pool import FakePool
from tests.pictures import data_uri, picture
from tests.serving import RunningGateway


def test_generate_returns_a_mask_by_url_and_costs_half_a_cent(gateway: RunningGateway, pool: FakePool) -> None:
    customer = gateway.customer(usd=5)
    answer = gateway.openai(customer).images.generate(
        model="meta/sam-3-image", prompt="red circle", extra_body={"image": data_uri(picture())}
    )
    assert answer.data is not None
    [datum] = answer.data
    mask = httpx.get(str(datum.url))
    assert mask.status_code == 200
    assert mask.headers["content-type"] == "image/png"
    assert pool.tasks[0].prompt.text == "red circle"
    assert gateway.balance(customer).balance_micros == 5_000_000 - 5_000
    assert gateway.balance(customer).held_micros == 0
    [prediction] = gateway.predictions(customer)
    assert (prediction["status"], prediction["charged_micros"]) == ("completed", 5_000)
    gateway.require_sound_books()
