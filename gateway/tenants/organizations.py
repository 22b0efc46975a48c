"""Organizations. Every function takes a session first and never commits."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.identifiers import new_id
from gateway.tenants.errors import OrganizationUnknown
from gateway.tenants.settings_checks import checked_limit, checked_name, checked_page
from gateway.tenants.tables import Organization, OrganizationStatus


async def create_organization(
    session: AsyncSession, name: str, *, requests_per_minute: int | None = None
) -> Organization:
    """A new, active organization; whoever calls opens its wallet in the same transaction. Raises SettingRejected."""
    organization = Organization(
        id=new_id(),
        name=checked_name(name),
        status=OrganizationStatus.ACTIVE,
        requests_per_minute=checked_limit(requests_per_minute),
        created_at=datetime.now(UTC),
    )
    session.add(organization)
    await session.flush()
    return organization


async def get_organization(session: AsyncSession, organization_id: UUID) -> Organization:
    """The organization with this id. Raises OrganizationUnknown."""
    organization = await session.get(Organization, organization_id)
    if organization is None:
        raise OrganizationUnknown
    return organization


async def list_organizations(
    session: AsyncSession, *, limit: int = 100, before: UUID | None = None
) -> list[Organization]:
    """Up to `limit` (1 to 1000) organizations, newest first; `before` the last id of the previous page."""
    query = select(Organization).order_by(Organization.id.desc()).limit(checked_page(limit))
    if before is not None:
        query = query.where(Organization.id < before)
    return list(await session.scalars(query))


async def set_organization_status(
    session: AsyncSession, organization_id: UUID, status: OrganizationStatus
) -> Organization:
    """Suspend an organization or let it in again; its keys feel it within 10 s. Raises OrganizationUnknown."""
    organization = await get_organization(session, organization_id)
    organization.status = status
    await session.flush()
    return organization
