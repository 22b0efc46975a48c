"""Organizations and their API keys."""

from alembic import op

from migrations.scripts import run_script

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create the schema `gateway` with organizations and keys."""
    run_script("0002_tenants")


def downgrade() -> None:
    """Drop the schema; refused by migration 0001 where there is money behind the organizations."""
    op.execute("DROP SCHEMA gateway CASCADE")
