"""What may be stored about organizations and keys; each refusal is a SettingRejected that says what is allowed."""

from collections.abc import Collection
from datetime import UTC, datetime

from gateway.rate_limit.gcra import LIMIT_MAXIMUM
from gateway.tenants.errors import SettingRejected

NAME_CHARACTERS_MAXIMUM = 100
MODELS_MAXIMUM = 100
MODEL_CHARACTERS_MAXIMUM = 200
SPEND_CAP_MICROS_MAXIMUM = 10**15
PAGE_MAXIMUM = 1_000


def checked_name(name: str) -> str:
    """`name` without surrounding blanks; 1 to 100 printable characters."""
    name = name.strip()
    if not 1 <= len(name) <= NAME_CHARACTERS_MAXIMUM or not name.isprintable():
        raise SettingRejected(f"A name has 1 to {NAME_CHARACTERS_MAXIMUM} printable characters.", "name")
    return name


def checked_limit(requests_per_minute: int | None) -> int | None:
    """A limit that a rate limiter can keep, or None for the installation's default."""
    if requests_per_minute is not None and not 1 <= requests_per_minute <= LIMIT_MAXIMUM:
        raise SettingRejected(f"A limit is 1 to {LIMIT_MAXIMUM:,} requests per minute.", "requests_per_minute")
    return requests_per_minute


def checked_spend_cap(spend_cap_micros: int | None) -> int | None:
    """An amount of micros, or None for no cap."""
    if spend_cap_micros is not None and not 0 <= spend_cap_micros <= SPEND_CAP_MICROS_MAXIMUM:
        raise SettingRejected("A spend cap is an amount from $0 to $1,000,000,000.", "spend_cap_micros")
    return spend_cap_micros


def checked_models(allowed_models: Collection[str] | None) -> list[str] | None:
    """Names of models, sorted and without repetitions, or None for all. Whether they exist the catalog knows."""
    if allowed_models is None:
        return None
    names = sorted(set(allowed_models))
    fitting = all(1 <= len(name) <= MODEL_CHARACTERS_MAXIMUM and name.isprintable() for name in names)
    if not 1 <= len(names) <= MODELS_MAXIMUM or not fitting:
        raise SettingRejected(f"Allowed models are 1 to {MODELS_MAXIMUM} names of models.", "allowed_models")
    return names


def checked_expiry(expires_at: datetime | None) -> datetime | None:
    """A moment in the future, with a time zone, or None for never."""
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
        raise SettingRejected("A key expires at a moment in the future, given with its time zone.", "expires_at")
    return expires_at


def checked_page(limit: int) -> int:
    """How many records one page may have."""
    if not 1 <= limit <= PAGE_MAXIMUM:
        raise SettingRejected(f"A page has 1 to {PAGE_MAXIMUM} records.", "limit")
    return limit
