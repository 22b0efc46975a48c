"""Payments on paper: what is known of one, and what it asks of the wallet. Nothing here knows of an order of events."""

from dataclasses import dataclass, field
from uuid import UUID

CENT = 10_000
STAGES = ("pending", "requires_action", "succeeded", "failed", "canceled")


@dataclass
class DisputeOnPaper:
    """Money that a bank took and gave back, and whether that is over."""

    withdrawn: int = 0
    reinstated: int = 0
    closed: bool = False


@dataclass
class PaymentOnPaper:
    """The facts, and how much of the credit has been taken back because of them."""

    owner: UUID
    credit: int
    fee: int
    paid: bool = False
    refunds: dict[str, tuple[int, str]] = field(default_factory=dict)
    disputes: dict[str, DisputeOnPaper] = field(default_factory=dict)
    credited: int = 0
    refund_taken: int = 0
    dispute_taken: int = 0

    @property
    def total(self) -> int:
        """What was paid."""
        return self.credit + self.fee

    @property
    def freezes(self) -> bool:
        """Whether a dispute stops the wallet."""
        return self.paid and any(not dispute.closed for dispute in self.disputes.values())

    def share(self, part: int) -> int:
        """The credit's share of a part of what was paid, in whole cents, half up."""
        cents_doubled = 2 * self.credit * part // (self.total * CENT)
        return (cents_doubled + 1) // 2 * CENT

    def targets(self) -> tuple[int, int]:
        """Credit that refunds and disputes ask for."""
        refunded = sum(amount for amount, status in self.refunds.values() if status not in {"failed", "canceled"})
        refunded = min(refunded, self.total)
        disputed = sum(max(0, dispute.withdrawn - dispute.reinstated) for dispute in self.disputes.values())
        disputed = min(disputed, self.total - refunded)
        return self.share(refunded), self.share(refunded + disputed) - self.share(refunded)

    def hear_refund(self, refund: str, amount: int, status: str) -> None:
        """News of a refund; its stage never goes back."""
        _, known = self.refunds.get(refund, (0, status))
        self.refunds[refund] = (amount, max(known, status, key=STAGES.index))

    def hear_dispute(self, dispute: str, *, withdrawn: int, reinstated: int, closed: bool) -> None:
        """News of a dispute; amounts never shrink, and what is closed stays closed."""
        known = self.disputes.setdefault(dispute, DisputeOnPaper())
        known.withdrawn = max(known.withdrawn, withdrawn)
        known.reinstated = max(known.reinstated, reinstated)
        known.closed = known.closed or closed
