"""Payments by card: what was asked, paid, refunded and disputed, and the functions that post it."""

from alembic import op
from sqlalchemy import text

from migrations.scripts import run_script

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

FUNCTIONS = (
    "record_balance_transaction", "finish_stripe_event", "receive_stripe_event", "reject_refund_request",
    "request_refund", "record_dispute", "record_refund", "settle_payment_of", "record_charge",
    "note_payment_failure", "end_payment", "mark_payment_paid", "lock_payment_intent", "record_stripe_customer",
    "attach_checkout", "start_payment", "forget_card", "pause_auto_top_up", "fail_auto_top_up", "claim_auto_top_up",
    "set_auto_top_up", "settle_payment", "refresh_frozen", "credit_share", "take_back", "settle_debt",
    "receivable_of", "post_to_wallet", "set_wallet_frozen",
)  # fmt: skip
TABLES = (
    "auto_top_ups", "stripe_balance_transactions", "stripe_events", "disputes", "refunds", "refund_requests",
    "payment_postings", "payments", "stripe_customers",
)  # fmt: skip


def upgrade() -> None:
    """Add payments to the schema `billing`."""
    run_script("0004_payments_tables")
    run_script("0004_payments_postings")
    run_script("0004_payments_functions")
    run_script("0004_payments_auto_top_up")
    run_script("0004_payments_privileges")


def downgrade() -> None:
    """Drop the payments, unless there has ever been one."""
    connection = op.get_bind()
    used = connection.execute(
        text("SELECT EXISTS (SELECT FROM billing.payments) OR EXISTS (SELECT FROM billing.stripe_balance_transactions)")
    ).scalar_one()
    if used:
        raise RuntimeError("refusing to drop payments: there is money in them")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION billing.{function}")
    for table in TABLES:
        op.execute(f"DROP TABLE billing.{table}")
    op.execute("ALTER TABLE billing.wallets DROP COLUMN owed_micros, DROP COLUMN frozen_by_operator")
    op.execute("ALTER TABLE billing.accounts DISABLE TRIGGER append_only")
    op.execute("DELETE FROM billing.accounts WHERE id BETWEEN 20 AND 26")
    op.execute("ALTER TABLE billing.accounts ENABLE TRIGGER append_only")
    run_script("0004_payments_undone")
