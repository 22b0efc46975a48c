"""Who pays for a call, and how much: decided when it is admitted, and once more where a customer's key gives way."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from billing.holds import Capture, Place, Release
from billing.pricing import price_call
from gateway.call import Call, units_of
from gateway.predictions.tables import Payer
from gateway.tenants.api_keys import spend_period_start
from inference.task import Task


@dataclass(slots=True)
class Bill:
    """What the wallet has to pay; nothing, as long as the customer pays the provider."""

    payer: Payer
    price_micros: int

    @classmethod
    def of(cls, call: Call) -> "Bill":
        """The whole price of the call, from the wallet."""
        return cls(Payer.WALLET, price_call(call.model.unit_price_micros, call.units))

    @classmethod
    def of_nothing(cls) -> "Bill":
        """No price, no hold: the customer pays the provider."""
        return cls(Payer.CUSTOMER, 0)

    def add(self, call: Call, tasks: Sequence[Task]) -> None:
        """Have the wallet pay for these tasks of a call that the customer's keys did not start."""
        self.payer = Payer.WALLET
        self.price_micros += price_call(call.model.unit_price_micros, sum(units_of(task) for task in tasks))

    def place(self, call: Call, hold_ttl: timedelta) -> Place | None:
        """The hold on the wallet; None where it pays nothing."""
        if self.payer is Payer.CUSTOMER:
            return None
        now, caller = datetime.now(UTC), call.caller
        return Place(
            hold_id=call.prediction_id,
            owner_id=caller.organization_id,
            amount_micros=self.price_micros,
            expires_at=now + hold_ttl,
            key_id=caller.lineage_id,
            period_start=spend_period_start(caller.spend_cap_period, now),
            spend_cap_micros=caller.spend_cap_micros,
        )

    def capture(self, call: Call) -> Capture | None:
        """Taking what was held; None where nothing was."""
        if self.payer is Payer.CUSTOMER:
            return None
        return Capture(
            hold_id=call.prediction_id, owner_id=call.caller.organization_id, amount_micros=self.price_micros
        )

    def release(self, call: Call, *, reason: str) -> Release | None:
        """Freeing what was held, or may have been; None where nothing can have been."""
        if self.payer is Payer.CUSTOMER:
            return None
        return Release(hold_id=call.prediction_id, owner_id=call.caller.organization_id, reason=reason)
