"""Which of a customer's own provider keys a call goes out on, and what becomes of those keys.

What the database says about an organization is remembered for one second, so a change holds everywhere that soon.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog

from billing.connection import Connection
from gateway.auth import Caller
from gateway.secrets_at_rest import SecretUnreadable, Vault
from gateway.tenants.errors import AuthUnavailable, CredentialRejected
from gateway.tenants.key_cache import ExpiringLru
from gateway.tenants.key_directory import ACQUIRE_TIMEOUT_SECONDS, QUERY_TIMEOUT_SECONDS, UNREACHABLE
from gateway.tenants.provider_credentials import (
    NewCredential,
    UsableCredential,
    find_usable,
    record_failure,
    record_refusal,
    record_success,
)
from gateway.upstreams import Upstreams
from inference.errors import CredentialRefused, InferenceError, InputRejected, ProviderSaturated
from inference.provider import Credential, Deployment

REMEMBERED_SECONDS = 1.0
ORGANIZATIONS_MAXIMUM = 10_000
CHECK_TIMEOUT_SECONDS = 10.0
FAILURE_INTERVAL_SECONDS = 5.0
TROUBLED_SECONDS = 86_400.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The customer's deployments for one call, first choice first, and whether our own may follow them."""

    deployments: tuple[Deployment, ...]
    may_fall_back: bool


class CustomerKeys:
    """Reads credentials for calls, and as the router's observer notes how their providers took them."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        vault: Vault | None,
        upstreams: Upstreams,
        *,
        clock_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without a `vault` (no key-encryption key is configured) no credential can be attached or used."""
        self._pool = pool
        self._vault = vault
        self._upstreams = upstreams
        self._clock = clock_seconds
        self._known: ExpiringLru[tuple[UsableCredential, ...]] = ExpiringLru(ORGANIZATIONS_MAXIMUM)
        self._troubled: ExpiringLru[bool] = ExpiringLru(ORGANIZATIONS_MAXIMUM)
        self._failed_lately: ExpiringLru[bool] = ExpiringLru(ORGANIZATIONS_MAXIMUM)

    @property
    def vault(self) -> Vault:
        """What seals keys. Raises CredentialRejected where this installation cannot keep any."""
        if self._vault is None:
            raise CredentialRejected("This installation keeps no provider keys: it has no key-encryption key.")
        return self._vault

    async def for_call(self, caller: Caller, model: str) -> OwnKeys | None:
        """The customer's keys for a call of `model`; None if none applies, so that the wallet pays.

        A key that we switched off after refusals still applies: without leave to fall back the call is refused, not
        charged. Raises CredentialRefused then, and AuthUnavailable when the database does not answer.
        """
        usable = [c for c in await self._usable(caller.organization_id) if c.applies_to(model, caller.lineage_id)]
        applying = [
            (credential, provider)
            for credential in usable
            if (provider := self._upstreams.of_customer(credential.provider, credential.base_url)).capabilities(model)
        ]
        if not applying:
            return None
        may_fall_back = all(credential.may_fall_back for credential, _ in applying)
        deployments = [
            Deployment(
                f"own:{credential.provider}:{credential.last4}",
                provider,
                Credential(credential.id.hex, self._opened(credential), is_customers=True),
            )
            for credential, provider in applying
            if credential.disabled_reason is None
        ]
        if not deployments and not may_fall_back:
            first = applying[0][0]
            raise CredentialRefused(
                first.provider,
                f"{first.disabled_reason} It is switched off: switch it on again, attach another, or remove it.",
            )
        return OwnKeys(tuple(deployments), may_fall_back) if deployments else None

    async def check(self, new: NewCredential) -> None:
        """Ask the provider for the cheapest thing that shows whether a key works. Raises CredentialRejected."""
        self.vault  # noqa: B018 - refuse before the provider is asked
        provider = self._upstreams.of_customer(new.provider, new.base_url)
        deadline = asyncio.get_running_loop().time() + CHECK_TIMEOUT_SECONDS
        try:
            await provider.check(Credential("unchecked", new.secret, is_customers=True), deadline=deadline)
        except CredentialRefused as error:
            raise CredentialRejected(f"{error.provider} does not accept this key: {error.reason}", "key") from None
        except InferenceError as error:
            raise CredentialRejected(f"The key could not be checked: {error.message} Nothing was stored.") from None

    def forget(self, organization_id: UUID) -> None:
        """Make a change hold in this process at once; others follow within a second."""
        self._known.forget(organization_id.bytes)

    async def ended(self, deployment: Deployment, error: InferenceError | None) -> None:
        """See inference.router.Observer: our own refused key is an alert, a customer's is noted in its record."""
        if not deployment.is_customers:
            if isinstance(error, CredentialRefused):
                log.error("provider_key_of_installation_refused", deployment=deployment.name, error=error.message)
            return
        if isinstance(error, InputRejected | ProviderSaturated):
            return
        assert deployment.credential is not None, "customers' deployments have their key"
        credential_id = UUID(hex=deployment.credential.id)
        if error is None and not self._troubled.get(credential_id.bytes, self._clock()):
            return
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                await self._note(connection, credential_id, deployment.name, error)
        except UNREACHABLE as failure:
            log.warning("provider_key_not_noted", deployment=deployment.name, error=repr(failure))

    async def _note(self, connection: Connection, credential_id: UUID, name: str, error: InferenceError | None) -> None:
        """A success is written down only after trouble, and other failures than refusals every five seconds at most."""
        now = self._clock()
        match error:
            case None:
                await record_success(connection, credential_id)
                self._troubled.forget(credential_id.bytes)
            case CredentialRefused():
                self._troubled.put(credential_id.bytes, True, now + TROUBLED_SECONDS)
                switched_off = await record_refusal(connection, credential_id, error.message)
                if switched_off is not None:
                    self.forget(switched_off)
                    log.warning("provider_key_switched_off", credential_id=str(credential_id), deployment=name)
            case _ if not self._failed_lately.get(credential_id.bytes, now):
                self._failed_lately.put(credential_id.bytes, True, now + FAILURE_INTERVAL_SECONDS)
                self._troubled.put(credential_id.bytes, True, now + TROUBLED_SECONDS)
                await record_failure(connection, credential_id, error.message)

    async def _usable(self, organization_id: UUID) -> tuple[UsableCredential, ...]:
        asked_at = self._clock()
        known = self._known.get(organization_id.bytes, asked_at)
        if known is None:
            try:
                async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS) as connection:
                    async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                        known = await find_usable(connection, organization_id)
            except UNREACHABLE as error:
                raise AuthUnavailable from error
            self._known.put(organization_id.bytes, known, asked_at + REMEMBERED_SECONDS)
            for credential in known:
                if credential.is_troubled:
                    self._troubled.put(credential.id.bytes, True, asked_at + TROUBLED_SECONDS)
        return known

    def _opened(self, credential: UsableCredential) -> str:
        try:
            return self.vault.open(credential.sealed, credential.owner)
        except (SecretUnreadable, CredentialRejected) as error:
            log.error("provider_key_unreadable", credential_id=str(credential.id), error=str(error))
            raise CredentialRefused(
                credential.provider, "the stored key cannot be opened here; attach it again."
            ) from None
