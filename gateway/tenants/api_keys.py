"""Issue, rotate and revoke API keys. Every function takes a session first and never commits.

Queries are scoped by the organization; `organization_id=None` means the operator's own admin keys.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from billing.holds import NEVER_RESETS
from gateway.identifiers import new_id
from gateway.tenants.errors import KeyNotFound, SettingRejected
from gateway.tenants.key_format import KeyKind, Peppers, generate, hint
from gateway.tenants.organizations import get_organization
from gateway.tenants.settings_checks import (
    checked_expiry,
    checked_limit,
    checked_models,
    checked_name,
    checked_page,
    checked_spend_cap,
)
from gateway.tenants.tables import ApiKey, SpendCapPeriod

GRACE_SECONDS_MAXIMUM = 7 * 86_400


class Scope(StrEnum):
    """What a key may be used for."""

    SEGMENT = "segment"
    PREDICTIONS_READ = "predictions:read"
    ACCOUNT_READ = "account:read"
    ACCOUNT_WRITE = "account:write"
    CREDENTIALS = "provider_credentials"


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: `key` is the secret, seen here and never again; `record` is what is kept of it."""

    key: str = field(repr=False)
    record: ApiKey


async def issue_key(
    session: AsyncSession,
    organization_id: UUID,
    *,
    peppers: Peppers,
    name: str,
    scopes: Collection[str] = tuple(Scope),
    allowed_models: Collection[str] | None = None,
    requests_per_minute: int | None = None,
    spend_cap_micros: int | None = None,
    spend_cap_period: SpendCapPeriod = SpendCapPeriod.NEVER,
    expires_at: datetime | None = None,
) -> IssuedKey:
    """A key of this organization. Raises OrganizationUnknown or SettingRejected."""
    unknown = set(scopes) - set(Scope)
    if unknown or not scopes:
        raise SettingRejected(f"Scopes are one or more of: {', '.join(Scope)}.", "scopes")
    await get_organization(session, organization_id)
    record = _record(
        kind=KeyKind.LIVE,
        organization_id=organization_id,
        name=checked_name(name),
        scopes=sorted(set(scopes)),
        allowed_models=checked_models(allowed_models),
        requests_per_minute=checked_limit(requests_per_minute),
        spend_cap_micros=checked_spend_cap(spend_cap_micros),
        spend_cap_period=spend_cap_period,
        expires_at=checked_expiry(expires_at),
    )
    return await _store(session, record, peppers)


async def issue_admin_key(
    session: AsyncSession, *, peppers: Peppers, name: str, expires_at: datetime | None = None
) -> IssuedKey:
    """A key of the operator, which belongs to no organization and cannot spend. Raises SettingRejected."""
    record = _record(
        kind=KeyKind.ADMIN,
        organization_id=None,
        name=checked_name(name),
        scopes=[],
        allowed_models=None,
        requests_per_minute=None,
        spend_cap_micros=None,
        spend_cap_period=SpendCapPeriod.NEVER,
        expires_at=checked_expiry(expires_at),
    )
    return await _store(session, record, peppers)


async def list_keys(
    session: AsyncSession, organization_id: UUID | None, *, limit: int = 100, before: UUID | None = None
) -> list[ApiKey]:
    """Up to `limit` (1 to 1000) keys, newest first, revoked ones too; `before` the last id of the previous page."""
    query = select(ApiKey).where(ApiKey.organization_id == organization_id)
    if before is not None:
        query = query.where(ApiKey.id < before)
    return list(await session.scalars(query.order_by(ApiKey.id.desc()).limit(checked_page(limit))))


async def find_key(session: AsyncSession, key_id: UUID) -> ApiKey:
    """The key with this id, whosever it is: for the operator only. Raises KeyNotFound."""
    record = await session.get(ApiKey, key_id)
    if record is None:
        raise KeyNotFound
    return record


async def rotate_key(
    session: AsyncSession, organization_id: UUID | None, key_id: UUID, *, peppers: Peppers, grace_seconds: int = 0
) -> IssuedKey:
    """A new key with the same rights, limits, cap and spend; the old one dies after `grace_seconds` (7 days at most).

    Raises KeyNotFound, or SettingRejected for a key that is dead already or a grace out of range.
    """
    if not 0 <= grace_seconds <= GRACE_SECONDS_MAXIMUM:
        raise SettingRejected(f"The grace is 0 to {GRACE_SECONDS_MAXIMUM} seconds.", "grace_seconds")
    old = await _locked(session, organization_id, key_id)
    now = datetime.now(UTC)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise SettingRejected("This key was revoked or has expired; issue a new one instead.", "key_id")
    new = _record(
        kind=KeyKind(old.kind),
        organization_id=old.organization_id,
        name=old.name,
        scopes=old.scopes,
        allowed_models=old.allowed_models,
        requests_per_minute=old.requests_per_minute,
        spend_cap_micros=old.spend_cap_micros,
        spend_cap_period=SpendCapPeriod(old.spend_cap_period),
        expires_at=old.expires_at,
    )
    new.lineage_id, new.rotated_from_id = old.lineage_id, old.id
    if grace_seconds == 0:
        old.revoked_at = now
    else:
        end = now + timedelta(seconds=grace_seconds)
        old.expires_at = end if old.expires_at is None else min(old.expires_at, end)
    return await _store(session, new, peppers)


async def revoke_key(session: AsyncSession, organization_id: UUID | None, key_id: UUID) -> ApiKey:
    """Take a key back for good; it is refused everywhere within 10 s. Again is no error. Raises KeyNotFound."""
    record = await _locked(session, organization_id, key_id)
    if record.revoked_at is None:
        record.revoked_at = datetime.now(UTC)
        await session.flush()
    return record


def spend_period_start(period: str, now: datetime) -> datetime:
    """When the current period of a spend cap began: midnight UTC of this day, Monday or first of the month."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match SpendCapPeriod(period):
        case SpendCapPeriod.NEVER:
            return NEVER_RESETS
        case SpendCapPeriod.DAY:
            return midnight
        case SpendCapPeriod.WEEK:
            return midnight - timedelta(days=midnight.weekday())
        case SpendCapPeriod.MONTH:
            return midnight.replace(day=1)


def _record(
    *,
    kind: KeyKind,
    organization_id: UUID | None,
    name: str,
    scopes: list[str],
    allowed_models: list[str] | None,
    requests_per_minute: int | None,
    spend_cap_micros: int | None,
    spend_cap_period: SpendCapPeriod,
    expires_at: datetime | None,
) -> ApiKey:
    key_id = new_id()
    return ApiKey(
        id=key_id,
        organization_id=organization_id,
        lineage_id=key_id,
        name=name,
        kind=kind,
        scopes=scopes,
        allowed_models=allowed_models,
        requests_per_minute=requests_per_minute,
        spend_cap_micros=spend_cap_micros,
        spend_cap_period=spend_cap_period,
        expires_at=expires_at,
        created_at=datetime.now(UTC),
    )


async def _store(session: AsyncSession, record: ApiKey, peppers: Peppers) -> IssuedKey:
    key = generate(KeyKind(record.kind))
    record.digest, record.pepper_id, record.hint = peppers.digest(key), peppers.current_id, hint(key)
    session.add(record)
    await session.flush()
    return IssuedKey(key, record)


async def _locked(session: AsyncSession, organization_id: UUID | None, key_id: UUID) -> ApiKey:
    """The key, locked, so that a rotation and a revocation at once cannot leave a live successor."""
    query = select(ApiKey).where(ApiKey.id == key_id, ApiKey.organization_id == organization_id).with_for_update()
    record = await session.scalar(query.execution_options(populate_existing=True))
    if record is None:
        raise KeyNotFound
    return record
