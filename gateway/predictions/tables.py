"""One row for every call that was admitted."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, SmallInteger, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from gateway.database import Base


class PredictionStatus(StrEnum):
    """Where a call stands; it ends in exactly one of the last four."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"


class Payer(StrEnum):
    """Who pays the provider: the wallet pays us, or the customer pays the provider with an own key."""

    WALLET = "wallet"
    CUSTOMER = "customer"


class Prediction(Base):
    """A call and its outcome. Its id is also the id of the hold on the wallet."""

    __tablename__ = "predictions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(ForeignKey("gateway.organizations.id"))
    key_id: Mapped[UUID]
    request_id: Mapped[str] = mapped_column(Text)
    dialect: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    payer: Mapped[str] = mapped_column(Text)
    units: Mapped[int] = mapped_column(SmallInteger)
    price_micros: Mapped[int] = mapped_column(BigInteger)
    charged_micros: Mapped[int] = mapped_column(BigInteger, server_default="0")
    deployment: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    timings_ms: Mapped[dict[str, float] | None] = mapped_column(JSONB)
    output: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)

    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'processing', 'completed', 'failed', 'canceled', 'aborted')", name="status_known"
        ),
        CheckConstraint("payer IN ('wallet', 'customer')", name="payer_known"),
        CheckConstraint("(finished_at IS NULL) = (status IN ('queued', 'processing'))", name="finished_when_ended"),
        CheckConstraint("charged_micros = 0 OR status = 'completed'", name="only_completed_is_charged"),
        Index("ix_predictions_organization_id_id", "organization_id", "id"),
        Index("ix_predictions_request_id", "request_id"),
    )
