"""The tables of the schema `billing`, as migrations/ makes them; for reading. Only SQL functions write them."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)

SCHEMA: Final = "billing"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)


def _created_at() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp())


accounts = Table(
    "accounts",
    metadata,
    Column("id", BigInteger, Identity(start=1000), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("owner_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(
        "uq_accounts_owner_id_kind",
        "owner_id",
        "kind",
        unique=True,
        postgresql_where=text("owner_id IS NOT NULL"),
    ),
    Index("uq_accounts_kind_shared", "kind", unique=True, postgresql_where=text("owner_id IS NULL")),
)

wallets = Table(
    "wallets",
    metadata,
    Column("id", BigInteger, ForeignKey(accounts.c.id), primary_key=True, autoincrement=False),
    Column("owner_id", Uuid, nullable=False),
    Column("balance_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("held_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("frozen", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("owner_id"),
    CheckConstraint("held_micros >= 0", name="held_not_negative"),
    CheckConstraint("balance_micros >= held_micros", name="never_overdrawn"),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("reference", Uuid, nullable=False),
    Column("debit_account_id", BigInteger, nullable=False),
    Column("credit_account_id", BigInteger, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("wallet_id", BigInteger),
    Column("wallet_balance_micros", BigInteger),
    Column("key_id", Uuid),
    _created_at(),
    UniqueConstraint("reference", "kind"),
    Index("ix_ledger_entries_wallet_id", "wallet_id", "id"),
    CheckConstraint("amount_micros > 0", name="amount_positive"),
    CheckConstraint("debit_account_id <> credit_account_id", name="two_accounts"),
    CheckConstraint("wallet_balance_micros >= 0", name="wallet_not_negative"),
)

holds = Table(
    "holds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("wallet_id", BigInteger, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False, index=True),
    Column("key_id", Uuid),
    Column("period_start", DateTime(timezone=True)),
    _created_at(),
    CheckConstraint("amount_micros > 0", name="amount_positive"),
    CheckConstraint("(key_id IS NULL) = (period_start IS NULL)", name="key_and_period"),
)

hold_releases = Table(
    "hold_releases",
    metadata,
    Column("hold_id", Uuid, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("wallet_id", BigInteger, nullable=False),
    Column("amount_micros", BigInteger),
    Column("key_id", Uuid),
    Column("period_start", DateTime(timezone=True)),
    _created_at(),
)

key_spend = Table(
    "key_spend",
    metadata,
    Column("wallet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key_id", Uuid, primary_key=True),
    Column("period_start", DateTime(timezone=True), primary_key=True),
    Column("spent_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("held_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("cap_micros", BigInteger),
    CheckConstraint("spent_micros >= 0 AND held_micros >= 0", name="not_negative"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("wallet_id", BigInteger, ForeignKey(wallets.c.id), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("reference", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    _created_at(),
    UniqueConstraint("wallet_id", "reference"),
)
