"""Every money operation, in any order and any batch, against a model simple enough to be believed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ClassVar, TypeVar
from uuid import UUID, uuid4

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing import ledger, payments, promotions, wallets
from billing.errors import InsufficientCredits
from billing.holds import Capture, Operation, Outcome, Place, Release, apply, expire
from billing.wallets import CreditKind
from tests.billing.books import an_hour_ago, in_an_hour
from tests.billing.model import Model
from tests.billing.payment_model import CENT, STAGES, PaymentOnPaper
from tests.postgres import PostgresServer

IDS = 10
PAYMENTS = 2
UNIT = CENT
"""Amounts are multiples of a cent, so that calls and payments come in each other's way."""


START = datetime(2030, 1, 1, tzinfo=UTC)
T = TypeVar("T")

# Every entry is on two accounts: once added, once taken off.
_ALL_ACCOUNTS = """
SELECT coalesce(sum(side.amount), 0)::bigint FROM billing.ledger_entries entry
CROSS JOIN LATERAL (
    VALUES (entry.debit_account_id, -entry.amount_micros), (entry.credit_account_id, entry.amount_micros)
) side (account_id, amount)
JOIN billing.accounts account ON account.id = side.account_id
"""


@dataclass(frozen=True)
class Intent:
    """An operation before its ids are known: indices into the machine's owners and keys."""

    action: str
    owner: int
    amount: int
    key: int | None
    cap: int | None
    expires: bool


SLOTS = st.integers(min_value=0, max_value=IDS - 1)
OWNERS = st.integers(min_value=0, max_value=1)
AMOUNTS = st.integers(min_value=1, max_value=6)
INTENTS = st.builds(
    Intent,
    action=st.sampled_from(["place", "place", "capture", "release"]),
    owner=OWNERS,
    amount=AMOUNTS,
    key=st.sampled_from([None, 0, 1]),
    cap=st.sampled_from([None, 4, 9]),
    expires=st.booleans(),
)


class BooksMachine(RuleBasedStateMachine):
    """Each example has owners, keys and holds of its own in one database, which a subclass names."""

    runner: ClassVar[asyncio.Runner]
    connection: ClassVar[asyncpg.Connection]

    @initialize()
    def open_wallets(self) -> None:
        self.owners = [uuid4(), uuid4()]
        self.keys = [uuid4(), uuid4()]
        self.ids = [uuid4() for _ in range(IDS)]
        self.payments: list[UUID] = []
        self.model = Model(
            balance=dict.fromkeys(self.owners, 0),
            owed=dict.fromkeys(self.owners, 0),
            lots={owner: [] for owner in self.owners},
        )
        for owner in self.owners:
            self.runner.run(wallets.open_wallet(self.connection, owner))
            self._credit(owner, 10 * UNIT)

    @rule(batch=st.dictionaries(SLOTS, INTENTS, min_size=1, max_size=4))
    def apply_batch(self, batch: dict[int, Intent]) -> None:
        self._apply([self._operation(slot, intent) for slot, intent in batch.items()])

    @rule(slot=SLOTS)
    def take_a_new_id(self, slot: int) -> None:
        self.ids[slot] = uuid4()

    @rule()
    def expire(self) -> None:
        assert set(self.runner.run(self._expire())) == self.model.expire()

    @rule(slot=SLOTS, owner=OWNERS, amount=AMOUNTS, key=st.sampled_from([None, 0]), cap=st.sampled_from([None, 6]))
    def work_longer_than_the_hold(self, slot: int, owner: int, amount: int, key: int | None, cap: int | None) -> None:
        self.ids[slot] = uuid4()
        self._apply([self._operation(slot, Intent("place", owner, amount, key, cap, expires=True))])
        self.expire()
        if amount % 2:
            self._credit(self.owners[owner], -self.model.available(self.owners[owner]) or 1)
        else:
            other = (slot + 1) % IDS
            self._apply([self._operation(other, Intent("place", owner, amount - 1, key, cap, expires=False))])
        self._apply([self._operation(slot, Intent("capture", owner, amount, None, None, expires=False))])

    @rule(owner=OWNERS, amount=st.integers(min_value=-6, max_value=6).filter(bool))
    def adjust(self, owner: int, amount: int) -> None:
        self._credit(self.owners[owner], amount * UNIT)

    @rule(owner=OWNERS, amount=AMOUNTS, ending=st.sampled_from(["never", "later", "past"]))
    def grant(self, owner: int, amount: int, ending: str) -> None:
        expires_at = {"never": None, "later": in_an_hour(), "past": an_hour_ago()}[ending]
        self._credit(self.owners[owner], amount * UNIT, kind=CreditKind.PROMOTIONAL, expires_at=expires_at)

    @rule()
    def end_credit(self) -> None:
        ended = self.runner.run(self._in_transaction(promotions.expire_credit))
        for owner in self.owners:
            expected = self.model.expire_credit(owner)
            assert sum(each.amount_micros for each in ended if each.owner_id == owner) == expected

    @rule(age=st.sampled_from([timedelta(0), timedelta(hours=1)]))
    def write_down_what_is_left_of_credit(self, age: timedelta) -> None:
        self.runner.run(self.connection.fetchval("SELECT billing.attribute_stale_credit($1, 100)", age))

    @rule(owner=OWNERS, credit=st.integers(min_value=1, max_value=6), fee=st.integers(min_value=0, max_value=1))
    def start_payment(self, owner: int, credit: int, fee: int) -> None:
        if len(self.payments) < PAYMENTS:
            payment_id, paying = uuid4(), PaymentOnPaper(self.owners[owner], credit * UNIT, fee * UNIT)
            self.payments.append(payment_id)
            self.model.payments[payment_id] = paying
            # prices this small are not sold, so this goes below the function that takes a price
            self.runner.run(
                self.connection.execute(
                    "SELECT billing.start_payment($1, $2, 'checkout', $3, $4, false, NULL, now())",
                    payment_id,
                    paying.owner,
                    paying.credit,
                    paying.fee,
                )
            )

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), wrong=st.sampled_from([0, 0, 0, UNIT]))
    def hear_it_was_paid(self, data: st.DataObject, wrong: int) -> None:
        self._hear_paid(data.draw(st.sampled_from(self.payments)), wrong)

    def _hear_paid(self, payment_id: UUID, wrong: int) -> None:
        paying = self.model.payments[payment_id]

        async def pay() -> str:
            async with self.connection.transaction():
                return await payments.mark_paid(
                    self.connection,
                    payment_id,
                    payment_intent_id=f"pi_{payment_id.hex}",
                    amount_micros=paying.total + wrong,
                    currency="usd",
                )

        expected = "mismatch" if wrong else "replayed" if paying.paid else "paid"
        assert self.runner.run(pay()) == expected
        paying.paid = paying.paid or not wrong
        self.model.settle(paying)

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), number=st.integers(0, 2), status=st.sampled_from(STAGES))
    def hear_of_a_refund(self, data: st.DataObject, number: int, status: str) -> None:
        self._hear_refund(data.draw(st.sampled_from(self.payments)), number, status)

    def _hear_refund(self, payment_id: UUID, number: int, status: str) -> None:
        paying = self.model.payments[payment_id]
        refund, amount = f"re_{number}_{payment_id.hex}", (1 + 2 * number) * UNIT

        async def hear() -> str:
            async with self.connection.transaction():
                return await payments.record_refund(
                    self.connection,
                    refund,
                    payment_intent_id=f"pi_{payment_id.hex}",
                    amount_micros=amount,
                    status=status,
                    request_id=None,
                )

        assert self.runner.run(hear()) == ("settled" if paying.paid else "pending")
        paying.hear_refund(refund, amount, status)
        self.model.settle(paying)

    @precondition(lambda self: self.payments)
    @rule(
        data=st.data(),
        number=st.integers(0, 1),
        moved=st.sampled_from(["nothing", "withdrawn", "reinstated"]),
        closed=st.booleans(),
        at=st.integers(0, 3),
    )
    def hear_of_a_dispute(self, data: st.DataObject, number: int, moved: str, closed: bool, at: int) -> None:
        self._hear_dispute(data.draw(st.sampled_from(self.payments)), number, moved, closed, at)

    def _hear_dispute(self, payment_id: UUID, number: int, moved: str, closed: bool, at: int) -> None:
        paying = self.model.payments[payment_id]
        amount = paying.total if number else UNIT
        facts = payments.DisputeFacts(
            id=f"du_{number}_{payment_id.hex}",
            payment_intent_id=f"pi_{payment_id.hex}",
            charge_id=None,
            amount_micros=amount,
            withdrawn_micros=0 if moved == "nothing" else amount,
            reinstated_micros=amount if moved == "reinstated" else 0,
            reason="fraudulent",
            status="lost" if closed else "needs_response",
            closed=closed,
            status_at=START + timedelta(seconds=at),
        )

        async def hear() -> str:
            async with self.connection.transaction():
                return await payments.record_dispute(self.connection, facts)

        assert self.runner.run(hear()) == ("settled" if paying.paid else "pending")
        paying.hear_dispute(
            facts.id, withdrawn=facts.withdrawn_micros, reinstated=facts.reinstated_micros, closed=closed
        )
        self.model.settle(paying)

    @rule(owner=OWNERS, frozen=st.sampled_from([False, False, True]))
    def freeze(self, owner: int, frozen: bool) -> None:
        self.runner.run(wallets.set_frozen(self.connection, self.owners[owner], frozen=frozen))
        (self.model.frozen.add if frozen else self.model.frozen.discard)(self.owners[owner])

    @precondition(lambda self: self.payments)
    @rule(payment=st.integers(0, PAYMENTS - 1), whole=st.booleans(), won=st.booleans(), failed=st.booleans())
    def payments_come_to_their_ends(self, payment: int, whole: bool, won: bool, failed: bool) -> None:
        payment_id = self.payments[payment % len(self.payments)]
        self._hear_paid(payment_id, wrong=0)
        self._hear_refund(payment_id, 0, "succeeded")
        self._hear_dispute(payment_id, int(whole), "withdrawn", closed=False, at=0)
        if failed:
            self._hear_refund(payment_id, 0, "failed")
        self._hear_dispute(payment_id, int(whole), "reinstated" if won else "withdrawn", closed=True, at=1)

    @invariant()
    def wallets_are_those_of_the_model(self) -> None:
        for owner in getattr(self, "owners", []):
            found = self.runner.run(wallets.balance(self.connection, owner))
            assert found.balance_micros == self.model.balance[owner] >= found.held_micros
            assert found.held_micros == self.model.held(owner)
            assert found.owed_micros == self.model.owed[owner]
            assert found.frozen == self.model.is_frozen(owner)
            left = self.runner.run(promotions.open_lots(self.connection, owner))
            assert sum(lot.remaining_micros for lot in left) == self.model.promotional(owner)

    @invariant()
    def debits_are_credits(self) -> None:
        if getattr(self, "owners", []):
            assert self.runner.run(self.connection.fetchval(_ALL_ACCOUNTS)) == 0

    def teardown(self) -> None:
        assert self.runner.run(ledger.reconcile(self.connection)) == []
        self.runner.run(self._expire())  # the next example starts without due holds and credit
        for _ in range(3):
            self.runner.run(self._in_transaction(promotions.expire_credit))

    async def _expire(self) -> list[UUID]:
        return await self._in_transaction(partial(expire, limit=2000))

    async def _in_transaction(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with self.connection.transaction():
            return await work(self.connection)

    def _apply(self, operations: Sequence[Operation]) -> None:
        async def in_transaction() -> list[Outcome]:
            async with self.connection.transaction():
                return await apply(self.connection, operations)

        outcomes = self.runner.run(in_transaction())
        assert [outcome.kind for outcome in outcomes] == self.model.batch(operations)

    def _credit(
        self,
        owner: UUID,
        amount: int,
        *,
        kind: CreditKind = CreditKind.ADJUSTMENT,
        expires_at: datetime | None = None,
    ) -> None:
        giving = wallets.credit(
            self.connection,
            owner,
            amount,
            kind=kind,
            reference=str(uuid4()),
            reason="test",
            actor="tests",
            expires_at=expires_at,
        )
        try:
            self.runner.run(self._in_transaction(lambda _: giving))
        except InsufficientCredits:
            assert self.model.available(owner) + amount < 0
        else:
            if kind is CreditKind.PROMOTIONAL:
                self.model.grant(owner, amount, expires_at)
            else:
                self.model.change(owner, amount)

    def _operation(self, slot: int, intent: Intent) -> Operation:
        """Mostly about the hold's own wallet and at most its amount; now and then (amount 1) about a wrong one."""
        hold_id, owner_id, amount = self.ids[slot], self.owners[intent.owner], intent.amount * UNIT
        known = self.model.holds.get(hold_id)
        if known is not None and intent.amount > 1:
            owner_id = known.owner
            amount = min(amount, known.amount) if intent.action == "capture" and known.amount else amount
        if intent.action == "capture":
            return Capture(hold_id=hold_id, owner_id=owner_id, amount_micros=amount)
        if intent.action == "release":
            return Release(hold_id=hold_id, owner_id=owner_id, reason="")
        return Place(
            hold_id=hold_id,
            owner_id=owner_id,
            amount_micros=amount,
            expires_at=an_hour_ago() if intent.expires else in_an_hour(),
            key_id=None if intent.key is None else self.keys[intent.key],
            spend_cap_micros=None if intent.key is None or intent.cap is None else intent.cap * UNIT,
        )


def test_any_order_of_operations_keeps_the_books(postgres: PostgresServer) -> None:
    with asyncio.Runner() as runner:
        dsn = runner.run(postgres.migrated_database())
        connection = runner.run(asyncpg.connect(dsn))
        machine = type("Machine", (BooksMachine,), {"runner": runner, "connection": connection})
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)),
            )
        finally:
            runner.run(connection.close())
