"""Payments with test money for the demo: a program that stands in for Stripe, as a child of this process.

It is the one that the tests use (`tests/fakes/stripe`), so what a newcomer clicks through is what is tested. Only a
checkout has it; an installed package has no stand-in, and takes cards only where a Stripe account is configured.
"""

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import sys
from itertools import chain
from pathlib import Path

import httpx
import structlog
from pydantic import SecretStr

from gateway.embedded.child import Child
from gateway.embedded.data_folder import DataFolder, running_gateway, write_private
from gateway.embedded.errors import StartError
from gateway.settings import CHECKOUT, Settings

log = structlog.get_logger(__name__)

PROGRAM = "tests.fakes.stripe"
SECRET_KEY = "sk_test_stand_in"  # noqa: S105 - opens nothing but test money on this machine
START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.05
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class StandInPayments:
    """The stand-in for as long as this process lives; its account is kept in the data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = DataFolder(data_dir)
        self._child: Child | None = None

    @staticmethod
    def suits(settings: Settings) -> bool:
        """Whether it may take Stripe's place: no account is named, it is there, and the gateway is on this machine."""
        there = (CHECKOUT / PROGRAM.replace(".", "/") / "__main__.py").is_file()
        local = settings.host in (*LOOPBACK, *WILDCARDS)
        return settings.stripe_secret_key is None and settings.stripe_api_url is None and there and local

    async def start(self, settings: Settings) -> dict[str, object]:
        """Start it and return the settings that lead to it.

        Raises:
            StartError: it ended or did not answer in time; the text has its log's end.
        """
        host = "127.0.0.1" if settings.host in WILDCARDS else settings.host
        secret = f"whsec_{secrets.token_urlsafe(24)}"
        port = _port(_record(self._folder).get("port"))
        url = f"http://127.0.0.1:{port}"
        address = f"[{host}]" if ":" in host else host
        options = {
            "--port": str(port),
            "--secret": secret,
            "--webhook-url": f"http://{address}:{settings.port}/stripe/events",
            "--store": str(self._folder.path / "test-payments-account.json"),
        }
        self._child = await Child.start(
            [sys.executable, "-m", PROGRAM, *chain.from_iterable(options.items())],
            folder=self._folder,
            log_name="test-payments.log",
            environment={"PYTHONPATH": str(CHECKOUT)},
            inherit=True,
            death_signal=signal.SIGKILL,
        )
        try:
            await self._ready(url)
        except BaseException:
            await self.stop()
            raise
        write_private(_record_file(self._folder), json.dumps({"port": port, "api_url": url}))
        log.warning("test_money", stripe=url, note="payments are played; no card is charged")
        return {
            "stripe_secret_key": SecretStr(SECRET_KEY),
            "stripe_webhook_secret": SecretStr(secret),
            "stripe_api_url": url,
        }

    async def stop(self) -> None:
        """End it."""
        if self._child is not None:
            await self._child.stop((signal.SIGTERM,), timeout_seconds=STOP_TIMEOUT_SECONDS)
            self._child = None

    async def _ready(self, url: str) -> None:
        assert self._child is not None, "it was started"
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_SECONDS
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {SECRET_KEY}"}) as client:
            while asyncio.get_running_loop().time() < deadline:
                if self._child.returncode is not None:
                    raise StartError(f"The stand-in for Stripe did not start.\n{self._child.log_tail()}")
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{url}/v1/balance")).is_success:
                        return
                await asyncio.sleep(POLL_SECONDS)
        raise StartError(f"The stand-in for Stripe did not answer in time.\n{self._child.log_tail()}")


def are_played(settings: Settings) -> bool:
    """Whether these settings lead to a stand-in."""
    key = settings.stripe_secret_key
    return key is not None and key.get_secret_value() == SECRET_KEY


def with_running_stand_in(settings: Settings) -> Settings:
    """The settings, led to the stand-in of the gateway that runs on the same data folder if nothing else is named."""
    folder = DataFolder(settings.data_dir)
    url = _record(folder).get("api_url")
    if settings.stripe_secret_key is not None or url is None or running_gateway(folder) is None:
        return settings
    return settings.model_copy(update={"stripe_secret_key": SecretStr(SECRET_KEY), "stripe_api_url": url})


def _record_file(folder: DataFolder) -> Path:
    return folder.path / "test-payments.json"


def _record(folder: DataFolder) -> dict[str, object]:
    try:
        found = json.loads(_record_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _port(wanted: object) -> int:
    """The port of last time if it is free, since links lead to it; else any."""
    for port in (wanted if isinstance(wanted, int) else 0, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise StartError("There is no free port for the stand-in for Stripe.")
