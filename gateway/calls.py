"""The paid path: admit → perform → settle. Every dialect ends here, and only here do money and pictures meet."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

import structlog

from billing.errors import BillingError
from billing.holds import OutcomeKind
from gateway.auth import Caller
from gateway.bill import Bill
from gateway.call import Call, Completed, StoredMask, all_or_first_failure, remembered
from gateway.customer_keys import OwnKeys
from gateway.media.store import MediaStore
from gateway.predictions.journal import Admission, Journal, Settlement
from gateway.predictions.tables import PredictionStatus
from gateway.refusals import Overloaded, ShuttingDown
from gateway.tenants.api_keys import Scope
from inference.errors import InferenceError, ProviderTimedOut
from inference.router import Routed, Router, certainly_not_started
from inference.task import Task

log = structlog.get_logger(__name__)

RELEASE_TIMEOUT_SECONDS = 10.0


class KeyChoice(Protocol):
    """Knows which of a customer's own provider keys a call goes out on."""

    async def for_call(self, caller: Caller, model: str) -> OwnKeys | None:
        """Them, or None where the wallet pays. Raises CredentialRefused where neither may."""
        ...


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
        keys: KeyChoice,
        hold_ttl_seconds: float,
        maximum_in_flight: int,
    ) -> None:
        self._journal = journal
        self._router = router
        self._media = media
        self._keys = keys
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
            await asyncio.wait(self._in_flight, timeout=RELEASE_TIMEOUT_SECONDS)

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

    async def can_do(self, caller: Caller, task: Task) -> bool:
        """Whether any deployment that this caller may use declares that it does such tasks."""
        own = await self._keys.for_call(caller, task.model)
        return self._router.can_do(task, own.deployments if own is not None else ())

    async def _carry(self, call: Call) -> Completed:
        own = await self._keys.for_call(call.caller, call.model.id)
        bill = Bill.of(call) if own is None else Bill.of_nothing()
        await self._admit(call, bill)
        performing = asyncio.create_task(self._perform(call, own, bill))
        self._performing.add(performing)
        performing.add_done_callback(self._performing.discard)
        if self._giving_up:  # the admission took longer than the process has left
            performing.cancel()
        try:
            completed = await performing
        except asyncio.CancelledError:
            await self._release(call, bill, ShuttingDown("The gateway stopped before the call was done."))
            raise ShuttingDown("The gateway stopped before the call was done. Send it again.") from None
        except Exception as failure:
            await self._release(call, bill, failure)
            raise
        return await self._capture(call, bill, completed)

    async def _admit(self, call: Call, bill: Bill) -> None:
        await self._journal.admit(
            Admission(
                prediction_id=call.prediction_id,
                organization_id=call.caller.organization_id,
                key_id=call.caller.key_id,
                request_id=call.request_id,
                dialect=call.dialect,
                model=call.model.id,
                units=call.units,
                price_micros=bill.price_micros,
                payer=bill.payer,
                place=bill.place(call, self._hold_ttl),
            )
        )

    async def _perform(self, call: Call, own: OwnKeys | None, bill: Bill) -> Completed:
        deadline = asyncio.get_running_loop().time() + call.timeout_seconds
        try:
            async with asyncio.timeout(call.timeout_seconds + 1):
                if own is None:
                    routed = await self._on_our_deployments(call.tasks, deadline)
                else:
                    routed = await self._on_own_keys(call, own, bill, deadline)
        except TimeoutError:
            raise ProviderTimedOut("The provider did not answer in time.") from None
        completed = Completed.of(call.prediction_id, routed)
        if call.store_pictures:
            completed = replace(completed, masks=tuple([await self._store(call, mask) for mask in completed.masks]))
        return replace(completed, payer=bill.payer)

    async def _on_our_deployments(self, tasks: Sequence[Task], deadline: float) -> list[Routed]:
        return await all_or_first_failure([self._router.perform(task, deadline=deadline) for task in tasks])

    async def _on_own_keys(self, call: Call, own: OwnKeys, bill: Bill, deadline: float) -> list[Routed]:
        """All tasks on the customer's keys; what certainly did not start there goes to the wallet, if that is wished.

        Raises billing's refusals where the wallet cannot pay for it.
        """
        on_keys = [self._router.perform(task, deadline=deadline, own=own.deployments) for task in call.tasks]
        if not own.may_fall_back:
            return await all_or_first_failure(on_keys)
        routed = await asyncio.gather(*on_keys, return_exceptions=True)
        failed = [index for index, answer in enumerate(routed) if isinstance(answer, BaseException)]
        for index in failed:
            failure = routed[index]
            if not isinstance(failure, InferenceError) or not certainly_not_started(failure):
                raise failure  # type: ignore[misc]
        if failed:
            left = [call.tasks[index] for index in failed]
            bill.add(call, left)
            await self._admit(call, bill)
            for index, answer in zip(failed, await self._on_our_deployments(left, deadline), strict=True):
                routed[index] = answer
        return [answer for answer in routed if isinstance(answer, Routed)]

    async def _store(self, call: Call, mask: StoredMask) -> StoredMask:
        if mask.picture is None:
            return mask
        media_type = call.format_of(mask.task_index).media_type
        key = await self._media.put(call.caller.organization_id, mask.picture, media_type)
        return replace(mask, picture=None, media_key=key)

    async def _capture(self, call: Call, bill: Bill, completed: Completed) -> Completed:
        outcome = await self._journal.settle(
            Settlement(
                prediction_id=call.prediction_id,
                status=PredictionStatus.COMPLETED,
                money=bill.capture(call),
                deployment=completed.deployment,
                timings_ms=completed.timings_ms,
                output=completed.record(),
            )
        )
        written_off = outcome is not None and outcome.kind is OutcomeKind.WRITTEN_OFF
        if written_off:
            log.error("call_written_off", prediction_id=str(call.prediction_id), price_micros=bill.price_micros)
        return replace(
            completed,
            charged_micros=0 if written_off else bill.price_micros,
            available_micros=outcome.available_micros if outcome else None,
        )

    async def _release(self, call: Call, bill: Bill, failure: Exception) -> None:
        error = remembered(failure)
        try:
            await self._journal.settle(
                Settlement(
                    prediction_id=call.prediction_id,
                    status=PredictionStatus.FAILED,
                    money=bill.release(call, reason=error["code"]),
                    error=error,
                )
            )
        except BillingError as refusal:
            # The customer hears of the failure itself; the money comes back when the hold expires.
            log.warning("release_failed", prediction_id=str(call.prediction_id), error=str(refusal))
