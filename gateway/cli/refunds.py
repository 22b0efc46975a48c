"""gateway refund PAYMENT_ID"""

from dataclasses import asdict
from typing import Annotated

import typer

from billing.errors import PaymentUnknown, PaymentUnpaid, RefundTooLarge
from billing.money import format_usd_short, parse_usd
from billing.refunds import RefundMade
from gateway.cli import operator
from gateway.cli.errors import CliError
from gateway.cli.output import AsJson, print_facts, print_json
from gateway.cli.stripe_account import opened_payments
from gateway.database import Database
from gateway.identifiers import PAYMENT, public_id
from gateway.settings import Settings


def command(
    payment_id: Annotated[str, typer.Argument(metavar="PAYMENT_ID", help="pay_…, of the top-up.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the books.")],
    usd: Annotated[str | None, typer.Option(help="Dollars of what was paid, fee included; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Refund a top-up, whole or in part: the customer's bank gets the money, the wallet loses its share of credit."""
    payment = operator.require_id(PAYMENT, payment_id, "PAYMENT_ID")

    async def work(database: Database, settings: Settings) -> RefundMade:
        amount_micros = None if usd is None else parse_usd(usd)
        async with opened_payments(settings, database.pool) as payments:
            try:
                return await payments.refunds.refund(payment, amount_micros, reason=reason, actor="operator")
            except PaymentUnknown as error:
                raise CliError(f"There is no payment {payment_id}.") from error
            except PaymentUnpaid as error:
                raise CliError("This top-up was never paid.") from error
            except RefundTooLarge as error:
                left = format_usd_short(error.refundable_micros)
                raise CliError(f"Of this payment {left} can be refunded.") from error

    made = operator.run(work)
    if as_json:
        print_json({**asdict(made), "payment": {"id": public_id(PAYMENT, made.payment.id)}})
        return
    print_facts(
        {
            "refund": made.stripe_id,
            "status": made.status,
            "amount": format_usd_short(made.amount_micros),
            "refunded so far": format_usd_short(made.payment.refunded_micros),
        }
    )
