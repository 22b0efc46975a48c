"""The books: accounts, wallets, entries, holds, key spend and grants, with the only functions that write them."""

from alembic import op
from sqlalchemy import text

from migrations.scripts import run_script

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create the schema `billing`."""
    run_script("0001_billing_tables")
    run_script("0001_billing_wallets")
    run_script("0001_billing_holds")
    run_script("0001_billing_privileges")


def downgrade() -> None:
    """Drop the schema, unless it has ever held money. The role gateway_app stays: other databases may use it."""
    connection = op.get_bind()
    used = connection.execute(
        text("SELECT EXISTS (SELECT FROM billing.ledger_entries) OR EXISTS (SELECT FROM billing.holds)")
    ).scalar_one()
    if used:
        raise RuntimeError("refusing to drop the schema billing: there is money in it")
    connection.execute(text("DROP SCHEMA billing CASCADE"))
