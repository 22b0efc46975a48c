"""The paid path: admit → perform → settle. Every dialect ends here, and only here do money and pictures meet."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from billing.errors import BillingError
from billing.holds import Capture, OutcomeKind, Place, Release
from billing.pricing import price_call
from gateway.call import Call, Completed, StoredMask
from gateway.errors import describe
from gateway.media.store import MediaStore
from gateway.predictions.journal import Admission, Journal, Settlement
from gateway.predictions.tables import Payer, PredictionStatus
from gateway.refusals import Overloaded, ShuttingDown
from gateway.tenants.api_keys import Scope, spend_period_start
from inference.errors import ProviderTimedOut
from inference.router import Routed, Router
from inference.task import PictureFormat

log = structlog.get_logger(__name__)


class Calls:
    """Carries calls from admission to settlement in tasks that outlive the client's connection.

    The tasks belong to this object: whoever opens it calls `drain` before closing what it uses.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        router: Router,
        media: MediaStore,
        hold_ttl_seconds: float,
        maximum_in_flight: int,
    ) -> None:
        self._journal = journal
        self._router = router
        self._media = media
        self._hold_ttl = timedelta(seconds=hold_ttl_seconds)
        self._maximum_in_flight = maximum_in_flight
        self._in_flight: set[asyncio.Task[Completed]] = set()
        self._performing: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._giving_up = False

    async def segment(self, call: Call) -> Completed:
        """Admit, perform and settle one call.

        Once admitted it ends in capture or release even if the awaiting request is cancelled. Raises refusals of
        billing (nothing recorded), of inference and of this room; a call that raises costs nothing.
        """
        if self._draining:
            raise ShuttingDown("This gateway is restarting. Send the call again in a moment.")
        if len(self._in_flight) >= self._maximum_in_flight:
            raise Overloaded("This gateway has no room for another call right now.")
        call.caller.require_scope(Scope.SEGMENT)
        call.caller.require_model(call.model.id)
        carrying = asyncio.create_task(self._carry(call))
        self._in_flight.add(carrying)
        carrying.add_done_callback(self._end)
        return await asyncio.shield(carrying)

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new calls, let running ones end; after the timeout give up the work and free its money."""
        self._draining = True
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=timeout_seconds)
        self._giving_up = True
        for task in self._performing:
            task.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=timeout_seconds)

    @property
    def draining(self) -> bool:
        """Whether new calls are refused because the process is about to stop."""
        return self._draining

    @property
    def in_flight(self) -> int:
        """Calls admitted or being admitted and not yet settled."""
        return len(self._in_flight)

    def _end(self, carrying: asyncio.Task[Completed]) -> None:
        self._in_flight.discard(carrying)
        if not carrying.cancelled():
            carrying.exception()  # seen: the caller was told, or has gone

    async def _carry(self, call: Call) -> Completed:
        price_micros = price_call(call.model.unit_price_micros, len(call.tasks))
        await self._admit(call, price_micros)
        performing = asyncio.create_task(self._perform(call))
        self._performing.add(performing)
        performing.add_done_callback(self._performing.discard)
        if self._giving_up:  # the admission took longer than the process has left
            performing.cancel()
        try:
            completed = await performing
        except asyncio.CancelledError:
            await self._release(call, ShuttingDown("The gateway stopped before the call was done."))
            raise ShuttingDown("The gateway stopped before the call was done. Send it again.") from None
        except Exception as failure:
            await self._release(call, failure)
            raise
        return await self._capture(call, completed, price_micros)

    async def _admit(self, call: Call, price_micros: int) -> None:
        now = datetime.now(UTC)
        caller = call.caller
        await self._journal.admit(
            Admission(
                prediction_id=call.prediction_id,
                organization_id=caller.organization_id,
                key_id=caller.key_id,
                request_id=call.request_id,
                dialect=call.dialect,
                model=call.model.id,
                units=len(call.tasks),
                price_micros=price_micros,
                payer=Payer.WALLET,
                place=Place(
                    hold_id=call.prediction_id,
                    owner_id=caller.organization_id,
                    amount_micros=price_micros,
                    expires_at=now + self._hold_ttl,
                    key_id=caller.lineage_id,
                    period_start=spend_period_start(caller.spend_cap_period, now),
                    spend_cap_micros=caller.spend_cap_micros,
                ),
            )
        )

    async def _perform(self, call: Call) -> Completed:
        deadline = asyncio.get_running_loop().time() + call.timeout_seconds
        try:
            async with asyncio.timeout(call.timeout_seconds + 1):
                routed = await _all_or_first_failure(
                    [self._router.segment(task, deadline=deadline) for task in call.tasks]
                )
        except TimeoutError:
            raise ProviderTimedOut("The provider did not answer in time.") from None
        masks = [
            StoredMask(index, mask.score, mask.box, mask.object_id, mask.rle, mask.picture, None)
            for index, answer in enumerate(routed)
            for mask in answer.result.masks
        ]
        if call.store_pictures:
            masks = [await self._store(call, mask) for mask in masks]
        return Completed(
            prediction_id=call.prediction_id,
            masks=tuple(masks),
            sizes=tuple((answer.result.width, answer.result.height) for answer in routed),
            deployment=routed[0].deployment,
            charged_micros=0,
            available_micros=None,
            timings_ms=_slowest_timings(routed),
        )

    async def _store(self, call: Call, mask: StoredMask) -> StoredMask:
        if mask.picture is None:
            return mask
        picture_format: PictureFormat = call.tasks[mask.task_index].rendering.format
        key = await self._media.put(call.caller.organization_id, mask.picture, picture_format.media_type)
        return replace(mask, picture=None, media_key=key)

    async def _capture(self, call: Call, completed: Completed, price_micros: int) -> Completed:
        outcome = await self._journal.settle(
            Settlement(
                prediction_id=call.prediction_id,
                status=PredictionStatus.COMPLETED,
                money=Capture(
                    hold_id=call.prediction_id, owner_id=call.caller.organization_id, amount_micros=price_micros
                ),
                deployment=completed.deployment,
                timings_ms=completed.timings_ms,
                output=completed.record(),
            )
        )
        written_off = outcome is not None and outcome.kind is OutcomeKind.WRITTEN_OFF
        if written_off:
            log.error("call_written_off", prediction_id=str(call.prediction_id), price_micros=price_micros)
        return replace(
            completed,
            charged_micros=0 if written_off else price_micros,
            available_micros=outcome.available_micros if outcome else None,
        )

    async def _release(self, call: Call, failure: Exception) -> None:
        problem = describe(failure)
        try:
            await self._journal.settle(
                Settlement(
                    prediction_id=call.prediction_id,
                    status=PredictionStatus.FAILED,
                    money=Release(
                        hold_id=call.prediction_id, owner_id=call.caller.organization_id, reason=problem.code
                    ),
                    error={"type": problem.type, "code": problem.code, "message": problem.message},
                )
            )
        except BillingError as error:
            # The customer hears of the failure itself; the money comes back when the hold expires.
            log.warning("release_failed", prediction_id=str(call.prediction_id), error=str(error))


async def _all_or_first_failure(coroutines: Sequence[Coroutine[Any, Any, Routed]]) -> list[Routed]:
    """Run all side by side; the first failure cancels the rest and is raised bare."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]


def _slowest_timings(routed: Sequence[Routed]) -> dict[str, float]:
    timings: dict[str, float] = {}
    for answer in routed:
        for stage, milliseconds in answer.result.timings_ms.items():
            timings[stage] = max(timings.get(stage, 0.0), milliseconds)
    return timings
