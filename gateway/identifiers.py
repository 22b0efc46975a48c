"""Identifiers: UUIDs that sort by time, shown with a prefix that tells their kind."""

import secrets
import time
from uuid import UUID

PREDICTION = "pred"
ORGANIZATION = "org"
KEY = "key"
PAYMENT = "pay"
CREDENTIAL = "cred"


def new_id() -> UUID:
    """A UUID version 7: 48 bits of Unix milliseconds, then random (RFC 9562 section 5.7)."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    return UUID(int=value & ~(0b11 << 62) | 0b10 << 62)


def public_id(prefix: str, value: UUID) -> str:
    """The form people see, e.g. org_0198c1…"""
    return f"{prefix}_{value.hex}"


def parse_id(prefix: str, text: str) -> UUID | None:
    """The UUID behind a public id of this kind; None for anything else."""
    head, _, tail = text.partition("_")
    if head != prefix or len(tail) != 32:
        return None
    try:
        return UUID(hex=tail)
    except ValueError:
        return None
