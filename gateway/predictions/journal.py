"""Write calls and their money together: one durable transaction to admit, one to settle.

Calls of this process that wait at the same moment share a transaction (group commit); each has its own outcome and
none is answered before the commit.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from billing import holds
from billing.group_commit import GroupCommit
from billing.holds import Capture, Outcome, OutcomeKind, Place, Release
from gateway.predictions.tables import Payer, PredictionStatus

BATCH_MAX = 500
QUEUE_MAX = 10_000
QUEUE_AGE_MAX_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A call about to start. `place` reserves its price; None where the customer pays the provider."""

    prediction_id: UUID
    organization_id: UUID
    key_id: UUID
    request_id: str
    dialect: str
    model: str
    units: int
    price_micros: int
    payer: Payer
    place: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a call ended. `money` captures or releases its hold; None where there was none."""

    prediction_id: UUID
    status: PredictionStatus
    money: Capture | Release | None
    deployment: str | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


Record = Admission | Settlement

ABANDONED = '{"type": "server_error", "code": "abandoned", "message": "The gateway stopped before the call ended."}'

_ADMIT = """
INSERT INTO gateway.predictions
    (id, organization_id, key_id, request_id, dialect, model, units, price_micros, payer, status)
SELECT id, organization_id, key_id, request_id, dialect, model, units, price_micros, payer, 'processing'
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::bigint[],
            $9::text[])
    AS admission(id, organization_id, key_id, request_id, dialect, model, units, price_micros, payer)
ON CONFLICT (id) DO UPDATE SET payer = excluded.payer, price_micros = excluded.price_micros
WHERE predictions.payer = 'customer' AND predictions.finished_at IS NULL
"""

_ABANDON = """
UPDATE gateway.predictions SET status = 'failed', finished_at = clock_timestamp(), error = $3::jsonb
WHERE id IN (
    SELECT id FROM gateway.predictions
    WHERE status = 'processing' AND payer = 'customer' AND created_at < clock_timestamp() - $1::interval
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
RETURNING id
"""

_SETTLE = """
UPDATE gateway.predictions AS prediction
SET status = settlement.status, charged_micros = settlement.charged_micros, deployment = settlement.deployment,
    timings_ms = settlement.timings_ms::jsonb, output = settlement.output::jsonb, error = settlement.error::jsonb,
    finished_at = clock_timestamp()
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS settlement(id, status, charged_micros, deployment, timings_ms, output, error)
WHERE prediction.id = settlement.id
  AND (prediction.finished_at IS NULL OR prediction.error ->> 'code' = 'abandoned')
"""

_ABORT = """
UPDATE gateway.predictions
SET status = 'failed', finished_at = clock_timestamp(),
    error = $2::jsonb
WHERE id = ANY($1::uuid[]) AND finished_at IS NULL
"""


class Journal:
    """The only writer of predictions; `run` must be running for `admit` and `settle` to be answered."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._commits: GroupCommit[Record, Outcome | None] = GroupCommit(
            self._flush,
            max_batch=BATCH_MAX,
            max_queue=QUEUE_MAX,
            max_age_seconds=QUEUE_AGE_MAX_SECONDS,
            key=lambda record: record.prediction_id,
        )

    async def admit(self, admission: Admission) -> Outcome | None:
        """Record the call and reserve its price, or raise billing's refusal with nothing recorded."""
        return await self._commits.submit(admission)

    async def settle(self, settlement: Settlement) -> Outcome | None:
        """Record the end of the call and take or free its money. Sending the same settlement again is harmless."""
        return await self._commits.submit(settlement)

    async def expire(self, *, limit: int) -> list[UUID]:
        """Free up to `limit` holds past their time and fail the predictions that left them behind."""
        async with self._pool.acquire() as connection, connection.transaction():
            expired = await holds.expire(connection, limit=limit)
            if expired:
                await connection.execute(_ABORT, expired, ABANDONED)
        return expired

    async def abandon(self, *, older_than: timedelta, limit: int) -> list[UUID]:
        """Fail up to `limit` calls on customers' keys that began so long ago: no hold of theirs will expire."""
        return [row["id"] for row in await self._pool.fetch(_ABANDON, older_than, limit, ABANDONED)]

    async def run(self) -> None:
        """Commit what is submitted until closed."""
        await self._commits.run()

    async def aclose(self) -> None:
        """Commit what waits, then stop."""
        await self._commits.aclose()

    async def _flush(self, records: Sequence[Record]) -> list[Outcome | Exception | None]:
        operations = [operation for record in records if (operation := _operation(record)) is not None]
        async with self._pool.acquire() as connection, connection.transaction():
            outcomes = {o.operation.hold_id: o for o in await holds.apply(connection, operations)}
            answers = [_answer(record, outcomes.get(record.prediction_id)) for record in records]
            accepted = [r for r, answer in zip(records, answers, strict=True) if not isinstance(answer, Exception)]
            admissions = [record for record in accepted if isinstance(record, Admission)]
            if admissions:
                await connection.execute(_ADMIT, *_admission_columns(admissions))
            settlements = [
                (record, outcomes.get(record.prediction_id)) for record in accepted if isinstance(record, Settlement)
            ]
            if settlements:
                await connection.execute(_SETTLE, *_settlement_columns(settlements))
        return answers


def _operation(record: Record) -> holds.Operation | None:
    return record.place if isinstance(record, Admission) else record.money


def _answer(record: Record, outcome: Outcome | None) -> Outcome | Exception | None:
    """What the submitter gets: the refusal as an exception, else what became of the money."""
    if outcome is not None and outcome.refusal is not None:
        return outcome.refusal
    return outcome


def _charged(settlement: Settlement, outcome: Outcome | None) -> int:
    if not isinstance(settlement.money, Capture) or outcome is None:
        return 0
    charged = outcome.kind in (OutcomeKind.CAPTURED, OutcomeKind.CAPTURED_LATE, OutcomeKind.REPLAYED)
    return settlement.money.amount_micros if charged else 0


def _admission_columns(admissions: Sequence[Admission]) -> list[list[Any]]:
    rows = [
        (
            a.prediction_id,
            a.organization_id,
            a.key_id,
            a.request_id,
            a.dialect,
            a.model,
            a.units,
            a.price_micros,
            a.payer.value,
        )
        for a in admissions
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _settlement_columns(settlements: Sequence[tuple[Settlement, Outcome | None]]) -> list[list[Any]]:
    rows = [
        (
            settlement.prediction_id,
            settlement.status.value,
            _charged(settlement, outcome),
            settlement.deployment,
            _document(settlement.timings_ms),
            None if settlement.output is None else _document(settlement.output),
            None if settlement.error is None else _document(settlement.error),
        )
        for settlement, outcome in settlements
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def _document(content: dict[str, Any]) -> str:
    """JSON that PostgreSQL takes: without NULs and halves of surrogate pairs, which a provider's words may hold."""
    text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace").decode()
    return text.replace("\\u0000", "\\ufffd")
