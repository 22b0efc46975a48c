"""Where Stripe tells us what happened: POST /stripe/events."""

import structlog
from fastapi import APIRouter, Request

from billing.stripe_client import API_RELEASE, verify_event
from billing.stripe_inbox import receive
from gateway.dependencies import ResourcesOf
from gateway.dialects.openai_shape import OpenAIRoute
from gateway.refusals import BodyTooLarge, PaymentsNotConfigured

router = APIRouter(route_class=OpenAIRoute, tags=["payments"])
log = structlog.get_logger(__name__)

EVENT_BYTES_MAX = 512 * 1024


@router.post("/stripe/events", include_in_schema=False)
async def receive_event(request: Request, resources: ResourcesOf) -> dict[str, str]:
    """Apply an event that Stripe signed, once; its note and its effect are one transaction.

    Needs no key but a signature over the raw bytes. Anything but a 2xx makes Stripe send it again, so whatever goes
    wrong here is answered as it is. Raises WebhookRejected (400).
    """
    secrets = resources.settings.stripe_webhook_secrets
    if not secrets:
        raise PaymentsNotConfigured
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > EVENT_BYTES_MAX:
            raise BodyTooLarge("The event is too large.")
    event = verify_event(body, request.headers.get("stripe-signature"), secrets)
    version = str(event.get("api_version"))
    if version.rpartition(".")[2] != API_RELEASE:
        log.error("stripe_api_version_differs", event_id=event["id"], found=version, expected=API_RELEASE)
    async with resources.database.pool.acquire() as connection, connection.transaction():
        outcome = await receive(connection, event)
    level = log.error if outcome in ("mismatch", "unknown") else log.info
    level("stripe_event", event_id=event["id"], kind=event["type"], outcome=outcome)
    return {"outcome": outcome}
