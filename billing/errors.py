"""Every refusal that the billing room can raise.

BillingError
├── AmountInvalid             not an exact, allowed amount of money
├── InsufficientCredits       the wallet's free money does not cover the amount
├── SpendCapReached           the key's cap for its present period does not cover the amount
├── WalletFrozen              a dispute or an operator stopped new spending
├── WalletUnknown             this owner has no wallet
├── HoldConflict              the same hold id was used with another wallet or amount
├── HoldUnknown               a capture of a hold that was never placed
├── HoldResolvedDifferently   captured what was released, or released or placed again what was captured
├── ReferenceConflict         the same reference was used with another amount or kind
├── PaymentUnknown            this owner has no such payment
├── PaymentUnpaid             only what was paid can be refunded
├── RefundTooLarge            more than is left of the payment
├── SavedCardMissing          auto top-up needs a card that was saved at a top-up
├── WebhookRejected           not signed by Stripe, or not now
├── CardRefused               the bank said no
│   └── AuthenticationNeeded  the bank wants the cardholder, who is not there
├── PaymentsUnavailable       Stripe does not answer: the same request may be sent again
├── PaymentsRejected          Stripe understood us and refused: our configuration or our bug
└── LedgerUnavailable         nothing is known to have happened: send the same id again later

Messages name amounts in micros only; what a customer reads is written by the caller.
"""

from uuid import UUID


class BillingError(Exception):
    """Parent of every refusal of this room."""


class AmountInvalid(BillingError, ValueError):
    """A text or number that is not an exact, allowed amount of money."""


class InsufficientCredits(BillingError):
    """The wallet has less free money than is needed; nothing was changed."""

    def __init__(self, *, available_micros: int, needed_micros: int) -> None:
        super().__init__(f"{needed_micros} micros needed, {available_micros} available")
        self.available_micros = available_micros
        self.needed_micros = needed_micros


class SpendCapReached(BillingError):
    """The key's spend cap would be passed; nothing was changed. `spent_micros` includes what is held."""

    def __init__(self, *, cap_micros: int, spent_micros: int, needed_micros: int) -> None:
        super().__init__(f"{needed_micros} micros needed, {spent_micros} of the cap of {cap_micros} used")
        self.cap_micros = cap_micros
        self.spent_micros = spent_micros
        self.needed_micros = needed_micros


class WalletFrozen(BillingError):
    """New spending is stopped for this wallet; open holds may still be captured or released."""

    def __init__(self, owner_id: UUID) -> None:
        super().__init__(f"the wallet of {owner_id} is frozen")
        self.owner_id = owner_id


class WalletUnknown(BillingError):
    """The owner has no wallet."""

    def __init__(self, owner_id: UUID) -> None:
        super().__init__(f"no wallet for {owner_id}")
        self.owner_id = owner_id


class HoldError(BillingError):
    """A request about a hold that its history does not allow; nothing was changed."""

    def __init__(self, hold_id: UUID, explanation: str) -> None:
        super().__init__(f"hold {hold_id}: {explanation}")
        self.hold_id = hold_id


class HoldConflict(HoldError):
    """The hold exists with another wallet or amount, or a capture asks for more than was held."""


class HoldUnknown(HoldError):
    """No hold with this id was ever placed."""


class HoldResolvedDifferently(HoldError):
    """The hold was already captured, released or captured with another amount."""


class ReferenceConflict(BillingError):
    """The reference was already used on this wallet for another amount or kind."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"reference {reference!r} was already used differently")
        self.reference = reference


class LedgerUnavailable(BillingError):
    """The ledger cannot answer now (queue full, waited too long, database away, shutting down).

    The operation may or may not have been applied: sending the same id again is safe and finds out.
    """

    def __init__(self, explanation: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(explanation)
        self.retry_after_seconds = retry_after_seconds


class PaymentUnknown(BillingError):
    """The owner has no such payment."""


class PaymentUnpaid(BillingError):
    """The payment was never paid, so there is nothing to give back."""


class RefundTooLarge(BillingError):
    """More than is left of the payment; nothing was changed."""

    def __init__(self, *, refundable_micros: int) -> None:
        super().__init__(f"{refundable_micros} micros of this payment can be refunded")
        self.refundable_micros = refundable_micros


class SavedCardMissing(BillingError):
    """The owner has no saved card."""


class WebhookRejected(BillingError):
    """The message does not carry a valid signature of the present time."""


class CardRefused(BillingError):
    """The bank refused the card. `code` is Stripe's, the more exact decline code where there is one."""

    def __init__(self, message: str, *, code: str, payment_intent_id: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.payment_intent_id = payment_intent_id


class AuthenticationNeeded(CardRefused):
    """The bank wants the cardholder to confirm, and the cardholder is not there."""


class PaymentsUnavailable(BillingError):
    """Stripe could not be reached, failed or is busy. The request may have had its effect; its key finds out."""

    retry_after_seconds = 5.0


class PaymentsRejected(BillingError):
    """Stripe refused the request for good; the message is Stripe's and meant for the operator."""
