"""A small memory with an end: the least recently used goes first, and nothing stays longer than it may."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class ExpiringLru(Generic[V]):
    """Up to `entries_maximum` values by digest; each until the moment given with it, on the caller's clock."""

    def __init__(self, entries_maximum: int) -> None:
        self._entries_maximum = entries_maximum
        self._entries: OrderedDict[bytes, tuple[float, V]] = OrderedDict()

    def get(self, digest: bytes, now: float) -> V | None:
        """The value, unless there is none or its time is over."""
        found = self._entries.get(digest)
        if found is None:
            return None
        until, value = found
        if now >= until:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return value

    def put(self, digest: bytes, value: V, until: float) -> None:
        """Keep `value` until the moment `until`."""
        self._entries[digest] = (until, value)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._entries_maximum:
            self._entries.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """Forget this one, if it is there."""
        self._entries.pop(digest, None)

    def drop(self, matches: Callable[[V], bool]) -> None:
        """Forget every value that matches; walks over all of them, so for rare events."""
        for digest in [digest for digest, (_, value) in self._entries.items() if matches(value)]:
            del self._entries[digest]
