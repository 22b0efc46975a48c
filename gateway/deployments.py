"""Switches of the installation's deployments: a row each, which every process notices within seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from sqlalchemy import DateTime, Text, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from gateway.database import Base
from gateway.settings import Settings

POOL = "pool"
NOTICE_INTERVAL_SECONDS = 2.0


class DeploymentSwitch(Base):
    """Whether a deployment may be used; without a row it may."""

    __tablename__ = "deployment_switches"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    enabled: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(Text)
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


@dataclass(frozen=True, slots=True)
class Configured:
    """A deployment as the settings have it."""

    name: str
    kind: str
    base_url: str
    priority: int


def configured(settings: Settings) -> list[Configured]:
    """Every deployment of the installation, first choice first."""
    pools = ", ".join(settings.pool_urls) or "embedded"
    found = [Configured(POOL, "local", pools, settings.pool_priority)]
    found += [
        Configured(name, upstream.kind, settings.upstream_url(upstream), upstream.priority)
        for name, upstream in settings.upstreams.items()
    ]
    return sorted(found, key=lambda each: each.priority)


async def set_switch(session: AsyncSession, name: str, *, enabled: bool, reason: str | None) -> None:
    """Switch a deployment on or off; never commits."""
    values = {"enabled": enabled, "reason": reason, "changed_at": datetime.now(UTC)}
    statement = insert(DeploymentSwitch).values(name=name, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


async def list_switches(session: AsyncSession) -> Sequence[DeploymentSwitch]:
    """Every switch that was ever touched."""
    return list(await session.scalars(select(DeploymentSwitch).order_by(DeploymentSwitch.name)))


class Switches:
    """What one process knows of them; whoever owns it calls `refresh` every two seconds."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._off: frozenset[str] = frozenset()

    def off(self) -> frozenset[str]:
        """The names of deployments that are switched off."""
        return self._off

    async def refresh(self) -> None:
        """Read them anew. Raises what asyncpg raises; what was known before stays in force."""
        rows = await self._pool.fetch("SELECT name FROM gateway.deployment_switches WHERE NOT enabled")
        self._off = frozenset(row["name"] for row in rows)
