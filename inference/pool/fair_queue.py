"""A bounded queue that takes turns between organizations, so that one customer's burst delays mostly that customer."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within an organization; one each in turn between organizations. Safe across threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0
        self._closed = False

    def __len__(self) -> int:
        return self._length

    def put(self, organization: str, item: T) -> None:
        """Append. The caller bounds the length; see `Pool.submit`."""
        with self._condition:
            self._waiting.setdefault(organization, deque()).append(item)
            self._length += 1
            self._condition.notify()

    def take(self) -> T | None:
        """The next organization's oldest item; waits for one. None once the queue is closed and empty."""
        with self._condition:
            while not self._waiting:
                if self._closed:
                    return None
                self._condition.wait()
            organization, items = self._waiting.popitem(last=False)
            item = items.popleft()
            if items:
                self._waiting[organization] = items  # to the end of the row
            self._length -= 1
            return item

    def close(self) -> None:
        """Let `take` return None when nothing is left."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
