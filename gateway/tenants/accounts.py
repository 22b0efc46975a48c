"""Open an account: an organization and its wallet, both or neither."""

from sqlalchemy.ext.asyncio import AsyncSession

from billing import wallets
from gateway.database import driver_connection
from gateway.tenants.organizations import create_organization
from gateway.tenants.tables import Organization


async def open_account(session: AsyncSession, name: str, *, requests_per_minute: int | None = None) -> Organization:
    """A new organization with an empty wallet; never commits. Raises SettingRejected."""
    organization = await create_organization(session, name, requests_per_minute=requests_per_minute)
    await wallets.open_wallet(await driver_connection(session), organization.id)
    return organization
