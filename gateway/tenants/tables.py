"""Organizations and their API keys."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from gateway.database import Base


class OrganizationStatus(StrEnum):
    """Whether an organization's keys are accepted."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class SpendCapPeriod(StrEnum):
    """When the amount counted against a spend cap starts again from zero (UTC; weeks begin on Monday)."""

    NEVER = "never"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Organization(Base):
    """A customer: owns keys, a wallet and predictions."""

    __tablename__ = "organizations"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'suspended')", name="status_known"),
        CheckConstraint("requests_per_minute > 0", name="requests_per_minute_positive"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    requests_per_minute: Mapped[int | None]
    """Over all its keys; None: the installation's default."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ApiKey(Base):
    """A key, of which only a keyed hash is stored. Admin keys belong to no organization."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("kind IN ('live', 'admin')", name="kind_known"),
        CheckConstraint("(kind = 'admin') = (organization_id IS NULL)", name="admin_has_no_organization"),
        CheckConstraint("octet_length(digest) = 32", name="digest_length"),
        CheckConstraint("requests_per_minute > 0", name="requests_per_minute_positive"),
        CheckConstraint("spend_cap_micros >= 0", name="spend_cap_not_negative"),
        CheckConstraint("spend_cap_period IN ('never', 'day', 'week', 'month')", name="spend_cap_period_known"),
        Index(None, "organization_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID | None] = mapped_column(ForeignKey(Organization.id))
    lineage_id: Mapped[UUID]
    """Id of the first key of a chain of rotations; limits and spend caps count per lineage, so a rotation neither
    doubles a limit nor refills a cap."""
    rotated_from_id: Mapped[UUID | None] = mapped_column(ForeignKey("gateway.api_keys.id"))
    name: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    pepper_id: Mapped[str] = mapped_column(Text)
    hint: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    allowed_models: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """None: every model."""
    requests_per_minute: Mapped[int | None]
    """None: the installation's default."""
    spend_cap_micros: Mapped[int | None] = mapped_column(BigInteger)
    """None: as much as the wallet holds."""
    spend_cap_period: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ProviderCredential(Base):
    """A customer's own key of a provider, sealed. `models` and `api_keys` (lineages) pin it; None: to all."""

    __tablename__ = "provider_credentials"
    __table_args__ = (
        UniqueConstraint("organization_id", "provider", "base_url", "fingerprint", postgresql_nulls_not_distinct=True),
        CheckConstraint("provider IN ('openai', 'fal', 'wavespeed')", name="provider_known"),
        CheckConstraint("(provider = 'openai') = (base_url IS NOT NULL)", name="base_url_of_openai"),
        CheckConstraint("disabled_reason IS NULL OR NOT enabled", name="reason_of_disabled"),
        CheckConstraint("refusals >= 0", name="refusals_not_negative"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID] = mapped_column(ForeignKey(Organization.id))
    provider: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    base_url: Mapped[str | None] = mapped_column(Text)
    key_id: Mapped[str] = mapped_column(Text)
    wrapped_key: Mapped[bytes] = mapped_column(LargeBinary)
    ciphertext: Mapped[bytes] = mapped_column(LargeBinary)
    last4: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    models: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    api_keys: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))
    position: Mapped[int] = mapped_column(server_default="100")
    may_fall_back: Mapped[bool] = mapped_column(server_default="false")
    enabled: Mapped[bool] = mapped_column(server_default="true")
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    """Why we switched it off; None where the customer did. Calls are then refused rather than charged."""
    refusals: Mapped[int] = mapped_column(server_default="0")
    """In a row."""
    last_error: Mapped[str | None] = mapped_column(Text)
    last_error_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
