"""What careless and hostile callers send: a 4xx that names what to change, nothing charged, the pool not asked."""

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from tests.fakes.pool import FakePool
from tests.pictures import data_uri, picture
from tests.serving import Customer, RunningGateway

PICTURE = data_uri(picture())


@pytest.fixture
def customer(gateway: RunningGateway) -> Customer:
    return gateway.customer(usd=1)


@pytest.fixture
def http(gateway: RunningGateway, customer: Customer) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {customer.key}"}
    with httpx.Client(base_url=gateway.base_url, headers=headers, timeout=30) as client:
        yield client


def require_refused(
    answer: httpx.Response, gateway: RunningGateway, customer: Customer, *, param: str | None, status: int = 400
) -> str:
    """The refusal's words, once status, shape, parameter and wallet are as promised."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == "false"
    balance = gateway.balance(customer)
    assert (balance.balance_micros, balance.held_micros) == (1_000_000, 0)
    return str(error["message"])


def bomb() -> bytes:
    """A PNG of 13,000 x 13,000 one-bit pixels in 20 KiB."""
    rows = zlib.compress(b"\x00" * ((13_000 // 8 + 1) * 13_000), 9)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"prompt": "x"}}'],
    ids=lambda value: value[:20],
)
def test_bodies_that_are_no_json_object(
    http: httpx.Client, gateway: RunningGateway, customer: Customer, content: bytes
) -> None:
    answer = http.post("/v1/images/generations", content=content, headers={"content-type": "application/json"})
    assert "JSON" in require_refused(answer, gateway, customer, param=None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": None}, "image"),
        ({"image": []}, "image"),
        ({"image": 5}, "image[0]"),
        ({"image": ""}, "image"),
        ({"image": "not base64!"}, "image"),
        ({"image": "data:image/png,raw"}, "image"),
        ({"image": data_uri(b"<html>not found</html>")}, "image"),
        ({"image": data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, "image"),
        ({"image": data_uri(picture()[:20])}, "image"),
        ({"image": data_uri(bomb())}, "image"),
        ({"image": data_uri(picture(1, 4000))}, "image"),
        ({"image": [PICTURE, data_uri(b"GIF89a")]}, "image[1]"),
        ({"image": [PICTURE] * 17}, "image"),
        ({"image": PICTURE, "image_url": PICTURE}, "image"),
        ({"image": "http://127.0.0.1/secret"}, "image"),
        ({"image": "http://169.254.169.254/latest/meta-data"}, "image"),
        ({"image": "https://user:pass@example.com/a.png"}, "image"),
        ({"image": "http://[::ffff:10.0.0.1]/"}, "image"),
        ({"image": "http://2130706433/"}, "image"),
        ({"image": "https://localhost:8443/"}, "image"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "   "}, "prompt"),
        ({"prompt": "x" * 10_000}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"max_masks": 33}, "max_masks"),
        ({"max_masks": 0}, "max_masks"),
        ({"n": 33}, "n"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": "NaN"}, "threshold"),
        ({"size": "huge"}, "size"),
        ({"size": "99999x10"}, "size"),
        ({"output_format": "gif"}, "output_format"),
        ({"response_format": "xml"}, "response_format"),
        ({"mask_style": "sketch"}, "mask_style"),
        ({"stream": True}, "stream"),
        ({"colour": "red"}, "colour"),
        ({"point_prompts": [{"x": 64, "y": 0}]}, "point_prompts[0].x"),
        ({"point_prompts": [{"x": 0, "y": -1}]}, "point_prompts[0].y"),
        ({"point_prompts": [{"x": 0}]}, "point_prompts[0].y"),
        ({"point_prompts": [{"x": 0, "y": 0, "label": 2}]}, "point_prompts[0].label"),
        ({"point_prompts": [{"x": 0, "y": 0}] * 10_001}, "point_prompts"),
        ({"point_prompts": "[{"}, "point_prompts"),
        ({"box_prompts": [{"x_min": 9, "y_min": 0, "x_max": 3, "y_max": 5}]}, "box_prompts[0]"),
        ({"box_prompts": [{"x_min": 0, "y_min": 0, "x_max": 65, "y_max": 5}]}, "box_prompts[0].x_max"),
        ({"box_prompts": [[0, 0, 5, 5]]}, "box_prompts[0]"),
        ({"mask_prompt": data_uri(picture(10, 10))}, "mask_prompt"),
        ({"mask_prompt": PICTURE, "mask": PICTURE}, "mask"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_fields_that_cannot_be(
    http: httpx.Client,
    gateway: RunningGateway,
    customer: Customer,
    pool: FakePool,
    fields: dict[str, Any],
    param: str,
) -> None:
    body = {"prompt": "red circle", "image": PICTURE} | fields
    answer = http.post("/v1/images/generations", json=body)
    assert require_refused(answer, gateway, customer, param=param)
    assert pool.tasks == []


def test_rows_that_a_form_cannot_express(http: httpx.Client, gateway: RunningGateway, customer: Customer) -> None:
    rows = {"point_prompts[][x]": ["1", "2"], "point_prompts[][y]": ["3"]}
    answer = http.post("/v1/images/edits", data={"prompt": "x"} | rows, files={"image": picture()})
    assert "JSON string" in require_refused(answer, gateway, customer, param="point_prompts")


def test_form_that_is_cut_short(http: httpx.Client, gateway: RunningGateway, customer: Customer) -> None:
    headers = {"content-type": "multipart/form-data"}
    answer = http.post("/v1/images/edits", content=b"--x\r\n", headers=headers)
    require_refused(answer, gateway, customer, param=None)


def test_a_picture_missing_from_the_call_says_how_to_send_one(
    http: httpx.Client, gateway: RunningGateway, customer: Customer
) -> None:
    answer = http.post("/v1/images/generations", json={"prompt": "a house by the sea", "n": 1})
    assert "extra_body" in require_refused(answer, gateway, customer, param="image")


@pytest.mark.parametrize("announced", [True, False])
def test_bodies_of_35_mb_are_413_and_leave_no_memory_behind(
    http: httpx.Client, gateway: RunningGateway, customer: Customer, announced: bool
) -> None:
    process = psutil.Process(os.getpid())

    def upload() -> httpx.Response:
        megabyte = b"x" * 1_000_000
        headers = {"content-length": "35000000"} if announced else {}
        return http.post("/v1/images/generations", content=iter([megabyte] * 35), headers=headers)

    require_refused(upload(), gateway, customer, param=None, status=413)
    before = process.memory_info().rss
    for _ in range(8):
        assert upload().status_code == 413
    assert process.memory_info().rss - before < 60_000_000


def test_pictures_of_25_mb_are_refused(http: httpx.Client, gateway: RunningGateway, customer: Customer) -> None:
    upload = picture() + b"\x00" * 25_000_000
    answer = http.post("/v1/images/edits", data={"prompt": "x"}, files={"image": upload})
    assert "20 MiB" in require_refused(answer, gateway, customer, param="image")


def test_hostile_pictures_leave_no_memory_behind(http: httpx.Client) -> None:
    process = psutil.Process(os.getpid())
    body = json.dumps({"prompt": "x", "image": data_uri(bomb())})
    http.post("/v1/images/generations", content=body)
    before = process.memory_info().rss
    for _ in range(20):
        assert http.post("/v1/images/generations", content=body).status_code == 400
    assert process.memory_info().rss - before < 20_000_000  # one of them decoded would be 169 MB


def test_turned_pictures_are_measured_as_they_are_displayed(
    http: httpx.Client, gateway: RunningGateway, customer: Customer, pool: FakePool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turned
    out = io.BytesIO()
    Image.new("RGB", (64, 48)).save(out, "JPEG", exif=exif)
    body = {"prompt": "", "image": data_uri(out.getvalue()), "point_prompts": [{"x": 47, "y": 63}]}
    assert http.post("/v1/images/generations", json=body).status_code == 200
    assert (pool.tasks[0].picture.width, pool.tasks[0].picture.height) == (48, 64)
    outside = http.post("/v1/images/generations", json=body | {"point_prompts": [{"x": 60, "y": 10}]})
    assert outside.json()["error"]["param"] == "point_prompts[0].x"


@pytest.mark.parametrize(
    ("encoded", "media_type"),
    [
        (picture(mode="CMYK", format="JPEG"), "image/jpeg"),
        (picture(format="GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), 9)]), "image/gif"),
        (picture(format="WEBP"), "image/webp"),
        (picture(format="AVIF"), "image/avif"),
    ],
)
def test_unusual_but_whole_pictures_pass(http: httpx.Client, pool: FakePool, encoded: bytes, media_type: str) -> None:
    body = {"prompt": "x", "image": data_uri(encoded, "application/octet-stream")}
    assert http.post("/v1/images/generations", json=body).status_code == 200
    assert pool.tasks[0].picture.media_type == media_type
