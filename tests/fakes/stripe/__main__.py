"""`python -m tests.fakes.stripe --port 0 --webhook-url http://127.0.0.1:8080/stripe/events --secret whsec_…`

Serves on loopback only. Prints its address as its first line.
"""

import argparse
import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from tests.fakes.stripe.delivery import Webhooks
from tests.fakes.stripe.program import FakeStripe, local_address


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="A Stripe for tests and demos. The money is not money.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--webhook-url", required=True)
    parser.add_argument("--secret", required=True, help="Webhooks are signed with it.")
    parser.add_argument("--store", type=Path, help="File that keeps the account from start to start.")
    options = parser.parse_args()
    local_address(options.webhook_url)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", options.port))
    listening.listen(128)
    fake = FakeStripe(options.store, Webhooks(url=options.webhook_url, secret=options.secret))
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(fake.app, log_level="warning", access_log=False, lifespan="on")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
