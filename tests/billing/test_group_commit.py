"""The batcher by itself, over a flush that a test scripts."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import pytest

from billing.errors import LedgerUnavailable
from billing.group_commit import GroupCommit
from tests.billing.running import running

Commit = GroupCommit[str, str]
Gate = asyncio.Event


class Flush:
    """A flush that answers in capitals, keeps what it was sent, and does what a test scripts."""

    def __init__(self, script: Callable[[Sequence[str]], Awaitable[None] | None] = lambda _: None) -> None:
        self.batches: list[list[str]] = []
        self._script = script

    async def __call__(self, items: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(items))
        waiting = self._script(items)
        if waiting is not None:
            await waiting
        return [ValueError(item) if item.startswith("refused") else item.upper() for item in items]


def key_of(item: str) -> str:
    """The part before the dot."""
    return item.partition(".")[0]


def make(flush: Flush, **options: object) -> Commit:
    """One flusher, quick retries, unless told otherwise."""
    fields: dict[str, object] = {"flushers": 1, "retry_delay_seconds": 0.001, **options}
    return GroupCommit(flush, key=key_of, **fields)  # type: ignore[arg-type]


async def test_what_arrives_during_a_flush_goes_into_the_next_one() -> None:
    gate, begun = Gate(), Gate()

    async def wait(_: Sequence[str]) -> None:
        begun.set()
        await gate.wait()

    flush = Flush(wait)
    commit = make(flush, max_batch=3)
    async with running(commit):
        first = asyncio.create_task(commit.submit("a"))
        await begun.wait()
        others = [asyncio.create_task(commit.submit(item)) for item in "bcde"]
        await asyncio.sleep(0)
        assert commit.queued == 4
        gate.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C", "D", "E"]
    assert flush.batches == [["a"], ["b", "c", "d"], ["e"]]


async def test_nobody_is_answered_before_the_flush_is_done() -> None:
    gate, begun = Gate(), Gate()

    async def wait(_: Sequence[str]) -> None:
        begun.set()
        await gate.wait()

    commit = make(Flush(wait))
    async with running(commit):
        task = asyncio.create_task(commit.submit("a"))
        await begun.wait()
        assert not task.done()
        gate.set()
        assert await task == "A"


async def test_a_refusal_is_raised_to_its_own_caller_only() -> None:
    commit = make(Flush())
    async with running(commit):
        answers = await asyncio.gather(*map(commit.submit, ("a", "refused", "b")), return_exceptions=True)
    assert [answers[0], answers[2]] == ["A", "B"]
    assert isinstance(answers[1], ValueError)


async def test_the_same_item_twice_is_sent_once_and_answers_both() -> None:
    gate, begun = Gate(), Gate()

    async def wait(_: Sequence[str]) -> None:
        begun.set()
        await gate.wait()

    flush = Flush(wait)
    commit = make(flush)
    async with running(commit):
        queued = [asyncio.create_task(commit.submit("a")) for _ in range(2)]
        await begun.wait()
        in_flight = asyncio.create_task(commit.submit("a"))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*queued, in_flight) == ["A"] * 3
        assert await commit.submit("a") == "A"
    assert flush.batches == [["a"], ["a"]]


@pytest.mark.parametrize("flushers", [1, 2])
async def test_items_of_one_key_go_one_after_another_in_order(flushers: int) -> None:
    running_keys: list[str] = []

    async def watch(items: Sequence[str]) -> None:
        keys = [key_of(item) for item in items]
        assert len(set(keys)) == len(keys)
        assert not set(keys) & set(running_keys)
        running_keys.extend(keys)
        await asyncio.sleep(0.001)
        for key in keys:
            running_keys.remove(key)

    flush = Flush(watch)
    commit = make(flush, flushers=flushers)
    async with running(commit):
        await asyncio.gather(*map(commit.submit, ("a.1", "a.2", "b.1", "a.3", "b.2")))
    sent = [item for batch in flush.batches for item in batch]
    assert [item for item in sent if item[0] == "a"] == ["a.1", "a.2", "a.3"]
    assert [item for item in sent if item[0] == "b"] == ["b.1", "b.2"]


async def test_a_poison_item_fails_alone() -> None:
    def refuse(items: Sequence[str]) -> None:
        if "poison" in items:
            raise asyncpg.DataError("no")

    commit = make(Flush(refuse))
    items = [f"item{i}" for i in range(20)]
    items.insert(13, "poison")
    async with running(commit):
        answers = await asyncio.gather(*map(commit.submit, items), return_exceptions=True)
    assert isinstance(answers.pop(13), asyncpg.DataError)
    assert answers == [f"ITEM{i}" for i in range(20)]


async def test_a_flush_with_too_few_answers_is_an_error_and_not_a_mix_up() -> None:
    class Forgetful(Flush):
        async def __call__(self, items: Sequence[str]) -> list[str | Exception]:
            return (await super().__call__(items))[1:]

    commit = make(Forgetful())
    async with running(commit):
        answers = await asyncio.gather(*map(commit.submit, "ab"), return_exceptions=True)
    assert all(isinstance(answer, RuntimeError) for answer in answers)


async def test_a_lost_connection_is_tried_again_with_the_same_items() -> None:
    failures = iter(
        [
            ConnectionResetError(),
            asyncpg.InterfaceError("closed"),
            asyncpg.InternalClientError("cannot switch to state 15"),
            asyncpg.AdminShutdownError("bye"),
        ]
    )

    def fail(_: Sequence[str]) -> None:
        for failure in failures:
            raise failure

    flush = Flush(fail)
    commit = make(flush, attempts_max=5)
    async with running(commit):
        assert await commit.submit("a") == "A"
    assert flush.batches == [["a"]] * 5


async def test_a_database_that_stays_away_is_given_up_after_the_attempts() -> None:
    def fail(_: Sequence[str]) -> None:
        raise ConnectionRefusedError

    flush = Flush(fail)
    commit = make(flush, attempts_max=3)
    async with running(commit):
        answers = await asyncio.gather(*map(commit.submit, "abc"), return_exceptions=True)
        assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
        assert len(flush.batches) == 3
        assert all(answer.retry_after_seconds > 0 for answer in answers if isinstance(answer, LedgerUnavailable))


async def test_a_flush_that_hangs_is_cut_off_and_tried_again() -> None:
    hangs = iter([True])

    async def hang(_: Sequence[str]) -> None:
        for _hang in hangs:
            await Gate().wait()

    flush = Flush(hang)
    commit = make(flush, flush_timeout_seconds=0.05)
    async with running(commit):
        assert await commit.submit("a") == "A"
    assert flush.batches == [["a"]] * 2


async def test_a_caller_that_goes_away_leaves_its_item_on_its_way() -> None:
    gate, begun = Gate(), Gate()

    async def wait(_: Sequence[str]) -> None:
        begun.set()
        await gate.wait()

    flush = Flush(wait)
    commit = make(flush)
    async with running(commit):
        in_flight = asyncio.create_task(commit.submit("a"))
        await begun.wait()
        queued, refused = asyncio.create_task(commit.submit("b")), asyncio.create_task(commit.submit("refused"))
        await asyncio.sleep(0)
        for task in (in_flight, queued, refused):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.set()
    assert flush.batches == [["a"], ["b", "refused"]]


async def test_a_full_queue_refuses_at_once() -> None:
    commit = make(Flush(), max_queue=2)
    waiting = [asyncio.create_task(commit.submit(item)) for item in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(LedgerUnavailable, match="too many"):
        await commit.submit("c")
    async with running(commit):
        assert await asyncio.gather(*waiting) == ["A", "B"]


async def test_items_that_wait_too_long_are_refused_while_the_flush_is_stuck() -> None:
    gate, begun = Gate(), Gate()

    async def wait(_: Sequence[str]) -> None:
        begun.set()
        await gate.wait()

    flush = Flush(wait)
    commit = make(flush, max_age_seconds=0.04)
    async with running(commit):
        stuck = asyncio.create_task(commit.submit("a"))
        await begun.wait()
        with pytest.raises(LedgerUnavailable, match="behind"):
            await commit.submit("b")
        gate.set()
        assert await stuck == "A"
    assert flush.batches == [["a"]]


async def test_closing_finishes_what_was_accepted_and_refuses_what_comes() -> None:
    flush = Flush()
    commit = make(flush)
    accepted = [asyncio.create_task(commit.submit(item)) for item in "abc"]
    await asyncio.sleep(0)
    async with running(commit):
        pass
    assert await asyncio.gather(*accepted) == ["A", "B", "C"]
    with pytest.raises(LedgerUnavailable, match="shutting down"):
        await commit.submit("d")
    with pytest.raises(RuntimeError, match="once"):
        await commit.run()


async def test_closing_what_never_ran_refuses_its_items() -> None:
    commit = make(Flush())
    waiting = asyncio.create_task(commit.submit("a"))
    await asyncio.sleep(0)
    await commit.aclose()
    with pytest.raises(LedgerUnavailable, match="never started"):
        await waiting


async def test_cancelling_run_answers_everyone() -> None:
    begun = Gate()

    async def hang(_: Sequence[str]) -> None:
        begun.set()
        await Gate().wait()

    commit = make(Flush(hang))
    run = asyncio.create_task(commit.run())
    in_flight = asyncio.create_task(commit.submit("a"))
    await begun.wait()
    queued = asyncio.create_task(commit.submit("b"))
    await asyncio.sleep(0)
    run.cancel()
    answers = await asyncio.gather(in_flight, queued, run, return_exceptions=True)
    assert isinstance(answers[0], LedgerUnavailable)
    assert isinstance(answers[1], LedgerUnavailable)
    assert isinstance(answers[2], asyncio.CancelledError)


async def test_batch_sizes_and_times_are_told() -> None:
    seen: list[tuple[int, bool]] = []
    commit = make(Flush(), on_flush=lambda size, seconds: seen.append((size, seconds >= 0)))
    async with running(commit):
        await asyncio.gather(*map(commit.submit, "abc"))
    assert seen == [(3, True)]


@pytest.mark.parametrize("option", ["max_batch", "max_queue", "attempts_max", "flushers"])
def test_bounds_are_at_least_one(option: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(Flush(), **{option: 0})
