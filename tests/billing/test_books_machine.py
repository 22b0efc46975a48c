"""Every money operation, in any order and any batch, against a model simple enough to be believed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from billing import ledger, wallets
from billing.errors import InsufficientCredits
from billing.holds import NEVER_RESETS, Capture, Operation, Place, Release, apply, expire
from billing.wallets import CreditKind
from tests.billing.books import an_hour_ago, in_an_hour
from tests.postgres import PostgresServer


@dataclass
class Hold:
    """What the model knows of one hold id."""

    owner: UUID
    amount: int
    key: UUID | None
    expires: bool
    state: str = "open"  # open, captured, released, expired, tombstone, written_off
    charged: int = 0


@dataclass
class Model:
    """Wallets, holds and key spend as plain dictionaries."""

    balance: dict[UUID, int] = field(default_factory=dict)
    frozen: set[UUID] = field(default_factory=set)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    cap: dict[UUID, int | None] = field(default_factory=dict)

    def held(self, owner: UUID) -> int:
        """Sum of the owner's open holds."""
        return sum(hold.amount for hold in self.holds.values() if hold.owner == owner and hold.state == "open")

    def available(self, owner: UUID) -> int:
        """What new holds may take."""
        return self.balance[owner] - self.held(owner)

    def key_used(self, owner: UUID, key: UUID) -> int:
        """Spent and held of the key on this wallet."""
        mine = [hold for hold in self.holds.values() if (hold.owner, hold.key) == (owner, key)]
        return sum(hold.charged + (hold.amount if hold.state == "open" else 0) for hold in mine)

    def batch(self, operations: Sequence[Operation]) -> list[str]:
        """The expected outcomes; placements are decided last."""
        expected: dict[UUID, str] = {}
        for operation in sorted(operations, key=lambda operation: isinstance(operation, Place)):
            known = self.holds.get(operation.hold_id)
            if known is not None and known.owner != operation.owner_id:
                expected[operation.hold_id] = "conflict"
            elif isinstance(operation, Place):
                expected[operation.hold_id] = self._place(operation, known)
            elif isinstance(operation, Capture):
                expected[operation.hold_id] = self._capture(operation, known)
            else:
                expected[operation.hold_id] = self._release(operation, known)
        return [expected[operation.hold_id] for operation in operations]

    def _place(self, place: Place, known: Hold | None) -> str:
        if known is not None and known.state == "open":
            return "replayed" if known.amount == place.amount_micros else "conflict"
        if known is not None:
            return "resolved_differently"
        if place.owner_id in self.frozen:
            return "frozen"
        if self.available(place.owner_id) < place.amount_micros:
            return "insufficient"
        if place.key_id is not None:
            used = self.key_used(place.owner_id, place.key_id)
            if place.spend_cap_micros is not None and used + place.amount_micros > place.spend_cap_micros:
                return "cap_reached"
            self.cap[place.key_id] = place.spend_cap_micros
        self.holds[place.hold_id] = Hold(
            place.owner_id, place.amount_micros, place.key_id, expires=place.expires_at < datetime.now(UTC)
        )
        return "placed"

    def _capture(self, capture: Capture, known: Hold | None) -> str:
        if known is None:
            return "unknown"
        if known.charged or known.state == "written_off":
            if capture.amount_micros != (known.charged or known.amount):
                return "resolved_differently"
            return "written_off" if known.state == "written_off" else "replayed"
        if known.state in {"released", "tombstone"}:
            return "resolved_differently"
        if capture.amount_micros > known.amount:
            return "conflict"
        if known.state == "expired":
            cap = self.cap.get(known.key) if known.key is not None else None
            over = (
                cap is not None
                and known.key is not None
                and self.key_used(known.owner, known.key) + capture.amount_micros > cap
            )
            if over or self.available(known.owner) < capture.amount_micros:
                known.state, known.amount = "written_off", capture.amount_micros
                return "written_off"
        late = known.state == "expired"
        known.state, known.charged = "captured", capture.amount_micros
        self.balance[known.owner] -= capture.amount_micros
        return "captured_late" if late else "captured"

    def _release(self, release: Release, known: Hold | None) -> str:
        if known is None:
            self.holds[release.hold_id] = Hold(release.owner_id, 0, None, expires=False, state="tombstone")
            return "tombstoned"
        if known.state == "open":
            known.state = "released"
            return "released"
        return "resolved_differently" if known.state in {"captured", "written_off"} else "replayed"

    def expire(self) -> set[UUID]:
        """The ids that expire now."""
        due = {hold_id for hold_id, hold in self.holds.items() if hold.state == "open" and hold.expires}
        for hold_id in due:
            self.holds[hold_id].state = "expired"
        return due


SLOTS = st.integers(min_value=0, max_value=5)
OWNERS = st.integers(min_value=0, max_value=1)
AMOUNTS = st.integers(min_value=1, max_value=6)
OPERATIONS = st.tuples(
    st.sampled_from(["place", "place", "capture", "release"]),
    OWNERS,
    AMOUNTS,
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, 4, 9]),
    st.booleans(),
)
BATCHES = st.dictionaries(SLOTS, OPERATIONS, min_size=1, max_size=4)


def machine(runner: asyncio.Runner, connection: asyncpg.Connection) -> type[RuleBasedStateMachine]:
    """A state machine over this connection; each example has owners, keys and holds of its own."""

    class BooksMachine(RuleBasedStateMachine):
        @initialize()
        def open_wallets(self) -> None:
            self.owners = [uuid4(), uuid4()]
            self.keys = [uuid4(), uuid4()]
            self.ids = [uuid4() for _ in range(6)]
            self.model = Model(balance=dict.fromkeys(self.owners, 0))
            for owner in self.owners:
                runner.run(wallets.open_wallet(connection, owner))
                self._credit(owner, 10)

        @rule(batch=BATCHES)
        def apply_batch(self, batch: dict[int, tuple[str, int, int, int | None, int | None, bool]]) -> None:
            operations = [self._operation(slot, *fields) for slot, fields in batch.items()]
            outcomes = runner.run(self._in_transaction(apply(connection, operations)))
            assert [outcome.kind for outcome in outcomes] == self.model.batch(operations)  # type: ignore[attr-defined]

        @rule(slot=SLOTS)
        def take_a_new_id(self, slot: int) -> None:
            self.ids[slot] = uuid4()

        @rule()
        def expire(self) -> None:
            expired = runner.run(self._in_transaction(expire(connection, limit=2000)))
            assert set(expired) == self.model.expire()  # type: ignore[call-overload]

        @rule(owner=OWNERS, amount=st.integers(min_value=-6, max_value=6).filter(bool))
        def adjust(self, owner: int, amount: int) -> None:
            self._credit(self.owners[owner], amount)

        @rule(owner=OWNERS, frozen=st.booleans())
        def freeze(self, owner: int, frozen: bool) -> None:
            runner.run(wallets.set_frozen(connection, self.owners[owner], frozen=frozen))
            (self.model.frozen.add if frozen else self.model.frozen.discard)(self.owners[owner])

        @invariant()
        def wallets_are_those_of_the_model(self) -> None:
            for owner in getattr(self, "owners", []):
                found = runner.run(wallets.balance(connection, owner))
                assert found.balance_micros == self.model.balance[owner] >= found.held_micros
                assert found.held_micros == self.model.held(owner)

        def teardown(self) -> None:
            assert runner.run(ledger.reconcile(connection)) == []
            runner.run(self._expire_leftovers())

        async def _expire_leftovers(self) -> None:
            async with connection.transaction():
                await expire(connection, limit=2000)

        def _credit(self, owner: UUID, amount: int) -> None:
            giving = wallets.credit(
                connection,
                owner,
                amount,
                kind=CreditKind.ADJUSTMENT,
                reference=str(uuid4()),
                reason="test",
                actor="tests",
            )
            try:
                runner.run(giving)
            except InsufficientCredits:
                assert self.model.available(owner) + amount < 0
            else:
                self.model.balance[owner] += amount

        def _operation(
            self, slot: int, action: str, owner: int, amount: int, key: int | None, cap: int | None, expires: bool
        ) -> Operation:
            hold_id, owner_id = self.ids[slot], self.owners[owner]
            known = self.model.holds.get(hold_id)
            if known is not None and amount > 1:  # mostly speak about the hold's own wallet
                owner_id = known.owner
            if action == "capture":
                return Capture(hold_id=hold_id, owner_id=owner_id, amount_micros=amount)
            if action == "release":
                return Release(hold_id=hold_id, owner_id=owner_id, reason="")
            key_id = None if key is None else self.keys[key]
            return Place(
                hold_id=hold_id,
                owner_id=owner_id,
                amount_micros=amount,
                expires_at=an_hour_ago() if expires else in_an_hour(),
                key_id=key_id,
                period_start=NEVER_RESETS,
                spend_cap_micros=cap if key_id is not None else None,
            )

        @staticmethod
        async def _in_transaction(work: object) -> object:
            async with connection.transaction():
                return await work  # type: ignore[misc]

    return BooksMachine


def test_any_order_of_operations_keeps_the_books(ledger_server: PostgresServer) -> None:
    with asyncio.Runner() as runner:
        dsn = runner.run(ledger_server.migrated_database())
        connection = runner.run(asyncpg.connect(dsn))
        try:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                machine(runner, connection),
                settings=settings(
                    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )
        finally:
            runner.run(connection.close())
