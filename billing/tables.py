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
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

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


def _micros(name: str) -> Column[object]:
    """An amount that starts at nothing."""
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


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
    Column("owed_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("frozen_by_operator", Boolean, nullable=False, server_default=text("false")),
    Column("low_balance_micros", BigInteger, nullable=False, server_default=text("1000000")),
    Column("low_balance_noticed", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("owner_id"),
    CheckConstraint("held_micros >= 0", name="held_not_negative"),
    CheckConstraint("owed_micros >= 0", name="owed_not_negative"),
    CheckConstraint("low_balance_micros >= 0", name="low_balance_not_negative"),
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
    Index("ix_ledger_entries_created_at", "created_at", postgresql_using="brin"),
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

stripe_customers = Table(
    "stripe_customers",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("payment_method_id", Text),
    Column("card_brand", Text),
    Column("card_last4", Text),
    Column("card_saved_at", DateTime(timezone=True)),
    _created_at(),
    UniqueConstraint("customer_id"),
)

payments = Table(
    "payments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, nullable=False),
    Column("wallet_id", BigInteger, ForeignKey(wallets.c.id), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'open'")),
    Column("credit_micros", BigInteger, nullable=False),
    Column("fee_micros", BigInteger, nullable=False),
    Column("save_card", Boolean, nullable=False, server_default=text("false")),
    Column("client_reference", Text),
    Column("checkout_session_id", Text),
    Column("checkout_url", Text),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("payment_method_id", Text),
    Column("payment_intent_id", Text),
    Column("charge_id", Text),
    Column("receipt_url", Text),
    Column("failure_code", Text),
    Column("failure_message", Text),
    Column("mismatch", Text),
    Column("paid_at", DateTime(timezone=True)),
    _micros("credited_micros"),
    _micros("refund_credit_micros"),
    _micros("refund_fee_micros"),
    _micros("dispute_credit_micros"),
    _micros("dispute_fee_micros"),
    _created_at(),
    UniqueConstraint("owner_id", "client_reference", name="uq_payments_owner_id_client_reference"),
    UniqueConstraint("checkout_session_id"),
    UniqueConstraint("payment_intent_id"),
    UniqueConstraint("charge_id"),
    Index("ix_payments_owner_id_id", "owner_id", "id"),
    Index("ix_payments_open", "expires_at", postgresql_where=text("status = 'open'")),
    Index(
        "uq_payments_wallet_id_open_auto",
        "wallet_id",
        unique=True,
        postgresql_where=text("kind = 'auto' AND status = 'open'"),
    ),
)

payment_postings = Table(
    "payment_postings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, ForeignKey(payments.c.id), nullable=False, index=True),
    Column("cause", Text, nullable=False),
    Column("stripe_id", Text),
    _created_at(),
)

refund_requests = Table(
    "refund_requests",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("payment_id", Uuid, ForeignKey(payments.c.id), nullable=False, index=True),
    Column("amount_micros", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'requested'")),
    Column("failure", Text),
    _created_at(),
)

refunds = Table(
    "refunds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("payment_intent_id", Text, nullable=False, index=True),
    Column("request_id", Uuid),
    Column("amount_micros", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    _created_at(),
)

disputes = Table(
    "disputes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("payment_intent_id", Text, nullable=False, index=True),
    Column("charge_id", Text),
    Column("amount_micros", BigInteger, nullable=False),
    _micros("withdrawn_micros"),
    _micros("reinstated_micros"),
    Column("reason", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("status_at", DateTime(timezone=True), nullable=False),
    _created_at(),
)

stripe_events = Table(
    "stripe_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("api_version", Text),
    Column("payload", JSONB, nullable=False),
    Column("outcome", Text),
    Column("stripe_created_at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp(), index=True),
)

stripe_balance_transactions = Table(
    "stripe_balance_transactions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("stripe_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("source_id", Text),
    Column("payment_intent_id", Text, index=True),
    Column("amount_micros", BigInteger, nullable=False),
    Column("fee_micros", BigInteger, nullable=False),
    Column("posted", Boolean, nullable=False),
    Column("stripe_created_at", DateTime(timezone=True), nullable=False),
    _created_at(),
    UniqueConstraint("stripe_id"),
)

auto_top_ups = Table(
    "auto_top_ups",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("wallet_id", BigInteger, ForeignKey(wallets.c.id), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("threshold_micros", BigInteger, nullable=False),
    Column("amount_micros", BigInteger),
    Column("target_micros", BigInteger),
    Column("monthly_ceiling_micros", BigInteger, nullable=False),
    Column("declines", Integer, nullable=False, server_default=text("0")),
    Column("paused_reason", Text),
    Column("next_attempt_at", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)

_SOMETHING_LEFT: Final = text("remaining_micros > 0")

credit_lots = Table(
    "credit_lots",
    metadata,
    Column("grant_id", Uuid, ForeignKey(grants.c.id), primary_key=True),
    Column("wallet_id", BigInteger, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("remaining_micros", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    _created_at(),
    Index("ix_credit_lots_wallet_id_open", "wallet_id", postgresql_where=_SOMETHING_LEFT),
    Index("ix_credit_lots_expires_at_open", "expires_at", postgresql_where=_SOMETHING_LEFT),
)

credit_attributions = Table(
    "credit_attributions",
    metadata,
    Column("wallet_id", BigInteger, ForeignKey(wallets.c.id), primary_key=True, autoincrement=False),
    Column("through_entry_id", BigInteger, nullable=False, server_default=text("0")),
    Column("attributed_at", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'"), index=True),
)

credit_expiries = Table(
    "credit_expiries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("grant_id", Uuid, ForeignKey(credit_lots.c.grant_id), nullable=False, index=True),
    Column("amount_micros", BigInteger, nullable=False),
    _created_at(),
)

notices = Table(
    "notices",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("owner_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    _created_at(),
    Column("delivered_at", DateTime(timezone=True)),
    Index("ix_notices_owner_id_id", "owner_id", "id"),
    Index("ix_notices_undelivered", "id", postgresql_where=text("delivered_at IS NULL")),
)

balance_snapshots = Table(
    "balance_snapshots",
    metadata,
    Column("wallet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("through_entry_id", BigInteger, nullable=False),
    Column("balance_micros", BigInteger, nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)
