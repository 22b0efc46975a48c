"""What Stripe's own library says that an operation takes: its TypedDicts, checked at any depth by pydantic."""

import typing
from functools import cache
from typing import Any

import stripe.params
import stripe.params.checkout
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from stripe import RequestOptions
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

PARAMETERS: dict[tuple[str, str], str] = {
    ("POST", "customers"): "CustomerCreateParams",
    ("GET", "customers/*"): "CustomerRetrieveParams",
    ("POST", "checkout/sessions"): "checkout.SessionCreateParams",
    ("GET", "checkout/sessions/*"): "checkout.SessionRetrieveParams",
    ("POST", "checkout/sessions/*/expire"): "checkout.SessionExpireParams",
    ("POST", "payment_intents"): "PaymentIntentCreateParams",
    ("GET", "payment_intents"): "PaymentIntentListParams",
    ("GET", "payment_intents/*"): "PaymentIntentRetrieveParams",
    ("POST", "refunds"): "RefundCreateParams",
    ("GET", "refunds"): "RefundListParams",
    ("GET", "disputes"): "DisputeListParams",
    ("GET", "balance"): "BalanceRetrieveParams",
    ("GET", "balance_transactions"): "BalanceTransactionListParams",
}


def fault_in(method: str, pattern: str, parameters: dict[str, Any]) -> str | None:
    """All that is wrong with an operation's parameters, as `line_items.0.price: Extra inputs are not permitted`."""
    try:
        _checker(PARAMETERS[method, pattern]).validate_python(parameters)
    except ValidationError as error:
        return "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors())
    return None


@cache
def _checker(name: str) -> TypeAdapter[Any]:
    module, _, attribute = name.rpartition(".")
    root = getattr(getattr(stripe.params, module) if module else stripe.params, attribute)
    _forbid_others(root)
    # The library's types also hold options of the call (api_key, idempotency_key …), which are no parameters.
    return TypeAdapter(with_config(STRICT)(TypedDict(attribute, _members(root))))  # type: ignore[operator]


def _members(kind: Any) -> dict[str, Any]:
    """The parameters of a TypedDict, their annotations evaluated where they were written."""
    annotations = {n: a for n, a in kind.__annotations__.items() if n not in RequestOptions.__annotations__}
    written_there = type("Members", (), {"__annotations__": annotations, "__module__": kind.__module__})
    return typing.get_type_hints(written_there, include_extras=True)


def _forbid_others(kind: Any, seen: set[Any] | None = None) -> None:
    """Let pydantic refuse unknown members of this TypedDict and of every one in it."""
    seen = set() if seen is None else seen
    if typing.get_args(kind):
        for argument in typing.get_args(kind):
            _forbid_others(argument, seen)
    elif isinstance(kind, type) and hasattr(kind, "__total__") and kind not in seen:
        seen.add(kind)
        kind.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
        for member in _members(kind).values():
            _forbid_others(member, seen)
