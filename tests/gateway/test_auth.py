"""Headers become callers: on real PostgreSQL, with clocks that the test turns and a directory that counts."""

import asyncio
import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.auth import Authenticator, Caller
from gateway.database import Database
from gateway.tenants.api_keys import Scope, issue_admin_key, issue_key, revoke_key, rotate_key
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
from gateway.tenants.key_directory import KeyUse, PostgresKeyDirectory, StoredKey
from gateway.tenants.key_format import KeyKind, Peppers, generate
from gateway.tenants.organizations import create_organization, set_organization_status
from gateway.tenants.tables import OrganizationStatus
from tests.postgres import PostgresServer

PEPPERS = Peppers(["a pepper of more than 32 characters"])


class Clock:
    """Stands still until told otherwise."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class CountingDirectory:
    """The real directory, with a count of its queries and a door that can be shut in front of their answers."""

    def __init__(self, database: Database) -> None:
        self._directory = PostgresKeyDirectory(database.pool)
        self.finds = 0
        self.writes = 0
        self.door = asyncio.Event()
        self.door.set()

    async def find(self, digests: Sequence[bytes]) -> StoredKey | None:
        self.finds += 1
        found = await self._directory.find(digests)
        await self.door.wait()
        return found

    async def record_uses(self, uses: Sequence[KeyUse], pepper_id: str) -> None:
        self.writes += 1
        await self._directory.record_uses(uses, pepper_id)


class Front:
    """An organization with a key, and a process that authenticates."""

    def __init__(self, database: Database, organization_id: UUID, key: str, key_id: UUID) -> None:
        self.database = database
        self.organization_id = organization_id
        self.key = key
        self.key_id = key_id
        self.directory = CountingDirectory(database)
        self.clock = Clock(1000.0)
        self.wall_clock = Clock(datetime.now(UTC).timestamp())
        self.authenticator = self.another_process()

    def another_process(self, peppers: Peppers = PEPPERS, cache_entries_maximum: int = 100) -> Authenticator:
        return Authenticator(
            self.directory,
            peppers=peppers,
            cache_entries_maximum=cache_entries_maximum,
            clock_seconds=self.clock,
            wall_clock_seconds=self.wall_clock,
        )

    async def authenticate(self, key: str | None = None) -> Caller:
        return await self.authenticator.authenticate(f"Bearer {key or self.key}")

    async def revoke(self) -> None:
        async with self.database.writing() as session:
            await revoke_key(session, self.organization_id, self.key_id)


@pytest.fixture
async def front(database: Database) -> Front:
    async with database.writing() as session:
        organization = await create_organization(session, "Acme", requests_per_minute=90)
        issued = await issue_key(
            session,
            organization.id,
            peppers=PEPPERS,
            name="production",
            scopes=[Scope.SEGMENT],
            allowed_models=["meta/sam-3-image"],
            requests_per_minute=60,
            spend_cap_micros=5_000,
        )
    return Front(database, organization.id, issued.key, issued.record.id)


async def test_a_key_tells_who_is_calling_and_what_they_may(front: Front) -> None:
    caller = await front.authenticate()
    assert (caller.key_id, caller.organization_id) == (front.key_id, front.organization_id)
    assert caller.key_hint == f"sk-aig-…{front.key[-4:]}"
    assert (caller.requests_per_minute, caller.organization_requests_per_minute) == (60, 90)
    assert (caller.spend_cap_micros, caller.spend_cap_period) == (5_000, "never")
    caller.require_scope(Scope.SEGMENT)
    caller.require_model("meta/sam-3-image")
    with pytest.raises(ScopeMissing, match="predictions:read"):
        caller.require_scope(Scope.PREDICTIONS_READ)
    with pytest.raises(ModelNotAllowed, match="meta/sam-3-image"):
        caller.require_model("meta/sam-3-1-image")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Key", "key", "  Bearer  "])
async def test_both_schemes_are_understood(front: Front, scheme: str) -> None:
    caller = await front.authenticator.authenticate(f"{scheme} {front.key} ")
    assert caller.key_id == front.key_id


@pytest.mark.parametrize("header", [None, "", "   "])
async def test_no_header_says_how_to_send_one(front: Front, header: str | None) -> None:
    with pytest.raises(KeyMissing, match="Authorization: Bearer"):
        await front.authenticator.authenticate(header)


async def test_what_is_not_a_key_asks_nobody_and_is_not_echoed(front: Front) -> None:
    key = front.key
    swapped = key[:-1] + ("a" if key[-1] != "a" else "b")
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    for header in [
        f"Bearer {swapped}",
        f"Bearer {key[:-1]}",
        f"Bearer {key}x",
        f"Bearer {key} {key}",
        "Bearer",
        key,
        f"Basic {basic}",
        "Bearer sk-proj-0123456789",
        f"Bearer {key}" + "x" * 100_000,
        f"Bearer {key.replace('sk-', 'ak-')}",
    ]:
        with pytest.raises(KeyMalformed) as refused:
            await front.authenticator.authenticate(header)
        assert key[7:20] not in refused.value.message
    assert front.directory.finds == 0


async def test_an_unknown_key_is_asked_for_once_in_five_seconds(front: Front) -> None:
    stranger = generate(KeyKind.LIVE)
    for _ in range(3):
        with pytest.raises(KeyUnknown) as refused:
            await front.authenticate(stranger)
        assert stranger not in str(refused.value)
    assert front.directory.finds == 1
    front.clock.seconds += 5
    with pytest.raises(KeyUnknown):
        await front.authenticate(stranger)
    assert front.directory.finds == 2


async def test_many_calls_at_once_share_one_query_even_if_the_first_hangs_up(front: Front) -> None:
    front.directory.door.clear()
    calls = [asyncio.create_task(front.authenticate()) for _ in range(50)]
    while front.directory.finds == 0:
        await asyncio.sleep(0)
    calls[0].cancel()
    front.directory.door.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, Caller) for answer in answers[1:])
    assert front.directory.finds == 1


async def test_a_flood_of_unknown_keys_waits_in_no_endless_queue(front: Front) -> None:
    front.directory.door.clear()
    flood = [asyncio.create_task(front.authenticate(generate(KeyKind.LIVE))) for _ in range(300)]
    while not any(call.done() for call in flood):
        await asyncio.sleep(0)
    front.directory.door.set()
    answers = [type(answer) for answer in await asyncio.gather(*flood, return_exceptions=True)]
    assert (answers.count(KeyUnknown), answers.count(AuthUnavailable)) == (256, 44)


async def test_a_revocation_holds_everywhere_within_ten_seconds(front: Front) -> None:
    await front.authenticate()
    await front.revoke()
    front.clock.seconds += 9.9
    await front.authenticate()
    front.clock.seconds += 0.1
    with pytest.raises(KeyRevoked):
        await front.authenticate()


async def test_the_ten_seconds_count_from_before_the_query(front: Front) -> None:
    front.directory.door.clear()
    call = asyncio.create_task(front.authenticate())
    while front.directory.finds == 0:
        await asyncio.sleep(0)
    front.clock.seconds += 8
    front.directory.door.set()
    await call
    await front.revoke()
    front.clock.seconds += 2
    with pytest.raises(KeyRevoked):
        await front.authenticate()


async def test_a_revocation_holds_at_once_in_the_process_that_did_it(front: Front) -> None:
    await front.authenticate()
    await front.revoke()
    front.authenticator.forget(front.key_id)
    with pytest.raises(KeyRevoked):
        await front.authenticate()


async def test_an_answer_from_before_a_revocation_is_not_kept(front: Front) -> None:
    front.directory.door.clear()
    early = asyncio.create_task(front.authenticate())
    while front.directory.finds == 0:
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)  # lets the query be answered behind the door; were it later, the test would still pass
    await front.revoke()
    front.authenticator.forget(front.key_id)
    front.directory.door.set()
    await asyncio.gather(early, return_exceptions=True)
    with pytest.raises(KeyRevoked):
        await front.authenticate()


async def test_a_suspended_organization_is_refused_and_let_in_again(front: Front) -> None:
    async with front.database.writing() as session:
        await set_organization_status(session, front.organization_id, OrganizationStatus.SUSPENDED)
    with pytest.raises(OrganizationSuspended):
        await front.authenticate()
    async with front.database.writing() as session:
        await set_organization_status(session, front.organization_id, OrganizationStatus.ACTIVE)
    front.authenticator.forget_organization(front.organization_id)
    await front.authenticate()


async def test_a_remembered_key_expires_on_the_second(front: Front) -> None:
    async with front.database.writing() as session:
        new = await rotate_key(session, front.organization_id, front.key_id, peppers=PEPPERS, grace_seconds=60)
    await front.authenticate()
    front.wall_clock.seconds += 61
    with pytest.raises(KeyExpired):
        await front.authenticate()
    assert front.directory.finds == 1
    caller = await front.authenticate(new.key)
    assert caller.lineage_id == front.key_id


async def test_admin_keys_and_customers_keys_never_pass_for_each_other(front: Front) -> None:
    async with front.database.writing() as session:
        admin = await issue_admin_key(session, peppers=PEPPERS, name="operator")
    operator = await front.authenticator.authenticate_admin(f"Bearer {admin.key}")
    assert operator.key_id == admin.record.id
    with pytest.raises(OrganizationKeyRequired):
        await front.authenticate(admin.key)
    with pytest.raises(AdminRequired):
        await front.authenticator.authenticate_admin(f"Bearer {front.key}")


async def test_keys_move_to_a_new_pepper_as_they_are_used(front: Front) -> None:
    both = Peppers(["the next pepper, also more than 32 characters", "a pepper of more than 32 characters"])
    process = front.another_process(both)
    assert (await process.authenticate(f"Bearer {front.key}")).key_id == front.key_id
    await process.record_uses()
    only_new = front.another_process(Peppers(["the next pepper, also more than 32 characters"]))
    assert (await only_new.authenticate(f"Bearer {front.key}")).key_id == front.key_id
    stored = await front.database.pool.fetchval("SELECT pepper_id FROM gateway.api_keys")
    assert stored == both.current_id
    with pytest.raises(KeyUnknown):
        await front.another_process().authenticate(f"Bearer {front.key}")


async def test_last_use_is_written_once_for_many_calls(front: Front) -> None:
    for _ in range(20):
        await front.authenticate()
    await front.authenticator.record_uses()
    await front.authenticator.record_uses()
    assert front.directory.writes == 1
    last_used_at = await front.database.pool.fetchval("SELECT last_used_at FROM gateway.api_keys")
    assert last_used_at == datetime.fromtimestamp(front.wall_clock.seconds, UTC)


async def test_last_use_never_goes_back(front: Front) -> None:
    await front.authenticate()
    await front.authenticator.record_uses()
    front.wall_clock.seconds -= 3600
    await front.authenticate()
    await front.authenticator.record_uses()
    last_used_at = await front.database.pool.fetchval("SELECT last_used_at FROM gateway.api_keys")
    assert last_used_at == datetime.fromtimestamp(front.wall_clock.seconds, UTC) + timedelta(hours=1)


async def test_stopping_writes_the_last_uses(front: Front) -> None:
    running = asyncio.create_task(front.authenticator.run())
    await front.authenticate()
    running.cancel()
    await asyncio.wait([running])
    assert await front.database.pool.fetchval("SELECT last_used_at IS NOT NULL FROM gateway.api_keys")


async def test_the_memory_of_keys_is_bounded(front: Front) -> None:
    process = front.another_process(cache_entries_maximum=2)
    async with front.database.writing() as session:
        others = [(await issue_key(session, front.organization_id, peppers=PEPPERS, name=f"{n}")).key for n in range(2)]
    for key in [front.key, others[0], front.key, others[1], front.key]:
        await process.authenticate(f"Bearer {key}")
    assert front.directory.finds == 3  # the key used last stays
    await process.authenticate(f"Bearer {others[0]}")
    assert front.directory.finds == 4  # the one not used for longest had gone
    for _ in range(3):
        with pytest.raises(KeyUnknown):
            await process.authenticate(f"Bearer {generate(KeyKind.LIVE)}")
    await process.authenticate(f"Bearer {others[0]}")
    assert front.directory.finds == 7  # strangers push out strangers only


async def test_without_its_database_a_key_is_neither_good_nor_bad() -> None:
    server = PostgresServer()
    server.start()
    try:
        database = await Database.connect(await server.migrated_database(), pool_size=2)
        async with database.writing() as session:
            organization = await create_organization(session, "Acme")
            known = await issue_key(session, organization.id, peppers=PEPPERS, name="known")
            other = await issue_key(session, organization.id, peppers=PEPPERS, name="other")
        authenticator = Authenticator(PostgresKeyDirectory(database.pool), peppers=PEPPERS)
        await authenticator.authenticate(f"Bearer {known.key}")
        server.kill()
        await authenticator.authenticate(f"Bearer {known.key}")
        with pytest.raises(AuthUnavailable) as refused:
            await authenticator.authenticate(f"Bearer {other.key}")
        assert refused.value.retry_after_seconds > 0
        await authenticator.record_uses()
        server.start()
        assert (await authenticator.authenticate(f"Bearer {other.key}")).key_id == other.record.id
        await database.aclose()
    finally:
        server.stop()


def test_a_refusal_says_what_to_do() -> None:
    refusals: list[TenantError] = [KeyMissing(), KeyMalformed(), KeyUnknown(), KeyExpired(), KeyRevoked()]
    assert all(len(refusal.message.split(".")) > 2 for refusal in refusals)
