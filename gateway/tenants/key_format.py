"""What an API key looks like, and the keyed hash we store instead of it.

`sk-aig-` (customers) or `ak-aig-` (operators), 43 random base62 characters (256 bits), then 6 base62 characters of the
CRC-32 of everything before: 56 in all. The checksum lets anyone, leak scanners included, tell a key from a typo
without asking us (after https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/).
"""

import hmac
import re
import secrets
import string
import zlib
from collections.abc import Sequence
from enum import StrEnum

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS = 43
CHECKSUM_CHARACTERS = 6
KEY_CHARACTERS = 7 + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS
HINT_CHARACTERS = 4
PEPPERS_MAXIMUM = 2
PEPPER_CHARACTERS_MINIMUM = 32
KEY_PATTERN = re.compile(r"(?:sk|ak)-aig-[0-9A-Za-z]{49}")
"""Finds keys in text (logs, repositories); a hit is a key only if `is_well_formed`."""


class KeyKind(StrEnum):
    """Whose key it is: a customer's or an operator's."""

    LIVE = "live"
    ADMIN = "admin"


PREFIXES = {KeyKind.LIVE: "sk-aig-", KeyKind.ADMIN: "ak-aig-"}


def generate(kind: KeyKind) -> str:
    """A new random key."""
    body = PREFIXES[kind] + "".join(secrets.choice(BASE62) for _ in range(RANDOM_CHARACTERS))
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether `text` has the form and the checksum of a key; costs microseconds and asks nobody."""
    return KEY_PATTERN.fullmatch(text) is not None and _checksum(text[:-CHECKSUM_CHARACTERS]) == text[-6:]


def hint(key: str) -> str:
    """The part of a key that may be shown: its prefix and last four characters."""
    return f"{key[:7]}…{key[-HINT_CHARACTERS:]}"


class Peppers:
    """The secrets that key hashes depend on: the one in use, and the one before while keys move over.

    A stolen database is useless for guessing keys without them. The keys are 256 random bits, so a slow password hash
    would add nothing but load.
    """

    def __init__(self, peppers: Sequence[str]) -> None:
        """One or two peppers, the current one first. Raises ValueError for one of fewer than 32 characters."""
        if not 1 <= len(peppers) <= PEPPERS_MAXIMUM:
            raise ValueError(f"there must be 1 to {PEPPERS_MAXIMUM} key peppers, not {len(peppers)}")
        if any(len(pepper) < PEPPER_CHARACTERS_MINIMUM for pepper in peppers):
            raise ValueError(f"a key pepper needs at least {PEPPER_CHARACTERS_MINIMUM} characters")
        self._peppers = [pepper.encode() for pepper in peppers]
        self.current_id = hmac.digest(self._peppers[0], b"pepper id", "sha256")[:4].hex()
        """Tells stored hashes of different peppers apart; reveals nothing about the pepper."""

    def digest(self, key: str) -> bytes:
        """HMAC-SHA256 of `key` under the current pepper, 32 bytes."""
        return hmac.digest(self._peppers[0], key.encode(), "sha256")

    def digests(self, key: str) -> list[bytes]:
        """`digest` under each pepper in force, the current one first."""
        return [hmac.digest(pepper, key.encode(), "sha256") for pepper in self._peppers]


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    characters = []
    for _ in range(CHECKSUM_CHARACTERS):
        value, digit = divmod(value, 62)
        characters.append(BASE62[digit])
    return "".join(reversed(characters))
