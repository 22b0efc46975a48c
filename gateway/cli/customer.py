"""A customer's commands over HTTP: where the gateway is, and its answer or a sentence why not."""

from typing import Annotated, Any

import httpx
import typer
from pydantic import ValidationError

from gateway.cli.client_settings import ClientSettings, Connection
from gateway.cli.errors import CliError

TIMEOUT_SECONDS = 120.0

BaseUrl = Annotated[str | None, typer.Option(help="Default: GATEWAY_BASE_URL, else the demo's.")]
ApiKey = Annotated[str | None, typer.Option(help="Default: GATEWAY_API_KEY, else the demo's.")]


def connection(base_url: str | None, api_key: str | None) -> Connection:
    """What was given, else what the environment or the demo says. Raises CliError."""
    try:
        return ClientSettings().connection(base_url=base_url, api_key=api_key)
    except ValidationError as error:
        raise CliError(
            f"GATEWAY_DATA_DIR, GATEWAY_BASE_URL or GATEWAY_API_KEY is wrong: {error.errors()[0]['msg']}."
        ) from None


def ask(
    gateway: Connection,
    method: str,
    path: str,
    *,
    json: dict[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> httpx.Response:
    """The gateway's answer. Raises CliError with its message where it refuses or cannot be reached."""
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    if idempotency_key is not None:
        headers["idempotency-key"] = idempotency_key
    try:
        answer = httpx.request(
            method,
            f"{gateway.base_url}{path}",
            json=json,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
        )
    except httpx.InvalidURL as error:
        raise CliError(f"'{gateway.base_url}' is not the address of a gateway: {error}.", exit_status=2) from error
    except httpx.HTTPError as error:
        raise CliError(
            f"The gateway at {gateway.base_url} cannot be reached ({error or type(error).__name__}). Start it with "
            "deploy/run."
        ) from error
    if answer.is_success:
        return answer
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"The gateway answered with status {answer.status_code}."
    raise CliError(f"{message} ({answer.headers.get('x-request-id', 'no request id')})")
