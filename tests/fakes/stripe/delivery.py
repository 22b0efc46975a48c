"""Webhooks as Stripe sends them: signed, at least once, in no promised order, again after a failure."""

import asyncio
import json
import random
from collections import deque
from dataclasses import dataclass, field

import httpx
import stripe

from tests.fakes.stripe.objects import Object

ATTEMPTS_MAX = 8
TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.02


@dataclass
class Webhooks:
    """Where events go, and what goes wrong on the way. `held` events wait until `release` or are taken by a test.

    `copies`: each event is sent so many times; `shuffled`: what waits is sent in any order; `dropped`: types that never
    arrive; `delay_seconds`: how long each waits first.
    """

    url: str | None = None
    secret: str = "whsec_test"
    hold: bool = False
    copies: int = 1
    shuffled: bool = False
    dropped: frozenset[str] = frozenset()
    delay_seconds: float = 0.0
    retry_seconds: float = 0.2
    held: list[Object] = field(default_factory=list)
    answers: list[tuple[str, int]] = field(default_factory=list)
    _waiting: deque[tuple[Object, int]] = field(default_factory=deque)
    _under_way: int = 0

    def notify(self, event: Object) -> None:
        """An event has happened."""
        if event["type"] in self.dropped:
            return
        if self.hold:
            self.held.append(event)
        elif self.url is not None:
            self._waiting.extend((event, 1) for _ in range(self.copies))

    def release(self) -> None:
        """Send what was held, and hold no more."""
        self.hold = False
        held, self.held = self.held, []
        for event in held:
            self.notify(event)

    @property
    def idle(self) -> bool:
        """Whether everything has arrived or was given up."""
        return not self._waiting and self._under_way == 0

    def sign(self, event: Object) -> tuple[bytes, str]:
        """Body and Stripe-Signature of an event, as of now."""
        body = json.dumps(event, indent=2)
        return body.encode(), stripe.WebhookSignature.generate_signature_header(body, self.secret)

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
            while True:
                if not self._waiting:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                if self.shuffled:
                    self._waiting.rotate(random.randrange(len(self._waiting)))
                self._under_way += 1
                try:
                    event, attempt = self._waiting.popleft()
                    await asyncio.sleep(self.delay_seconds)
                    await self._deliver(client, event, attempt)
                finally:
                    self._under_way -= 1

    async def _deliver(self, client: httpx.AsyncClient, event: Object, attempt: int) -> None:
        assert self.url is not None, "events wait only where there is somewhere to send them"
        body, signature = self.sign(event)
        headers = {"content-type": "application/json; charset=utf-8", "stripe-signature": signature}
        try:
            status = (await client.post(self.url, content=body, headers=headers)).status_code
        except httpx.HTTPError:
            status = 0
        self.answers.append((event["type"], status))
        if not 200 <= status < 300 and attempt < ATTEMPTS_MAX:
            await asyncio.sleep(self.retry_seconds * attempt)
            self._waiting.append((event, attempt + 1))
