"""The books as a reader would keep them on paper: the oracle of the state machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from billing.holds import Capture, Operation, Place, Release
from tests.billing.payment_model import PaymentOnPaper


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
class Lot:
    """Promotional credit with an end, or None for never."""

    remaining: int
    expires_at: datetime | None


@dataclass
class Model:
    """Wallets, debts, holds, key spend, promotional credit and payments as plain dictionaries."""

    balance: dict[UUID, int] = field(default_factory=dict)
    owed: dict[UUID, int] = field(default_factory=dict)
    lots: dict[UUID, list[Lot]] = field(default_factory=dict)
    payments: dict[UUID, PaymentOnPaper] = field(default_factory=dict)
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
        if self.is_frozen(place.owner_id):
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
        return self._capture_known(capture, known)

    def _capture_known(self, capture: Capture, known: Hold) -> str:
        if known.charged or known.state == "written_off":
            if capture.amount_micros != (known.charged or known.amount):
                return "resolved_differently"
            return "written_off" if known.state == "written_off" else "replayed"
        if known.state in {"released", "tombstone"}:
            return "resolved_differently"
        if capture.amount_micros > known.amount:
            return "conflict"
        late = known.state == "expired"
        if late and not self._affords(known, capture.amount_micros):
            known.state, known.amount = "written_off", capture.amount_micros
            return "written_off"
        known.state, known.charged = "captured", capture.amount_micros
        self.charge(known.owner, capture.amount_micros)
        return "captured_late" if late else "captured"

    def _affords(self, late: Hold, amount: int) -> bool:
        """Whether wallet and cap still allow a charge for an expired hold."""
        if late.key is not None:
            cap = self.cap[late.key]
            if cap is not None and self.key_used(late.owner, late.key) + amount > cap:
                return False
        return self.available(late.owner) >= amount

    def _release(self, release: Release, known: Hold | None) -> str:
        if known is None:
            self.holds[release.hold_id] = Hold(release.owner_id, 0, None, expires=False, state="tombstone")
            return "tombstoned"
        if known.state == "open":
            known.state = "released"
            return "released"
        return "resolved_differently" if known.state in {"captured", "written_off"} else "replayed"

    def is_frozen(self, owner: UUID) -> bool:
        """Stopped by the operator or by an open dispute."""
        disputed = any(payment.freezes for payment in self.payments.values() if payment.owner == owner)
        return owner in self.frozen or disputed

    def change(self, owner: UUID, amount: int) -> None:
        """Money that comes or goes; promotional credit is never more than there is money."""
        self.balance[owner] += amount
        self._use_promotional(owner, max(0, self.promotional(owner) - self.balance[owner]))

    def charge(self, owner: UUID, amount: int) -> None:
        """Money that is spent: promotional first."""
        self._use_promotional(owner, min(amount, self.promotional(owner)))
        self.change(owner, -amount)

    def promotional(self, owner: UUID) -> int:
        """What of the balance is promotional."""
        return sum(lot.remaining for lot in self.lots[owner])

    def _use_promotional(self, owner: UUID, amount: int) -> None:
        never = datetime.max.replace(tzinfo=UTC)
        for lot in sorted(self.lots[owner], key=lambda lot: lot.expires_at or never):
            used = min(lot.remaining, amount)
            lot.remaining -= used
            amount -= used

    def grant(self, owner: UUID, amount: int, expires_at: datetime | None) -> None:
        """Promotional credit."""
        self.change(owner, amount)
        self.lots[owner].append(Lot(amount, expires_at))

    def expire_credit(self, owner: UUID) -> int:
        """How much credit ends now: what is due and free."""
        ended = 0
        for lot in self.lots[owner]:
            if lot.expires_at is not None and lot.expires_at <= datetime.now(UTC):
                part = min(lot.remaining, self.available(owner))
                lot.remaining -= part
                self.change(owner, -part)
                ended += part
        return ended

    def settle(self, payment: PaymentOnPaper) -> None:
        """Move what the facts of a payment ask for beyond what was moved before."""
        if not payment.paid:
            return
        if not payment.credited:
            payment.credited = payment.credit
            self._give(payment.owner, payment.credit)
        refund, dispute = payment.targets()
        for difference in (refund - payment.refund_taken, dispute - payment.dispute_taken):
            self._take(payment.owner, difference) if difference > 0 else self._give(payment.owner, -difference)
        payment.refund_taken, payment.dispute_taken = refund, dispute

    def _take(self, owner: UUID, amount: int) -> None:
        free = min(amount, self.available(owner))
        self.change(owner, -free)
        self.owed[owner] += amount - free

    def _give(self, owner: UUID, amount: int) -> None:
        self.change(owner, amount)
        paid_back = min(self.owed[owner], self.available(owner)) if amount else 0
        self.owed[owner] -= paid_back
        self.change(owner, -paid_back)

    def expire(self) -> set[UUID]:
        """The ids that expire now."""
        due = {hold_id for hold_id, hold in self.holds.items() if hold.state == "open" and hold.expires}
        for hold_id in due:
            self.holds[hold_id].state = "expired"
        return due
