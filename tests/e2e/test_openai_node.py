"""The stock `openai` package for Node against the running gateway."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.pool import FakePool
from tests.pictures import picture
from tests.serving import Customer, RunningGateway

FOLDER = Path(__file__).parent / "node"
NODE = shutil.which("node")

if NODE is None or not (FOLDER / "node_modules" / "openai").is_dir():
    pytest.skip(
        "needs node and `npm install` in tests/e2e/node (deploy/test does it where npm is there)",
        allow_module_level=True,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(picture())
    return path


def run(gateway: RunningGateway, key: str, file: Path, operation: str) -> Any:
    """What the script printed."""
    command = [str(NODE), "openai_client.mjs", f"{gateway.base_url}/v1", key, str(file), operation]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def spent_micros(gateway: RunningGateway, customer: Customer) -> int:
    gateway.require_sound_books()
    return 5_000_000 - gateway.balance(customer).available_micros


def test_generate_gives_a_link_that_opens(gateway: RunningGateway, file: Path) -> None:
    customer = gateway.customer()
    [datum] = run(gateway, customer.key, file, "generate")["result"]["data"]
    assert httpx.get(datum["url"]).headers["content-type"] == "image/png"
    assert datum["rle"] == "1 1"
    assert spent_micros(gateway, customer) == 5_000


def test_generate_in_base64(gateway: RunningGateway, file: Path) -> None:
    [datum] = run(gateway, gateway.customer().key, file, "generate_base64")["result"]["data"]
    assert datum["b64_json"].startswith("iVBORw0KGgo")


def test_edit_sends_nested_prompts_row_by_row(gateway: RunningGateway, pool: FakePool, file: Path) -> None:
    assert "result" in run(gateway, gateway.customer().key, file, "edit")
    assert [(p.x, p.y, p.positive) for p in pool.tasks[0].prompt.points] == [(5, 6, True), (7, 8, False)]


def test_edit_of_two_pictures_costs_twice(gateway: RunningGateway, file: Path) -> None:
    customer = gateway.customer()
    result = run(gateway, customer.key, file, "edit_two")["result"]
    assert [datum["image_index"] for datum in result["data"]] == [0, 1]
    assert spent_micros(gateway, customer) == 10_000


def test_models(gateway: RunningGateway, file: Path) -> None:
    key = gateway.customer().key
    assert "meta/sam-3-1-image" in run(gateway, key, file, "models")["result"]
    assert run(gateway, key, file, "model")["result"]["id"] == "meta/sam-3-image"


@pytest.mark.parametrize(
    ("operation", "behaviour", "key_settings", "expected"),
    [
        ("no_picture", "succeed", {}, ("BadRequestError", 400, "invalid_request_error")),
        ("unknown_model", "succeed", {}, ("NotFoundError", 404, "not_found")),
        ("generate", "succeed", {"usd": 0}, ("APIError", 402, "insufficient_credits")),
        (
            "generate",
            "succeed",
            {"allowed_models": ["meta/sam-3-image-rle"]},
            ("PermissionDeniedError", 403, "permission_error"),
        ),
        ("generate", "fail", {}, ("InternalServerError", 500, "server_error")),
        ("generate", "saturate", {}, ("InternalServerError", 503, "service_unavailable")),
    ],
)
def test_refusals(
    gateway: RunningGateway,
    pool: FakePool,
    file: Path,
    operation: str,
    behaviour: str,
    key_settings: dict[str, Any],
    expected: tuple[str, int, str],
) -> None:
    pool.behaviour = behaviour
    customer = gateway.customer(**key_settings)
    raised = run(gateway, customer.key, file, operation)
    assert (raised["raised"], raised["status"], raised["type"]) == expected
    assert raised["requestID"].startswith("req_")
    assert gateway.balance(customer).held_micros == 0
    gateway.require_sound_books()


def test_wrong_key(gateway: RunningGateway, file: Path) -> None:
    assert run(gateway, "sk-aig-wrong", file, "generate")["raised"] == "AuthenticationError"


def test_over_the_limit(gateway: RunningGateway, file: Path) -> None:
    customer = gateway.customer(requests_per_minute=1)
    assert "result" in run(gateway, customer.key, file, "generate")
    assert run(gateway, customer.key, file, "generate")["raised"] == "RateLimitError"
