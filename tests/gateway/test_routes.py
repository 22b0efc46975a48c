"""Every route of the program, found by walking it: none forgets the key, and every answer can be traced."""

import json
import socket
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from gateway.app import create_app
from gateway.dialect import problem_of
from gateway.settings import Settings
from gateway.tenants.api_keys import Scope, issue_admin_key
from gateway.tenants.key_format import KeyKind, Peppers, generate
from tests.fakes.pool import FakePool
from tests.pictures import data_uri, picture
from tests.serving import PEPPER, RunningGateway

PUBLIC = {
    "/healthz",
    "/readyz",
    "/media/{key:path}",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
    "/stripe/events",
    "/topups/{topup_id}",
}
"""Routes that ask for no key. Whoever adds one here says why it gives nothing away: state of health, results behind
signed links, documentation, events that Stripe signs, and amounts of a top-up whose id cannot be guessed."""


def routes(router: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, with those of included routers."""
    for route in router.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from routes(included, prefix + route.include_context.prefix)
        else:
            yield from product(sorted(route.methods), [prefix + route.path])


ROUTES = sorted(set(routes(create_app(Settings(key_pepper=None)))))
GUARDED = [(method, path) for method, path in ROUTES if path not in PUBLIC]


def address(path: str) -> str:
    """The path with something in its parameters."""
    return path.replace("{name:path}", "meta/sam-3-image").replace("{key:path}", "x")


def ask(gateway: RunningGateway, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.request(method, gateway.base_url + address(path), headers=headers, **options)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The refusal in OpenAI's shape."""
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return error


def test_the_walk_finds_what_is_sold() -> None:
    assert ("POST", "/v1/images/generations") in GUARDED
    assert ("POST", "/v1/images/edits") in GUARDED
    assert ("GET", "/v1/models/{name:path}") in GUARDED
    assert {path for _, path in ROUTES} >= PUBLIC


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_no_route_opens_without_a_key(gateway: RunningGateway, method: str, path: str) -> None:
    for key in (None, "x", "sk-aig-", generate(KeyKind.LIVE), generate(KeyKind.ADMIN)):
        answer = ask(gateway, method, path, key)
        assert answer.status_code == 401, key
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["x-request-id"].startswith("req_")
        if method != "HEAD":
            assert error_of(answer)["type"] == "authentication_error"


def test_the_operator_s_key_opens_no_customer_route(gateway: RunningGateway) -> None:
    async def issue() -> str:
        async with gateway.resources.database.writing() as session:
            return (await issue_admin_key(session, peppers=Peppers([PEPPER]), name="test")).key

    key = gateway.run(issue())
    for method, path in GUARDED:
        answer = ask(gateway, method, path, key)
        assert answer.status_code == 403, path
        if method != "HEAD":
            assert error_of(answer)["code"] == "organization_key_required"


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route not in GUARDED])
def test_public_routes_answer_anybody_with_a_request_id(gateway: RunningGateway, method: str, path: str) -> None:
    answer = ask(gateway, method, path)
    assert answer.status_code == (404 if "{" in path or path == "/stripe/events" else 200)  # no such link, no Stripe
    assert answer.headers["x-request-id"].startswith("req_")


def test_key_without_the_scope_spends_nothing(gateway: RunningGateway, pool: FakePool) -> None:
    reader = gateway.customer(usd=1, scopes=[Scope.PREDICTIONS_READ])
    body = {"prompt": "red circle", "image": data_uri(picture())}
    answer = ask(gateway, "POST", "/v1/images/edits", reader.key, json=body)
    assert (answer.status_code, error_of(answer)["type"]) == (403, "permission_error")
    assert pool.tasks == []
    assert gateway.balance(reader).available_micros == 1_000_000


def test_request_ids_are_ours_and_never_the_same(gateway: RunningGateway) -> None:
    answers = [httpx.get(f"{gateway.base_url}/healthz", headers={"x-request-id": "mine"}) for _ in range(20)]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == 20
    assert "mine" not in {found[0] for found in ids}


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/images/generations", "/v1/images/generations"),
        ("POST", "/images/edits", "/v1/images/edits"),
        ("GET", "/models", "/v1/models"),
        ("GET", "/models/meta/sam-3-image", "/v1/models/meta/sam-3-image"),
        ("POST", "/v1/v1/images/generations", "/v1/images/generations"),
    ],
)
def test_wrong_base_url_is_told_how_it_ends(gateway: RunningGateway, method: str, path: str, meant: str) -> None:
    answer = ask(gateway, method, path)
    assert answer.status_code == 404
    assert answer.headers["x-request-id"].startswith("req_")
    message = error_of(answer)["message"]
    assert f"Did you mean {meant}?" in message
    assert "ends in /v1" in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/images/generations"),
        ("OPTIONS", "/v1/images/generations"),
        ("DELETE", "/v1/models/meta/sam-3-image"),
        ("GET", "/v1"),
        ("GET", "/v1/models/"),
        ("POST", "/" + "x" * 5_000),
        ("GET", "//v1//models"),
        ("GET", "/media/../v1/models"),
    ],
)
def test_other_paths_and_methods_are_404_in_the_same_shape(gateway: RunningGateway, method: str, path: str) -> None:
    answer = ask(gateway, method, path)
    assert answer.status_code in (401, 404)
    assert answer.headers["x-request-id"].startswith("req_")
    assert len(error_of(answer)["message"]) < 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/readyz"), ("GET", "/v1/models"), ("POST", "/v1/images/edits")])
async def test_a_bug_is_a_500_with_a_request_id_that_gives_nothing_away(tmp_path: Path, method: str, path: str) -> None:
    unopened = create_app(Settings(data_dir=tmp_path))  # its lifespan has not run: every route meets a bug
    transport = httpx.ASGITransport(unopened, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        answer = await client.request(method, path)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"].startswith("req_")
    assert (error_of(answer)["type"], error_of(answer)["code"]) == ("server_error", "internal_error")
    assert "resources" not in answer.text


def test_client_that_hangs_up_in_its_body_is_no_bug_of_ours(gateway: RunningGateway) -> None:
    assert problem_of(ClientDisconnect()).status == 400
    customer = gateway.customer(usd=1)
    host, _, port = gateway.base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/images/edits HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {customer.key}\r\n"
            f"content-type: application/json\r\ncontent-length: 1000\r\n\r\n{json.dumps({})}".encode()
        )
    assert ask(gateway, "GET", "/v1/models", customer.key).status_code == 200
    assert gateway.predictions(customer) == []
