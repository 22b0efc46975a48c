"""The stock `openai` package for Python against the running gateway: what a developer meets who changes two lines."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.fakes.pool import FakePool
from tests.pictures import data_uri, picture
from tests.serving import Customer, RunningGateway

MODEL = "meta/sam-3-image"


@pytest.fixture
def customer(gateway: RunningGateway) -> Customer:
    return gateway.customer(usd=5)


@pytest.fixture
def client(gateway: RunningGateway, customer: Customer) -> openai.OpenAI:
    return gateway.openai(customer)


def generate(client: openai.OpenAI, **fields: Any) -> Any:
    """One call with a picture and a prompt, and `fields` beside or instead of them."""
    model = fields.pop("model", MODEL)
    prompt = fields.pop("prompt", "red circle")
    return client.images.generate(
        model=model, prompt=prompt, extra_body={"image": data_uri(picture())} | fields, timeout=30
    )


def spent_micros(gateway: RunningGateway, customer: Customer) -> int:
    gateway.require_sound_books()
    balance = gateway.balance(customer)
    assert balance.held_micros == 0
    return 5_000_000 - balance.balance_micros


def test_a_mask_by_url_costs_half_a_cent(gateway: RunningGateway, customer: Customer, client: openai.OpenAI) -> None:
    answer = generate(client)
    [datum] = answer.data
    mask = httpx.get(datum.url)
    assert (mask.status_code, mask.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(mask.content)).size == (64, 48)
    assert spent_micros(gateway, customer) == 5_000
    [prediction] = gateway.predictions(customer)
    assert (prediction["status"], prediction["charged_micros"]) == ("completed", 5_000)
    assert answer.usage.cost_usd == "0.005000"


def test_scores_boxes_and_run_lengths_ride_along(client: openai.OpenAI) -> None:
    datum = generate(client).data[0]
    assert datum.score == 0.9
    assert datum.box == {"x_min": 0, "y_min": 0, "x_max": 1, "y_max": 1}
    assert datum.box_normalized == [round(0.5 / 64, 6), round(0.5 / 48, 6), round(1 / 64, 6), round(1 / 48, 6)]
    assert datum.rle == "1 1"


def test_scores_and_boxes_stay_away_if_not_wanted(client: openai.OpenAI) -> None:
    datum = generate(client, include_scores=False, include_boxes=False).data[0]
    assert {"score", "box", "box_normalized"}.isdisjoint(datum.model_extra)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_base64_answers_hold_the_format_asked_for(client: openai.OpenAI, output_format: str) -> None:
    datum = generate(client, response_format="b64_json", output_format=output_format).data[0]
    assert datum.url is None
    assert str(Image.open(io.BytesIO(base64.b64decode(datum.b64_json))).format).lower() == output_format


def test_run_length_model_returns_no_pictures(client: openai.OpenAI, pool: FakePool) -> None:
    datum = generate(client, model="meta/sam-3-image-rle").data[0]
    assert (datum.url, datum.b64_json, datum.rle) == (None, None, "1 1")
    assert pool.tasks[0].rendering.max_pictures == 0


def test_sam_3_1_costs_a_cent(gateway: RunningGateway, customer: Customer, client: openai.OpenAI) -> None:
    assert generate(client, model="fal-ai/sam-3-1/image").model == "meta/sam-3-1-image"
    assert spent_micros(gateway, customer) == 10_000


def test_edit_takes_files_and_charges_each_picture(
    gateway: RunningGateway, customer: Customer, client: openai.OpenAI, pool: FakePool
) -> None:
    files = [("a.png", picture(30, 20)), ("b.jpg", picture(20, 30, format="JPEG"))]
    answer: Any = client.images.edit(model=MODEL, image=files, prompt="red circle")
    assert [datum.image_index for datum in answer.data] == [0, 1]
    assert sorted((t.picture.width, t.picture.height) for t in pool.tasks) == [(20, 30), (30, 20)]
    assert answer.usage.images == 2
    assert spent_micros(gateway, customer) == 10_000


def test_edit_takes_one_file_and_openais_mask(client: openai.OpenAI, pool: FakePool) -> None:
    client.images.edit(model=MODEL, image=picture(), mask=picture(mode="RGBA"), prompt="")
    prompt = pool.tasks[0].prompt
    assert (prompt.text, prompt.mask_selects) == (None, "transparent")
    assert prompt.mask is not None


def test_nested_prompts_arrive_the_same_in_json_and_multipart(client: openai.OpenAI, pool: FakePool) -> None:
    points = [{"x": 5, "y": 6, "label": 1}, {"x": 7, "y": 8, "label": 0}]
    boxes = [{"x_min": 1, "y_min": 2, "x_max": 30, "y_max": 40, "object_id": 3}]
    nested = {"point_prompts": points, "box_prompts": boxes}
    generate(client, prompt="", **nested)
    client.images.edit(model=MODEL, image=picture(), prompt="", extra_body=nested)
    as_text = {"point_prompts": str(points).replace("'", '"'), "box_prompts": str(boxes).replace("'", '"')}
    client.images.edit(model=MODEL, image=picture(), prompt="", extra_body=as_text)
    client.images.generate(model=MODEL, prompt="", extra_body={"image": data_uri(picture())} | as_text)
    in_json, in_form, as_text_in_form, as_text_in_json = (task.prompt for task in pool.tasks)
    assert in_json == in_form == as_text_in_form == as_text_in_json
    assert [(p.x, p.y, p.positive) for p in in_json.points] == [(5, 6, True), (7, 8, False)]
    assert in_json.boxes[0].object_id == 3


def test_several_masks_and_how_many_of_them_as_pictures(client: openai.OpenAI, pool: FakePool) -> None:
    answer = generate(client, max_masks=5, return_multiple_masks=True, n=2)
    assert [datum.url is not None for datum in answer.data] == [True, True, False, False, False]
    assert len(generate(client, n=3).data) == 3
    assert len(generate(client, return_multiple_masks=True).data) == 32
    assert [datum.url for datum in generate(client, return_multiple_masks=True, n=1).data].count(None) == 31
    assert len(generate(client).data) == 1


@pytest.mark.parametrize(
    ("fields", "style"),
    [({}, "mask"), ({"apply_mask": True}, "cutout"), ({"mask_style": "overlay", "apply_mask": True}, "overlay")],
)
def test_mask_styles(client: openai.OpenAI, pool: FakePool, fields: dict[str, Any], style: str) -> None:
    generate(client, size="32x32", threshold=0.25, user="u-1", quality="high", **fields)
    task = pool.tasks[0]
    assert (task.rendering.style, task.rendering.fit_within, task.threshold) == (style, (32, 32), 0.25)


def test_nothing_found_is_an_answer_and_is_charged(
    gateway: RunningGateway, customer: Customer, client: openai.OpenAI, pool: FakePool
) -> None:
    pool.behaviour = "nothing_found"
    assert generate(client).data == []
    assert spent_micros(gateway, customer) == 5_000


def test_models_are_listed_and_found_by_raw_and_escaped_slash(gateway: RunningGateway, client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    assert listed == {"meta/sam-3-image", "meta/sam-3-image-rle", "meta/sam-3-1-image"}
    assert client.models.retrieve("meta/sam-3-image").id == "meta/sam-3-image"
    raw = httpx.get(f"{client.base_url}models/meta/sam-3-image", headers={"authorization": f"Bearer {client.api_key}"})
    assert raw.json()["pricing"]["price_micros"] == 5_000


def test_cost_balance_and_limits_are_told_in_headers(client: openai.OpenAI) -> None:
    answer = client.images.with_raw_response.generate(
        model=MODEL, prompt="x", extra_body={"image": data_uri(picture())}
    )
    assert answer.headers["x-cost-usd"] == "0.005000"
    assert answer.headers["x-balance-usd"] == "4.995000"
    assert answer.headers["x-ratelimit-limit-requests"] == "600"
    assert answer.headers["x-request-id"].startswith("req_")


def test_fifty_calls_at_once_on_money_for_ten(gateway: RunningGateway, pool: FakePool) -> None:
    poor = gateway.customer(usd=0.05)
    client = gateway.openai(poor)

    def call(_: int) -> str:
        try:
            generate(client)
        except openai.APIStatusError as error:
            return str(error.status_code)
        return "ok"

    with ThreadPoolExecutor(50) as threads:
        outcomes = list(threads.map(call, range(50)))
    assert sorted(outcomes) == ["402"] * 40 + ["ok"] * 10
    assert len(pool.tasks) == 10
    assert gateway.balance(poor).balance_micros == 0
    gateway.require_sound_books()
