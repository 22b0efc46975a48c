"""Every money operation, in any order and any batch, against a model simple enough to be believed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID, uuid4

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from billing import ledger, wallets
from billing.errors import InsufficientCredits
from billing.holds import Capture, Operation, Outcome, Place, Release, apply, expire
from billing.wallets import CreditKind
from tests.billing.books import an_hour_ago, in_an_hour
from tests.billing.model import Model
from tests.postgres import PostgresServer

IDS = 10


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
        self.model = Model(balance=dict.fromkeys(self.owners, 0))
        for owner in self.owners:
            self.runner.run(wallets.open_wallet(self.connection, owner))
            self._credit(owner, 10)

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
        self._credit(self.owners[owner], amount)

    @rule(owner=OWNERS, frozen=st.sampled_from([False, False, True]))
    def freeze(self, owner: int, frozen: bool) -> None:
        self.runner.run(wallets.set_frozen(self.connection, self.owners[owner], frozen=frozen))
        (self.model.frozen.add if frozen else self.model.frozen.discard)(self.owners[owner])

    @invariant()
    def wallets_are_those_of_the_model(self) -> None:
        for owner in getattr(self, "owners", []):
            found = self.runner.run(wallets.balance(self.connection, owner))
            assert found.balance_micros == self.model.balance[owner] >= found.held_micros
            assert found.held_micros == self.model.held(owner)

    def teardown(self) -> None:
        assert self.runner.run(ledger.reconcile(self.connection)) == []
        self.runner.run(self._expire())  # the next example starts without due holds

    async def _expire(self) -> list[UUID]:
        async with self.connection.transaction():
            return await expire(self.connection, limit=2000)

    def _apply(self, operations: Sequence[Operation]) -> None:
        async def in_transaction() -> list[Outcome]:
            async with self.connection.transaction():
                return await apply(self.connection, operations)

        outcomes = self.runner.run(in_transaction())
        assert [outcome.kind for outcome in outcomes] == self.model.batch(operations)

    def _credit(self, owner: UUID, amount: int) -> None:
        giving = wallets.credit(
            self.connection,
            owner,
            amount,
            kind=CreditKind.ADJUSTMENT,
            reference=str(uuid4()),
            reason="test",
            actor="tests",
        )
        try:
            self.runner.run(giving)
        except InsufficientCredits:
            assert self.model.available(owner) + amount < 0
        else:
            self.model.balance[owner] += amount

    def _operation(self, slot: int, intent: Intent) -> Operation:
        """Mostly about the hold's own wallet and at most its amount; now and then (amount 1) about a wrong one."""
        hold_id, owner_id, amount = self.ids[slot], self.owners[intent.owner], intent.amount
        known = self.model.holds.get(hold_id)
        if known is not None and amount > 1:
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
            spend_cap_micros=None if intent.key is None else intent.cap,
        )


def test_any_order_of_operations_keeps_the_books(postgres: PostgresServer) -> None:
    with asyncio.Runner() as runner:
        dsn = runner.run(postgres.migrated_database())
        connection = runner.run(asyncpg.connect(dsn))
        machine = type("Machine", (BooksMachine,), {"runner": runner, "connection": connection})
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )
        finally:
            runner.run(connection.close())
