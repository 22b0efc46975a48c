"""Customers' own provider keys, sealed; and the switches of the installation's deployments."""

from alembic import op

from migrations.scripts import run_script

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create gateway.provider_credentials and gateway.deployment_switches."""
    run_script("0006_provider_credentials")


def downgrade() -> None:
    """Drop both; customers have to attach their keys again."""
    op.execute("DROP INDEX gateway.ix_predictions_unfinished")
    op.execute("DROP TABLE gateway.deployment_switches")
    op.execute("DROP TABLE gateway.provider_credentials")
