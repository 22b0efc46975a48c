"""Customers' own provider keys. Functions that take a session never commit; every query names the organization.

A key is sealed before it comes near the database and opened only to be sent to its provider. What is shown of it are
its last four characters and a fingerprint.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from billing.connection import Connection
from gateway.identifiers import new_id
from gateway.secrets_at_rest import Owner, Sealed, Vault
from gateway.tenants.errors import CredentialNotFound, CredentialRejected, SettingRejected
from gateway.tenants.organizations import get_organization
from gateway.tenants.settings_checks import checked_models, checked_name
from gateway.tenants.tables import ApiKey, ProviderCredential
from inference.provider import fingerprint_of

PROVIDERS = ("openai", "fal", "wavespeed")
SECRET_CHARACTERS = range(8, 513)
CREDENTIALS_MAXIMUM = 20  # of one organization
POSITION_DEFAULT = 100
POSITION_MAXIMUM = 1_000
PINNED_KEYS_MAXIMUM = 100
URL_CHARACTERS_MAXIMUM = 300
REFUSALS_MAXIMUM = 3
REWRAP_BATCH = 100
ERROR_CHARACTERS_MAXIMUM = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """What a customer attaches. `base_url` belongs to "openai" alone; None for pins means: all."""

    provider: str
    secret: str
    name: str = ""
    base_url: str | None = None
    models: Collection[str] | None = None
    api_keys: Collection[UUID] | None = None
    position: int = POSITION_DEFAULT
    may_fall_back: bool = False

    def __repr__(self) -> str:
        return f"NewCredential({self.provider})"


@dataclass(frozen=True, slots=True)
class UsableCredential:
    """What the paid path needs of a credential that is on, or that we switched off. Columns as in the table."""

    id: UUID
    organization_id: UUID
    provider: str
    base_url: str | None
    sealed: Sealed
    last4: str
    models: frozenset[str] | None
    api_keys: frozenset[UUID] | None
    may_fall_back: bool
    disabled_reason: str | None
    is_troubled: bool

    @property
    def owner(self) -> Owner:
        """Whom the envelope opens for."""
        return Owner(self.organization_id, self.provider, self.id)

    def applies_to(self, model: str, lineage_id: UUID) -> bool:
        """Whether calls of this model with this API key go out on it."""
        return (self.models is None or model in self.models) and (self.api_keys is None or lineage_id in self.api_keys)


def checked_credential(new: NewCredential, *, http_allowed: bool = False) -> NewCredential:
    """`new` with its texts tidied. Raises SettingRejected naming the field; asks nobody."""
    if new.provider not in PROVIDERS:
        raise SettingRejected(f"A provider is one of: {', '.join(PROVIDERS)}.", "provider")
    secret = new.secret.strip()
    if len(secret) not in SECRET_CHARACTERS or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SettingRejected("A provider key has 8 to 512 visible ASCII characters.", "key")
    if (new.provider == "openai") != (new.base_url is not None):
        raise SettingRejected(
            "'openai' needs the base_url of the compatible API, ending like OpenAI's own in /v1; other providers "
            "take none.",
            "base_url",
        )
    return NewCredential(
        provider=new.provider,
        secret=secret,
        name=checked_name(new.name or new.provider),
        base_url=None if new.base_url is None else _checked_url(new.base_url, http_allowed=http_allowed),
        models=checked_models(new.models),
        api_keys=None if new.api_keys is None else set(new.api_keys),
        position=_checked_position(new.position),
        may_fall_back=new.may_fall_back,
    )


async def attach(session: AsyncSession, organization_id: UUID, vault: Vault, new: NewCredential) -> ProviderCredential:
    """Store a credential that was checked. Raises OrganizationUnknown, SettingRejected or CredentialRejected."""
    await get_organization(session, organization_id)
    # One at a time for each organization, so that the maximum and "attached already" hold.
    await session.execute(
        text("SELECT FROM gateway.organizations WHERE id = :id FOR NO KEY UPDATE"), {"id": organization_id}
    )
    fingerprint = fingerprint_of(new.secret)
    found = await list_credentials(session, organization_id)
    if len(found) >= CREDENTIALS_MAXIMUM:
        raise CredentialRejected(f"An organization has at most {CREDENTIALS_MAXIMUM} provider keys. Remove one first.")
    if any((c.provider, c.base_url, c.fingerprint) == (new.provider, new.base_url, fingerprint) for c in found):
        raise CredentialRejected("This provider key is attached already.", "key")
    record_id = new_id()
    sealed = vault.seal(new.secret, Owner(organization_id, new.provider, record_id))
    record = ProviderCredential(
        id=record_id,
        organization_id=organization_id,
        provider=new.provider,
        name=new.name,
        base_url=new.base_url,
        key_id=sealed.key_id,
        wrapped_key=sealed.wrapped_key,
        ciphertext=sealed.ciphertext,
        last4=new.secret[-4:],
        fingerprint=fingerprint,
        models=None if new.models is None else list(new.models),
        api_keys=await _lineages(session, organization_id, new.api_keys),
        position=new.position,
        may_fall_back=new.may_fall_back,
        enabled=True,
        refusals=0,
        created_at=datetime.now(UTC),
    )
    session.add(record)
    await session.flush()
    return record


async def list_credentials(session: AsyncSession, organization_id: UUID) -> list[ProviderCredential]:
    """All of an organization's, in the order in which they are used."""
    query = select(ProviderCredential).where(ProviderCredential.organization_id == organization_id)
    return list(await session.scalars(query.order_by(ProviderCredential.position, ProviderCredential.id)))


async def get_credential(session: AsyncSession, organization_id: UUID, credential_id: UUID) -> ProviderCredential:
    """One of them. Raises CredentialNotFound."""
    query = select(ProviderCredential).where(
        ProviderCredential.id == credential_id, ProviderCredential.organization_id == organization_id
    )
    record = await session.scalar(query.with_for_update())
    if record is None:
        raise CredentialNotFound
    return record


async def find_owner(session: AsyncSession, credential_id: UUID) -> UUID:
    """Whose credential this is: for the operator only. Raises CredentialNotFound."""
    record = await session.get(ProviderCredential, credential_id)
    if record is None:
        raise CredentialNotFound
    return record.organization_id


async def change(
    session: AsyncSession, organization_id: UUID, credential_id: UUID, changes: Mapping[str, object]
) -> ProviderCredential:
    """Change `name`, `models`, `api_keys`, `position`, `may_fall_back` or `enabled`; what is not given stays.

    Switching it on forgets earlier refusals. Raises CredentialNotFound or SettingRejected.
    """
    record = await get_credential(session, organization_id, credential_id)
    for field, value in changes.items():
        match field, value:
            case "name", str():
                record.name = checked_name(value)
            case "models", list() | None:
                record.models = checked_models(value)
            case "api_keys", list() | None:
                record.api_keys = await _lineages(session, organization_id, value)
            case "position", int():
                record.position = _checked_position(value)
            case "may_fall_back", bool():
                record.may_fall_back = value
            case "enabled", bool():
                record.enabled, record.disabled_reason = value, None
                record.refusals, record.last_error, record.last_error_at = 0, None, None
            case _:
                raise SettingRejected(f"'{field}' cannot be set to this.", field)
    await session.flush()
    return record


async def detach(session: AsyncSession, organization_id: UUID, credential_id: UUID) -> None:
    """Delete a credential and its sealed key for good. Raises CredentialNotFound."""
    await session.delete(await get_credential(session, organization_id, credential_id))
    await session.flush()


async def rewrap_some(session: AsyncSession, vault: Vault) -> int:
    """Move up to 100 credentials to the current key-encryption key; how many there were. Raises SecretUnreadable."""
    query = select(ProviderCredential).where(ProviderCredential.key_id != vault.current_id)
    records = list(await session.scalars(query.order_by(ProviderCredential.id).limit(REWRAP_BATCH).with_for_update()))
    for record in records:
        sealed = vault.rewrap(
            Sealed(record.key_id, record.wrapped_key, record.ciphertext),
            Owner(record.organization_id, record.provider, record.id),
        )
        record.key_id, record.wrapped_key = sealed.key_id, sealed.wrapped_key
    await session.flush()
    return len(records)


_FIND = """
SELECT id, organization_id, provider, base_url, key_id, wrapped_key, ciphertext, last4, models, api_keys,
       may_fall_back, disabled_reason, refusals > 0 OR last_error IS NOT NULL AS is_troubled
FROM gateway.provider_credentials
WHERE organization_id = $1 AND (enabled OR disabled_reason IS NOT NULL)
ORDER BY position, id
"""

_REFUSED = """
UPDATE gateway.provider_credentials
SET refusals = refusals + 1, last_error = $2, last_error_at = clock_timestamp(),
    enabled = enabled AND refusals + 1 < $3,
    disabled_reason = CASE WHEN enabled AND refusals + 1 >= $3 THEN $4 ELSE disabled_reason END
WHERE id = $1 RETURNING CASE WHEN disabled_reason IS NOT NULL THEN organization_id END
"""

_FAILED = "UPDATE gateway.provider_credentials SET last_error = $2, last_error_at = clock_timestamp() WHERE id = $1"
_SERVED = """
UPDATE gateway.provider_credentials SET refusals = 0, last_error = NULL, last_error_at = NULL WHERE id = $1 AND enabled
"""


async def find_usable(connection: Connection, organization_id: UUID) -> tuple[UsableCredential, ...]:
    """Those that the paid path has to know of, first choice first."""
    rows = await connection.fetch(_FIND, organization_id)
    return tuple(
        UsableCredential(
            id=row["id"],
            organization_id=row["organization_id"],
            provider=row["provider"],
            base_url=row["base_url"],
            sealed=Sealed(row["key_id"], row["wrapped_key"], row["ciphertext"]),
            last4=row["last4"],
            models=None if row["models"] is None else frozenset(row["models"]),
            api_keys=None if row["api_keys"] is None else frozenset(row["api_keys"]),
            may_fall_back=row["may_fall_back"],
            disabled_reason=row["disabled_reason"],
            is_troubled=row["is_troubled"],
        )
        for row in rows
    )


async def record_refusal(connection: Connection, credential_id: UUID, error: str) -> UUID | None:
    """Note that the provider refused the key; its organization, if that, the third time in a row, switched it off."""
    reason = f"The provider refused this key {REFUSALS_MAXIMUM} times in a row."
    error = error[:ERROR_CHARACTERS_MAXIMUM]
    found: UUID | None = await connection.fetchval(_REFUSED, credential_id, error, REFUSALS_MAXIMUM, reason)
    return found


async def record_failure(connection: Connection, credential_id: UUID, error: str) -> None:
    """Note what went wrong last."""
    await connection.execute(_FAILED, credential_id, error[:ERROR_CHARACTERS_MAXIMUM])


async def record_success(connection: Connection, credential_id: UUID) -> None:
    """Forget refusals and the last error."""
    await connection.execute(_SERVED, credential_id)


async def _lineages(
    session: AsyncSession, organization_id: UUID, key_ids: Collection[UUID] | None
) -> list[UUID] | None:
    """The lineages of these API keys, so that a pin outlives their rotation."""
    if key_ids is None:
        return None
    query = select(ApiKey.id, ApiKey.lineage_id).where(
        ApiKey.organization_id == organization_id, ApiKey.id.in_(list(key_ids))
    )
    found: Sequence[tuple[UUID, UUID]] = [(row[0], row[1]) for row in await session.execute(query)]
    if not 1 <= len(key_ids) <= PINNED_KEYS_MAXIMUM or {key for key, _ in found} != set(key_ids):
        raise SettingRejected(
            f"A provider key is pinned to 1 to {PINNED_KEYS_MAXIMUM} API keys of this organization.", "api_keys"
        )
    return sorted({lineage for _, lineage in found})


def _checked_position(position: int) -> int:
    if not 0 <= position <= POSITION_MAXIMUM:
        raise SettingRejected(f"A position is 0 to {POSITION_MAXIMUM}; lower ones are used first.", "position")
    return position


def _checked_url(url: str, *, http_allowed: bool) -> str:
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    schemes = ("https", "http") if http_allowed else ("https",)
    if not fine or len(url) > URL_CHARACTERS_MAXIMUM or not url.isascii() or parts.scheme not in schemes:
        raise SettingRejected("A base_url is an https URL such as https://gateway.example/v1.", "base_url")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingRejected("A base_url has no user name, query or fragment.", "base_url")
    return url
