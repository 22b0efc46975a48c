"""Group commit: what arrives while one flush runs is gathered into the next, and nobody waits for a timer.

A flush is one durable transaction over many items; every caller is answered after it, never before.

* Items of one key are never flushed together or side by side; an item equal to one that is waiting shares its answer.
* A flush that fails because of an item is halved until the poison item fails alone.
* A flush that fails because of the connection is sent again, so items must be safe to repeat (they carry ids).
* The queue has a length and an age; beyond either the answer is LedgerUnavailable.
* A caller that goes away does not take its item with it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import asyncpg

from billing.errors import LedgerUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Flush = Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
"""Applies the items in one transaction and returns one answer for each, in order; an exception is an answer too."""

TRANSIENT_ERRORS: Final[tuple[type[Exception], ...]] = (
    OSError,  # includes TimeoutError and every ConnectionError
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the client's view of a connection that is closed or closing
    asyncpg.InternalClientError,  # the same, where the server died in the middle of an exchange
    asyncpg.OperatorInterventionError,  # the server stops, starts, or cancelled the statement
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # connected to a standby during a failover
)
"""Failures that say nothing about the items: the same items are sent again."""

_AGE_CHECKS_PER_MAX_AGE: Final = 4
_log = logging.getLogger(__name__)


class _Entry(Generic[Item, Result]):
    """One item on its way, and the future that all its callers wait for."""

    __slots__ = ("future", "item", "key", "queued_at")

    def __init__(self, item: Item, key: Hashable, future: asyncio.Future[Result]) -> None:
        self.item = item
        self.key = key
        self.future = future
        self.queued_at = time.monotonic()

    def answer(self, answer: Result | Exception) -> None:
        """Tell every caller."""
        if isinstance(answer, Exception):
            self.future.set_exception(answer)
            self.future.exception()  # a caller that went away is no reason for a warning
        else:
            self.future.set_result(answer)


class GroupCommit(Generic[Item, Result]):
    """Gathers submitted items into batches for `flush`; `run` does the work and `aclose` ends it.

    `key` says which items must not be flushed together (a hold's id). `flushers` batches run at the same time at
    most: the second keeps other wallets moving while the first waits for a lock. `on_flush` is told each batch's
    size and seconds.
    """

    def __init__(
        self,
        flush: Flush[Item, Result],
        *,
        key: Callable[[Item], Hashable],
        max_batch: int = 500,
        max_queue: int = 5_000,
        max_age_seconds: float = 5.0,
        flush_timeout_seconds: float = 15.0,
        attempts_max: int = 4,
        retry_delay_seconds: float = 0.1,
        flushers: int = 2,
        on_flush: Callable[[int, float], None] | None = None,
    ) -> None:
        if min(max_batch, max_queue, attempts_max, flushers) < 1:
            raise ValueError("max_batch, max_queue, attempts_max and flushers are at least 1")
        self._flush = flush
        self._key = key
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_age_seconds = max_age_seconds
        self._flush_timeout_seconds = flush_timeout_seconds
        self._attempts_max = attempts_max
        self._retry_delay_seconds = retry_delay_seconds
        self._flushers = flushers
        self._on_flush = on_flush
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._latest: dict[Hashable, _Entry[Item, Result]] = {}
        self._in_flight: dict[Hashable, _Entry[Item, Result]] = {}
        self._wakeup = asyncio.Event()
        self._closing = False
        self._running = False
        self._finished = asyncio.Event()

    @property
    def queued(self) -> int:
        """How many items wait for a flush."""
        return len(self._queue)

    async def submit(self, item: Item) -> Result:
        """The flush's answer for `item`, once it is durable; raises the answer if it is an exception.

        Raises LedgerUnavailable if the queue is full, the item waited too long, the database stayed away, or this
        is closing. Cancelling the caller leaves the item on its way.
        """
        key = self._key(item)
        entry = self._latest.get(key)
        if entry is None or entry.item != item:
            entry = self._enqueue(item, key)
        return await asyncio.shield(entry.future)

    async def run(self) -> None:
        """Flush until `aclose` was called and the queue is empty. Cancelling it refuses whatever is on its way."""
        if self._running or self._finished.is_set():
            raise RuntimeError("a GroupCommit runs once")
        self._running = True
        ageing = asyncio.create_task(self._refuse_aged())
        workers = [asyncio.create_task(self._work()) for _ in range(self._flushers)]
        try:
            await asyncio.gather(*workers)
        finally:
            self._closing = True
            for task in (ageing, *workers):
                task.cancel()
            await asyncio.gather(ageing, *workers, return_exceptions=True)
            self._refuse(self._queue, "the ledger is shutting down")
            self._queue.clear()
            self._finished.set()

    async def aclose(self) -> None:
        """Refuse new items, finish those that were accepted and end `run`. Bounded by the ages and timeouts above."""
        self._closing = True
        self._wakeup.set()
        if self._running:
            await self._finished.wait()
        else:
            self._refuse(self._queue, "the ledger was never started")
            self._queue.clear()

    def _enqueue(self, item: Item, key: Hashable) -> _Entry[Item, Result]:
        if self._closing:
            raise LedgerUnavailable("the ledger is shutting down")
        if len(self._queue) >= self._max_queue:
            raise LedgerUnavailable("too many operations are waiting for the ledger")
        entry = _Entry[Item, Result](item, key, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._latest[key] = entry
        self._wakeup.set()
        return entry

    async def _work(self) -> None:
        while True:
            batch = self._take()
            if batch:
                await self._settle(batch)
            elif self._closing and not self._queue:
                return
            else:
                self._wakeup.clear()
                await self._wakeup.wait()

    def _take(self) -> list[_Entry[Item, Result]]:
        """The next batch: oldest first, leaving behind what shares a key with something under way."""
        batch: list[_Entry[Item, Result]] = []
        left_behind: list[_Entry[Item, Result]] = []
        while self._queue and len(batch) < self._max_batch:
            entry = self._queue.popleft()
            if entry.key in self._in_flight:
                left_behind.append(entry)
            else:
                self._in_flight[entry.key] = entry
                batch.append(entry)
        self._queue.extendleft(reversed(left_behind))
        return batch

    async def _settle(self, batch: list[_Entry[Item, Result]]) -> None:
        """Flush the batch and answer everyone in it; then let what waited for its keys go on."""
        try:
            await self._flush_or_halve(batch)
        finally:
            for entry in batch:
                del self._in_flight[entry.key]
                self._forget(entry)
                if not entry.future.done():
                    entry.answer(LedgerUnavailable("the ledger is shutting down"))
            self._wakeup.set()

    async def _flush_or_halve(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            answers = await self._flush_with_retries([entry.item for entry in batch])
        except LedgerUnavailable as unavailable:
            for entry in batch:
                entry.answer(unavailable)
        except Exception as error:
            if len(batch) == 1:
                _log.error("the ledger refused one item", exc_info=error)
                batch[0].answer(error)
                return
            middle = len(batch) // 2
            await self._flush_or_halve(batch[:middle])
            await self._flush_or_halve(batch[middle:])
        else:
            for entry, answer in zip(batch, answers, strict=True):
                entry.answer(answer)

    async def _flush_with_retries(self, items: list[Item]) -> Sequence[Result | Exception]:
        failure: Exception | None = None
        for attempt in range(self._attempts_max):
            if attempt > 0:
                await asyncio.sleep(self._retry_delay_seconds * 2 ** (attempt - 1))
            started = time.perf_counter()
            try:
                async with asyncio.timeout(self._flush_timeout_seconds):
                    answers = await self._flush(items)
            except TRANSIENT_ERRORS as error:
                failure = error
                _log.warning("ledger flush failed, attempt %d of %d: %r", attempt + 1, self._attempts_max, error)
                continue
            if len(answers) != len(items):
                raise RuntimeError(f"a flush of {len(items)} items gave {len(answers)} answers")
            if self._on_flush is not None:
                self._on_flush(len(items), time.perf_counter() - started)
            return answers
        raise LedgerUnavailable("the ledger's database does not answer") from failure

    async def _refuse_aged(self) -> None:
        """Answer items that have waited too long even while every flusher is stuck."""
        while True:
            await asyncio.sleep(self._max_age_seconds / _AGE_CHECKS_PER_MAX_AGE)
            oldest = time.monotonic() - self._max_age_seconds
            aged = [entry for entry in self._queue if entry.queued_at < oldest]
            if aged:
                self._queue = deque(entry for entry in self._queue if entry.queued_at >= oldest)
                self._refuse(aged, "the ledger is behind")
                self._wakeup.set()

    def _refuse(self, entries: Iterable[_Entry[Item, Result]], why: str) -> None:
        for entry in entries:
            self._forget(entry)
            entry.answer(LedgerUnavailable(why))

    def _forget(self, entry: _Entry[Item, Result]) -> None:
        if self._latest.get(entry.key) is entry:
            del self._latest[entry.key]
