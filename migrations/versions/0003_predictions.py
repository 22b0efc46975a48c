"""Predictions: one row for every call that was admitted; and what the application's role may do in this schema."""

from alembic import op

from migrations.scripts import run_script

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create gateway.predictions."""
    run_script("0003_predictions")


def downgrade() -> None:
    """Drop the predictions; refused by migration 0001 where there is money behind them."""
    op.execute("DROP TABLE gateway.predictions")
