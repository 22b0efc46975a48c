"""Where a key's keyed hash is looked up, on plain asyncpg because every cache miss of the paid path comes here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import asyncpg

from gateway.tenants.errors import AuthUnavailable

ACQUIRE_TIMEOUT_SECONDS = 2.0
QUERY_TIMEOUT_SECONDS = 3.0

UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)

_FIND = """
SELECT k.id, k.organization_id, k.lineage_id, k.digest, k.hint, k.scopes, k.allowed_models, k.requests_per_minute,
       k.spend_cap_micros, k.spend_cap_period, k.expires_at, k.revoked_at IS NOT NULL AS revoked,
       coalesce(o.status = 'suspended', false) AS suspended,
       o.requests_per_minute AS organization_requests_per_minute
FROM gateway.api_keys k LEFT JOIN gateway.organizations o ON o.id = k.organization_id
WHERE k.digest = ANY ($1::bytea[])
"""

# Rows that another process is writing at this moment are skipped: it notes the same thing.
_RECORD = """
WITH free AS MATERIALIZED (
    SELECT id FROM gateway.api_keys WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE gateway.api_keys k
SET last_used_at = greatest(k.last_used_at, used.at),
    digest = coalesce(used.moved_digest, k.digest),
    pepper_id = CASE WHEN used.moved_digest IS NULL THEN k.pepper_id ELSE $4 END
FROM unnest($1::uuid[], $2::timestamptz[], $3::bytea[]) AS used (id, at, moved_digest) JOIN free USING (id)
WHERE k.id = used.id
"""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is stored about a key and its organization, as of one query. Columns as in gateway.tenants.tables."""

    id: UUID
    organization_id: UUID | None
    lineage_id: UUID
    digest: bytes
    hint: str
    scopes: list[str]
    allowed_models: list[str] | None
    requests_per_minute: int | None
    spend_cap_micros: int | None
    spend_cap_period: str
    expires_at: datetime | None
    revoked: bool
    suspended: bool
    organization_requests_per_minute: int | None


@dataclass(frozen=True, slots=True)
class KeyUse:
    """That a key was used; `moved_digest` is its hash under the current pepper where the stored one is older."""

    key_id: UUID
    used_at: datetime
    moved_digest: bytes | None


class KeyDirectory(Protocol):
    """Where keys are stored."""

    async def find(self, digests: Sequence[bytes]) -> StoredKey | None:
        """The key stored under one of these hashes of it. Raises AuthUnavailable."""
        ...

    async def record_uses(self, uses: Sequence[KeyUse], pepper_id: str) -> None:
        """Note when keys were last used, and move hashes to the pepper `pepper_id`. Raises AuthUnavailable."""
        ...


class PostgresKeyDirectory:
    """Keys in PostgreSQL; a call waits 2 s for a connection and 3 s for the answer at most."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def find(self, digests: Sequence[bytes]) -> StoredKey | None:
        """See KeyDirectory."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                row = await connection.fetchrow(_FIND, list(digests), timeout=QUERY_TIMEOUT_SECONDS)
        except UNREACHABLE as error:
            raise AuthUnavailable from error
        return None if row is None else StoredKey(**dict(row))

    async def record_uses(self, uses: Sequence[KeyUse], pepper_id: str) -> None:
        """See KeyDirectory."""
        columns = ([use.key_id for use in uses], [use.used_at for use in uses], [use.moved_digest for use in uses])
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                await connection.execute(_RECORD, *columns, pepper_id, timeout=QUERY_TIMEOUT_SECONDS)
        except UNREACHABLE as error:
            raise AuthUnavailable from error
