"""Webhook events, each applied once: the note that it came and its effect stand or fall together."""

import json
from datetime import UTC, datetime
from typing import Final

from billing.connection import Connection
from billing.stripe_client import Object
from billing.stripe_facts import apply_event

REPEATED: Final = "repeated"


async def receive(connection: Connection, event: Object) -> str:
    """Apply a verified event and note what became of it; REPEATED if that had happened before. Never commits.

    Call it in a transaction of its own and answer Stripe only after the commit: an exception must undo the note too,
    so that Stripe's next attempt finds the event new.
    """
    new = await connection.fetchval(
        "SELECT billing.receive_stripe_event($1, $2, $3, $4::jsonb, $5)",
        event["id"],
        event["type"],
        event.get("api_version"),
        json.dumps(event),
        datetime.fromtimestamp(event["created"], UTC),
    )
    if not new:
        return REPEATED
    outcome = await apply_event(connection, event)
    await connection.execute("SELECT billing.finish_stripe_event($1, $2)", event["id"], outcome)
    return outcome
