"""Only what Stripe signed, now, is an event."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import stripe

from billing.errors import WebhookRejected
from billing.stripe_client import verify_event

SECRET, PREVIOUS = "whsec_new", "whsec_old"
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BODY = json.dumps({"id": "evt_1", "type": "charge.succeeded", "created": 1, "data": {"object": {"id": "ch_1"}}})


def signed(body: str = BODY, secret: str = SECRET, at: datetime = NOW) -> str:
    """Stripe-Signature as Stripe's library writes it."""
    header: str = stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=int(at.timestamp()))
    return header


def test_a_signed_event_is_read() -> None:
    assert verify_event(BODY.encode(), signed(), [SECRET], now=NOW)["id"] == "evt_1"


def test_either_secret_counts_while_they_change() -> None:
    for secret in (SECRET, PREVIOUS):
        assert verify_event(BODY.encode(), signed(secret=secret), [SECRET, PREVIOUS], now=NOW)["id"] == "evt_1"


def test_one_of_several_signatures_is_enough() -> None:
    both = f"{signed(secret=PREVIOUS)},v1={signed().rpartition('v1=')[2]}"
    assert verify_event(BODY.encode(), both, [SECRET], now=NOW)["id"] == "evt_1"


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (BODY, None),
        (BODY, ""),
        (BODY, "nonsense"),
        (BODY, "t=soon,v1=00"),
        (BODY, signed(secret="whsec_stolen")),
        (BODY, signed().replace("v1=", "v0=")),
        (BODY + " ", signed()),
        (BODY.replace("ch_1", "ch_2"), signed()),
        (BODY, signed(at=NOW - timedelta(seconds=301))),
        (BODY, signed(at=NOW + timedelta(seconds=61))),
        (BODY, signed(at=NOW + timedelta(days=3650))),
    ],
)
def test_forged_altered_late_and_early_are_refused(body: str, header: str | None) -> None:
    with pytest.raises(WebhookRejected):
        verify_event(body.encode(), header, [SECRET], now=NOW)


def test_the_time_of_a_signature_cannot_be_changed() -> None:
    late = NOW + timedelta(hours=1)
    fresh = signed().replace(str(int(NOW.timestamp())), str(int(late.timestamp())))
    with pytest.raises(WebhookRejected):
        verify_event(BODY.encode(), fresh, [SECRET], now=late)


@pytest.mark.parametrize("secrets", [[], [""], ["  "]])
def test_without_a_secret_nothing_is_accepted(secrets: list[str]) -> None:
    with pytest.raises(WebhookRejected):
        verify_event(BODY.encode(), signed(), secrets, now=NOW)


@pytest.mark.parametrize("body", ["[]", "1", "{}", '{"id": "evt"}', "not json", json.dumps({"id": 1, "data": None})])
def test_a_signed_body_that_is_no_event_is_refused(body: str) -> None:
    with pytest.raises(WebhookRejected):
        verify_event(body.encode(), signed(body), [SECRET], now=NOW)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(WebhookRejected):
        verify_event(b"\xff\xfe", signed(), [SECRET], now=NOW)
