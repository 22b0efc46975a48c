"""Who is calling: from an Authorization header to a Caller, or a refusal.

The checksum is tried first, so typos and guesses cost no query. What the directory says is remembered for ten seconds
(refusals for five), counted from before the query was sent: that is how long a revocation can take to hold everywhere.
"""

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog

from gateway.tenants.api_keys import Scope
from gateway.tenants.errors import (
    AdminRequired,
    AuthUnavailable,
    KeyExpired,
    KeyMalformed,
    KeyMissing,
    KeyRevoked,
    KeyUnknown,
    ModelNotAllowed,
    OrganizationKeyRequired,
    OrganizationSuspended,
    ScopeMissing,
    TenantError,
)
from gateway.tenants.key_cache import ExpiringLru
from gateway.tenants.key_directory import KeyDirectory, KeyUse, StoredKey
from gateway.tenants.key_format import Peppers, is_well_formed

SCHEMES = ("bearer", "key")
HEADER_CHARACTERS_MAXIMUM = 256
ACCEPTED_TTL_SECONDS = 10.0
REFUSED_TTL_SECONDS = 5.0
CACHE_ENTRIES_MAXIMUM = 10_000
LOOKUPS_MAXIMUM = 256
USES_INTERVAL_SECONDS = 60.0
USES_MAXIMUM = 10_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A customer's key in use. `None` means: the default limit, every model, no cap.

    `lineage_id` is shared by a key and its rotations: rate limits and the spend cap count under it.
    """

    key_id: UUID
    lineage_id: UUID
    organization_id: UUID
    key_hint: str
    scopes: frozenset[str]
    allowed_models: frozenset[str] | None
    requests_per_minute: int | None
    organization_requests_per_minute: int | None
    spend_cap_micros: int | None
    spend_cap_period: str

    def require_scope(self, scope: Scope) -> None:
        """Raises ScopeMissing unless the key has this scope."""
        if scope not in self.scopes:
            raise ScopeMissing(scope)

    def require_model(self, model: str) -> None:
        """Raises ModelNotAllowed unless the key may use this model, given by its own name and not an alias."""
        if self.allowed_models is not None and model not in self.allowed_models:
            listed = ", ".join(sorted(self.allowed_models))
            raise ModelNotAllowed(f"This API key may not use the model '{model}'. It may use: {listed}.", param="model")


@dataclass(frozen=True, slots=True)
class Operator:
    """An admin key in use; it speaks for no organization, so nothing that spends can take one."""

    key_id: UUID
    key_hint: str


@dataclass(frozen=True, slots=True)
class _Known:
    """What the directory said: who it is, or why the key is refused; and whose entry this is, to forget it."""

    key_id: UUID | None
    organization_id: UUID | None
    identity: Caller | Operator | None
    refusal: type[TenantError] | None
    expires_at_seconds: float | None
    moved_digest: bytes | None


class Authenticator:
    """Turns headers into callers. Safe to share among all requests of one event loop; `run` notes uses."""

    def __init__(
        self,
        directory: KeyDirectory,
        *,
        peppers: Peppers,
        accepted_ttl_seconds: float = ACCEPTED_TTL_SECONDS,
        refused_ttl_seconds: float = REFUSED_TTL_SECONDS,
        cache_entries_maximum: int = CACHE_ENTRIES_MAXIMUM,
        clock_seconds: Callable[[], float] = time.monotonic,
        wall_clock_seconds: Callable[[], float] = time.time,
    ) -> None:
        """`cache_entries_maximum` bounds accepted and refused keys each; the wall clock decides on expiry."""
        self._directory = directory
        self._peppers = peppers
        self._accepted_ttl_seconds = accepted_ttl_seconds
        self._refused_ttl_seconds = refused_ttl_seconds
        self._accepted: ExpiringLru[_Known] = ExpiringLru(cache_entries_maximum)
        self._refused: ExpiringLru[_Known] = ExpiringLru(cache_entries_maximum)
        self._clock = clock_seconds
        self._wall_clock = wall_clock_seconds
        self._lookups: dict[bytes, asyncio.Task[_Known]] = {}
        self._running: set[asyncio.Task[_Known]] = set()
        self._generation = 0
        self._uses: dict[UUID, KeyUse] = {}

    async def authenticate(self, authorization_header: str | None) -> Caller:
        """The customer behind `Authorization: Bearer sk-aig-…` (or `Key sk-aig-…`).

        Raises AuthenticationRefused's classes, OrganizationSuspended, OrganizationKeyRequired for an admin key, and
        AuthUnavailable when the database does not answer.
        """
        identity = await self._identify(authorization_header)
        if isinstance(identity, Operator):
            raise OrganizationKeyRequired
        return identity

    async def authenticate_admin(self, authorization_header: str | None) -> Operator:
        """The operator behind `Authorization: Bearer ak-aig-…`. Raises as `authenticate`; AdminRequired for others."""
        identity = await self._identify(authorization_header)
        if isinstance(identity, Caller):
            raise AdminRequired
        return identity

    def forget(self, key_id: UUID) -> None:
        """Make a change to this key hold in this process at once; others follow within ten seconds."""
        self._forget(lambda known: known.key_id == key_id)

    def forget_organization(self, organization_id: UUID) -> None:
        """The same for a change to an organization."""
        self._forget(lambda known: known.organization_id == organization_id)

    async def run(self) -> None:
        """Note once a minute which keys were used; until cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(USES_INTERVAL_SECONDS)
                await self.record_uses()
        finally:
            await self.record_uses()

    async def record_uses(self) -> None:
        """Write down the uses since the last time. What cannot be written is dropped: it is worth no queue."""
        uses, self._uses = list(self._uses.values()), {}
        if not uses:
            return
        try:
            await self._directory.record_uses(uses, self._peppers.current_id)
        except AuthUnavailable:
            _log.warning("key_uses_dropped", keys=len(uses))

    async def _identify(self, authorization_header: str | None) -> Caller | Operator:
        key = _key_of(authorization_header)
        digest = self._peppers.digest(key)
        now = self._clock()
        known = self._accepted.get(digest, now) or self._refused.get(digest, now)
        if known is None:
            known = await self._look_up_once(key, digest)
        if known.refusal is not None:
            raise known.refusal
        if known.expires_at_seconds is not None and self._wall_clock() >= known.expires_at_seconds:
            raise KeyExpired
        assert known.identity is not None, "a key that is not refused is somebody's"
        self._note_use(known)
        return known.identity

    async def _look_up_once(self, key: str, digest: bytes) -> _Known:
        """One query for all who ask for this key now; it goes on when one of them hangs up."""
        task = self._lookups.get(digest)
        if task is None:
            if len(self._running) >= LOOKUPS_MAXIMUM:
                raise AuthUnavailable
            task = asyncio.create_task(self._look_up(key, digest))
            self._lookups[digest] = task
            self._running.add(task)
            task.add_done_callback(lambda ended: self._end_lookup(digest, ended))
        return await asyncio.shield(task)

    def _end_lookup(self, digest: bytes, task: asyncio.Task[_Known]) -> None:
        self._running.discard(task)
        if self._lookups.get(digest) is task:
            del self._lookups[digest]
        if not task.cancelled():
            task.exception()  # seen, should all who asked have hung up

    async def _look_up(self, key: str, digest: bytes) -> _Known:
        asked_at, generation = self._clock(), self._generation
        digests = self._peppers.digests(key)
        stored = await self._directory.find(digests)
        known = _judge(stored, digest)
        if generation == self._generation:
            if known.refusal is None:
                self._accepted.put(digest, known, asked_at + self._accepted_ttl_seconds)
            else:
                self._refused.put(digest, known, asked_at + self._refused_ttl_seconds)
        return known

    def _forget(self, matches: Callable[[_Known], bool]) -> None:
        self._accepted.drop(matches)
        self._refused.drop(matches)
        # Queries under way may have read the old state: what they bring is not kept, and nobody new waits for them.
        self._generation += 1
        self._lookups.clear()

    def _note_use(self, known: _Known) -> None:
        assert known.key_id is not None, "a key that is not refused is stored"
        if known.key_id in self._uses or len(self._uses) >= USES_MAXIMUM:
            return
        used_at = datetime.fromtimestamp(self._wall_clock(), UTC)
        self._uses[known.key_id] = KeyUse(known.key_id, used_at, known.moved_digest)


def _key_of(authorization_header: str | None) -> str:
    """The well-formed key in the header. Raises KeyMissing or KeyMalformed."""
    if authorization_header is None or not authorization_header.strip():
        raise KeyMissing
    if len(authorization_header) > HEADER_CHARACTERS_MAXIMUM:
        raise KeyMalformed
    scheme, _, key = authorization_header.strip().partition(" ")
    key = key.strip()
    if scheme.lower() not in SCHEMES or not is_well_formed(key):
        raise KeyMalformed
    return key


def _judge(stored: StoredKey | None, digest: bytes) -> _Known:
    """What follows from what is stored; `digest` is the key's hash under the current pepper."""
    if stored is None:
        return _Known(None, None, None, KeyUnknown, None, None)
    refusal: type[TenantError] | None = None
    if stored.revoked:
        refusal = KeyRevoked
    elif stored.suspended:
        refusal = OrganizationSuspended
    return _Known(
        key_id=stored.id,
        organization_id=stored.organization_id,
        identity=_identity(stored) if refusal is None else None,
        refusal=refusal,
        expires_at_seconds=None if stored.expires_at is None else stored.expires_at.timestamp(),
        moved_digest=None if hmac.compare_digest(stored.digest, digest) else digest,
    )


def _identity(stored: StoredKey) -> Caller | Operator:
    if stored.organization_id is None:
        return Operator(stored.id, stored.hint)
    return Caller(
        key_id=stored.id,
        lineage_id=stored.lineage_id,
        organization_id=stored.organization_id,
        key_hint=stored.hint,
        scopes=frozenset(stored.scopes),
        allowed_models=None if stored.allowed_models is None else frozenset(stored.allowed_models),
        requests_per_minute=stored.requests_per_minute,
        organization_requests_per_minute=stored.organization_requests_per_minute,
        spend_cap_micros=stored.spend_cap_micros,
        spend_cap_period=stored.spend_cap_period,
    )
