"""Promotional credit that ends, notices to owners, snapshots to audit from."""

from alembic import op
from sqlalchemy import text

from migrations.scripts import run_script

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

FUNCTIONS = (
    "take_balance_snapshots", "take_notices", "set_low_balance", "promotional_credit", "attribute_stale_credit",
    "expire_credit", "grant_credit", "attribute_credit", "lots_now",
)  # fmt: skip
TABLES = ("balance_snapshots", "notices", "credit_expiries", "credit_attributions", "credit_lots")


def upgrade() -> None:
    """Add lots, notices and snapshots to the schema `billing`."""
    run_script("0005_credits_tables")
    run_script("0005_credits_functions")


def downgrade() -> None:
    """Drop them, unless credit has been granted: without its lot it could not end."""
    connection = op.get_bind()
    if connection.execute(text("SELECT EXISTS (SELECT FROM billing.credit_lots)")).scalar_one():
        raise RuntimeError("refusing to drop promotional credit: there is money in it")
    op.execute("DROP TRIGGER low_balance ON billing.wallets")
    op.execute("DROP FUNCTION billing.notice_low_balance")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION billing.{function}")
    for table in TABLES:
        op.execute(f"DROP TABLE billing.{table}")
    op.execute("DROP INDEX billing.ix_ledger_entries_created_at")
    op.execute("ALTER TABLE billing.wallets DROP COLUMN low_balance_micros, DROP COLUMN low_balance_noticed")
    op.execute("ALTER TABLE billing.accounts DISABLE TRIGGER append_only")
    op.execute("DELETE FROM billing.accounts WHERE id = 10")
    op.execute("ALTER TABLE billing.accounts ENABLE TRIGGER append_only")
