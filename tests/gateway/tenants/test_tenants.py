"""Organizations and keys as the operator's commands and the account API use them, on real PostgreSQL."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from billing.holds import NEVER_RESETS
from gateway.database import Database
from gateway.identifiers import new_id
from gateway.tenants.api_keys import (
    Scope,
    find_key,
    issue_admin_key,
    issue_key,
    list_keys,
    revoke_key,
    rotate_key,
    spend_period_start,
)
from gateway.tenants.errors import KeyNotFound, OrganizationUnknown, SettingRejected
from gateway.tenants.key_format import Peppers, is_well_formed
from gateway.tenants.organizations import create_organization, get_organization, list_organizations
from gateway.tenants.tables import SpendCapPeriod

PEPPERS = Peppers(["a pepper of more than 32 characters"])


@pytest.fixture
async def organization_id(database: Database) -> UUID:
    async with database.writing() as session:
        return (await create_organization(session, "Acme")).id


async def test_organizations_are_listed_newest_first_in_pages(database: Database) -> None:
    async with database.writing() as session:
        for number in range(5):
            await create_organization(session, f"  Organization {number} ", requests_per_minute=10 + number)
    async with database.reading() as session:
        everything = await list_organizations(session)
        first = await list_organizations(session, limit=3)
        second = await list_organizations(session, limit=3, before=first[-1].id)
    assert sorted(o.name for o in everything) == [f"Organization {number}" for number in range(5)]
    assert [o.id for o in first + second] == [o.id for o in everything]
    assert [o.created_at.replace(microsecond=0) for o in everything] == sorted(
        (o.created_at.replace(microsecond=0) for o in everything), reverse=True
    )


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "two\nlines"])
async def test_an_organization_needs_a_sensible_name(database: Database, name: str) -> None:
    async with database.writing() as session:
        with pytest.raises(SettingRejected) as refused:
            await create_organization(session, name)
    assert refused.value.param == "name"


async def test_an_unknown_organization_is_not_found(database: Database) -> None:
    async with database.reading() as session:
        with pytest.raises(OrganizationUnknown):
            await get_organization(session, new_id())
        with pytest.raises(OrganizationUnknown):
            await issue_key(session, new_id(), peppers=PEPPERS, name="nobody's")


async def test_an_issued_key_keeps_its_settings_and_not_its_secret(database: Database, organization_id: UUID) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=30)
    async with database.writing() as session:
        issued = await issue_key(
            session,
            organization_id,
            peppers=PEPPERS,
            name="production",
            scopes=[Scope.SEGMENT],
            allowed_models=["meta/sam-3-image", "meta/sam-3-image"],
            requests_per_minute=60,
            spend_cap_micros=1_000_000,
            spend_cap_period=SpendCapPeriod.MONTH,
            expires_at=expires_at,
        )
    assert is_well_formed(issued.key)
    assert issued.key not in repr(issued)
    stored = await database.pool.fetchrow("SELECT * FROM gateway.api_keys")
    assert stored is not None
    assert issued.key not in str(dict(stored))
    assert stored["digest"] == PEPPERS.digest(issued.key)
    async with database.reading() as session:
        (record,) = await list_keys(session, organization_id)
    assert (record.name, record.hint, record.kind) == ("production", f"sk-aig-…{issued.key[-4:]}", "live")
    assert (record.scopes, record.allowed_models) == (["segment"], ["meta/sam-3-image"])
    assert (record.requests_per_minute, record.spend_cap_micros, record.spend_cap_period) == (60, 1_000_000, "month")
    assert record.expires_at == expires_at
    assert record.last_used_at is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", ""),
        ("scopes", []),
        ("scopes", ["everything"]),
        ("allowed_models", []),
        ("allowed_models", ["x" * 201]),
        ("requests_per_minute", 0),
        ("requests_per_minute", 10**9),
        ("spend_cap_micros", -1),
        ("spend_cap_micros", 10**18),
        ("expires_at", datetime(2020, 1, 1, tzinfo=UTC)),
        ("expires_at", datetime(2120, 1, 1)),  # noqa: DTZ001 - the missing zone is the point
    ],
)
async def test_settings_that_make_no_sense_are_refused(
    database: Database, organization_id: UUID, setting: str, value: Any
) -> None:
    settings: dict[str, Any] = {"name": "production", setting: value}
    async with database.writing() as session:
        with pytest.raises(SettingRejected) as refused:
            await issue_key(session, organization_id, peppers=PEPPERS, **settings)
    assert refused.value.param == setting


async def test_a_key_can_only_be_managed_by_its_own_organization(database: Database, organization_id: UUID) -> None:
    async with database.writing() as session:
        other = await create_organization(session, "Other")
        key_id = (await issue_key(session, organization_id, peppers=PEPPERS, name="ours")).record.id
        admin = await issue_admin_key(session, peppers=PEPPERS, name="operator")
        with pytest.raises(KeyNotFound):
            await revoke_key(session, other.id, key_id)
        with pytest.raises(KeyNotFound):
            await rotate_key(session, other.id, key_id, peppers=PEPPERS)
        with pytest.raises(KeyNotFound):
            await revoke_key(session, organization_id, admin.record.id)
        with pytest.raises(KeyNotFound):
            await revoke_key(session, None, key_id)
        assert await list_keys(session, other.id) == []
        assert [key.id for key in await list_keys(session, None)] == [admin.record.id]
        assert (await find_key(session, key_id)).organization_id == organization_id
        with pytest.raises(KeyNotFound):
            await find_key(session, new_id())


async def test_a_rotated_key_keeps_rights_and_lineage_and_the_old_one_ends(
    database: Database, organization_id: UUID
) -> None:
    async with database.writing() as session:
        old = await issue_key(
            session, organization_id, peppers=PEPPERS, name="production", requests_per_minute=7, spend_cap_micros=500
        )
        new = await rotate_key(session, organization_id, old.record.id, peppers=PEPPERS, grace_seconds=3600)
        newest = await rotate_key(session, organization_id, new.record.id, peppers=PEPPERS)
    async with database.reading() as session:
        first, second, third = [await find_key(session, each.record.id) for each in (old, new, newest)]
    assert len({old.key, new.key, newest.key}) == 3
    assert first.expires_at is not None
    assert first.expires_at - second.created_at < timedelta(hours=1)
    assert second.revoked_at is not None
    assert third.revoked_at is None
    assert third.expires_at is None
    assert (third.requests_per_minute, third.spend_cap_micros) == (7, 500)
    assert (third.rotated_from_id, third.lineage_id) == (second.id, first.id)


async def test_a_grace_never_lengthens_a_key_s_life(database: Database, organization_id: UUID) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    async with database.writing() as session:
        old = await issue_key(session, organization_id, peppers=PEPPERS, name="short", expires_at=soon)
        new = await rotate_key(session, organization_id, old.record.id, peppers=PEPPERS, grace_seconds=86_400)
        assert old.record.expires_at == soon
        assert new.record.expires_at == soon


async def test_a_dead_key_is_not_rotated(database: Database, organization_id: UUID) -> None:
    async with database.writing() as session:
        issued = await issue_key(session, organization_id, peppers=PEPPERS, name="gone")
        revoked = await revoke_key(session, organization_id, issued.record.id)
        again = await revoke_key(session, organization_id, issued.record.id)
        assert again.revoked_at == revoked.revoked_at
        with pytest.raises(SettingRejected):
            await rotate_key(session, organization_id, issued.record.id, peppers=PEPPERS)


@pytest.mark.parametrize("grace_seconds", [-1, 7 * 86_400 + 1])
async def test_a_grace_has_bounds(database: Database, organization_id: UUID, grace_seconds: int) -> None:
    async with database.writing() as session:
        issued = await issue_key(session, organization_id, peppers=PEPPERS, name="key")
        with pytest.raises(SettingRejected) as refused:
            await rotate_key(session, organization_id, issued.record.id, peppers=PEPPERS, grace_seconds=grace_seconds)
    assert refused.value.param == "grace_seconds"


@pytest.mark.parametrize(
    ("period", "start"),
    [
        ("never", NEVER_RESETS),
        ("day", datetime(2026, 11, 1, tzinfo=UTC)),
        ("week", datetime(2026, 10, 26, tzinfo=UTC)),
        ("month", datetime(2026, 11, 1, tzinfo=UTC)),
    ],
)
def test_a_spend_period_begins_at_midnight_utc(period: str, start: datetime) -> None:
    eastern = datetime.fromisoformat("2026-11-01T23:30:00+14:00") + timedelta(hours=14)
    assert spend_period_start(period, eastern) == start
