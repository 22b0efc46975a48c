"""Links that open one file for a limited time, to whoever holds them."""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from gateway.media.errors import LinkRefused

LINK_SECONDS_MAX = 7 * 86_400
MOMENT_DIGITS_MAX = 15
_REFUSED = "This link is not valid, or it has expired. Links to results are given out anew by the call's prediction."


class LinkSigner:
    """Signs paths with the first of `keys` and accepts the signatures of any, so that keys can be replaced.

    A signature covers the path and the moment of expiry (HMAC-SHA256). `clock` gives Unix seconds.
    """

    def __init__(self, keys: Sequence[str], *, clock: Callable[[], float] = time.time) -> None:
        if not keys:
            raise ValueError("links need at least one signing key")
        self._keys = [key.encode() for key in keys]
        self._clock = clock

    def query(self, path: str, *, expires_in_seconds: int) -> str:
        """The query string that opens `path` for so long, at most seven days."""
        if not 0 < expires_in_seconds <= LINK_SECONDS_MAX:
            raise ValueError(f"a link lives 1 to {LINK_SECONDS_MAX} seconds")
        expires = int(self._clock()) + expires_in_seconds
        return urlencode({"expires": expires, "signature": _sign(self._keys[0], path, str(expires))})

    def seconds_left(self, path: str, expires: str, signature: str) -> int:
        """How long the link is still good for. Raises LinkRefused if it is not."""
        good = False
        for key in self._keys:  # all of them, whichever matches: the time taken tells nothing
            good |= hmac.compare_digest(_sign(key, path, expires).encode(), signature.encode("utf-8", "replace"))
        if not good or not _is_moment(expires) or int(expires) <= self._clock():
            raise LinkRefused(_REFUSED)
        return int(expires) - int(self._clock())


def _is_moment(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MOMENT_DIGITS_MAX


def _sign(key: bytes, path: str, expires: str) -> str:
    return hmac.new(key, f"{path}\n{expires}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()
