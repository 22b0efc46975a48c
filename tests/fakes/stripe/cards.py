"""The test cards that Stripe publishes, and what they do. Source: https://docs.stripe.com/testing#cards"""

from dataclasses import dataclass

DECLINED_MESSAGE = "Your card was declined."


@dataclass(frozen=True, slots=True)
class Card:
    """How a card behaves. `authentication`: never, once (not after it was saved), always."""

    number: str
    description: str
    brand: str = "visa"
    decline_code: str | None = None
    decline_later: bool = False
    authentication: str = "never"
    disputed: bool = False
    slow_refund: bool = False

    @property
    def last4(self) -> str:
        """What is shown of it."""
        return self.number[-4:]


CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242", "pays"),
        Card("5555555555554444", "pays (Mastercard)", brand="mastercard"),
        Card("4000000000000002", "is declined", decline_code="generic_decline"),
        Card("4000000000009995", "has insufficient funds", decline_code="insufficient_funds"),
        Card("4000000000000341", "pays now, is declined when it is charged later", decline_later=True),
        Card("4000002500003155", "asks the bank once", authentication="once"),
        Card("4000002760003184", "asks the bank each time", authentication="always"),
        Card("4000000000000259", "pays and is disputed", disputed=True),
        Card("4000000000007726", "pays; refunds take a while", slow_refund=True),
    )
}
