"""A Stripe for tests and for the demo: a real HTTP program with state, a page to pay at, and signed webhooks.

It is checked against what we did not write: every request against the parameter types of Stripe's own library
(`oracle`), its objects against that library's object types, and the part that needs no hosted page beside the
`localstripe` package. The money is not money.
"""

from tests.fakes.stripe.account import Account
from tests.fakes.stripe.delivery import Webhooks
from tests.fakes.stripe.program import FakeStripe, Fault

__all__ = ["Account", "FakeStripe", "Fault", "Webhooks"]
