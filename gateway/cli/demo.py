"""The demo organization: made once, found again at each start, with everything needed to try the product."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from billing import wallets
from billing.money import MICROS_PER_USD, format_usd_short
from gateway.database import Database, driver_connection
from gateway.embedded.data_folder import write_private
from gateway.identifiers import ORGANIZATION, parse_id, public_id
from gateway.settings import CHECKOUT
from gateway.tenants.accounts import open_account
from gateway.tenants.api_keys import issue_admin_key, issue_key
from gateway.tenants.key_format import Peppers
from gateway.tenants.tables import ApiKey, Organization

CREDIT_MICROS = 5 * MICROS_PER_USD
PICTURE = CHECKOUT / "inference" / "pool" / "tiny" / "pictures" / "shapes.png"


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """What demo.json holds; `base_url` is without the dialect's path (/v1)."""

    base_url: str
    api_key: str
    admin_key: str
    organization_id: str


async def prepare(database: Database, peppers: Peppers, path: Path, base_url: str) -> DemoAccount:
    """The demo account, as `path` remembers it where it still works, else made and remembered there (mode 0600)."""
    remembered = _remembered(path)
    async with database.writing() as session:
        organization = await _organization(session, remembered)
        api_key, admin_key = remembered.get("api_key", ""), remembered.get("admin_key", "")
        if not await _works(session, peppers, api_key, organization):
            api_key = (await issue_key(session, organization.id, peppers=peppers, name="demo")).key
        if not await _works(session, peppers, admin_key, None):
            admin_key = (await issue_admin_key(session, peppers=peppers, name="demo")).key
    account = DemoAccount(base_url, api_key, admin_key, public_id(ORGANIZATION, organization.id))
    if asdict(account) != remembered:
        write_private(path, json.dumps(asdict(account), indent=2) + "\n")
    return account


def instructions(account: DemoAccount, path: Path, *, test_money: bool) -> str:
    """What a newcomer pastes next."""
    openai_url = f"{account.base_url}/v1"
    topping_up = f"""
To buy $10 of credit with test money, open the checkout_url of:

curl -s {openai_url}/topups -H 'Authorization: Bearer {account.api_key}' \\
  -H 'Content-Type: application/json' -d '{{"amount_usd": "10"}}'
"""
    return f"""
  base URL  {openai_url}
  API key   {account.api_key}
  credit    {format_usd_short(CREDIT_MICROS)} to begin with, $0.005 for each picture
  all this  {path}

With curl: the red circle of a picture, cut out.

curl -s {openai_url}/images/edits -H 'Authorization: Bearer {account.api_key}' \\
  -F model=meta/sam-3-image -F prompt='red circle' -F apply_mask=true -F image=@'{PICTURE}'

With Python (pip install openai):

from openai import OpenAI
client = OpenAI(base_url="{openai_url}", api_key="{account.api_key}")
picture = open("{PICTURE}", "rb")
answer = client.images.edit(model="meta/sam-3-image", image=picture, prompt="red circle")
print(answer.data[0].url)
print(answer.usage)
{topping_up if test_money else ""}
Ctrl-C stops everything.
"""


def _remembered(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


async def _organization(session: AsyncSession, remembered: dict[str, str]) -> Organization:
    """The remembered organization if this database has it, else a new one with its credit."""
    organization_id = parse_id(ORGANIZATION, remembered.get("organization_id", ""))
    found = await session.get(Organization, organization_id) if organization_id is not None else None
    if found is not None:
        return found
    organization = await open_account(session, "Demo")
    await wallets.credit(
        await driver_connection(session),
        organization.id,
        CREDIT_MICROS,
        kind=wallets.CreditKind.PROMOTIONAL,
        reference="demo",
        reason="credit of the demo organization",
        actor="gateway serve --demo",
    )
    return organization


async def _works(session: AsyncSession, peppers: Peppers, key: str, organization: Organization | None) -> bool:
    """Whether this key is known, this organization's (None: the operator's) and neither revoked nor expired."""
    record = await session.scalar(select(ApiKey).where(ApiKey.digest.in_(peppers.digests(key))))
    return (
        record is not None
        and record.organization_id == (organization.id if organization is not None else None)
        and record.revoked_at is None
        and (record.expires_at is None or record.expires_at > datetime.now(UTC))
    )
