-- Payments by card. Like all of the books, written only through the functions of 0004_payments_functions.sql and
-- 0004_payments_auto_top_up.sql.

INSERT INTO billing.accounts (id, kind) VALUES
    (20, 'stripe_clearing'),
    (21, 'platform_fee'),
    (22, 'refund_clearing'),
    (23, 'dispute_reserve'),
    (24, 'chargeback_loss'),
    (25, 'stripe_fees'),
    (26, 'bank');

-- owed_micros is what was taken back after it had been spent; its entries are on the owner's account `receivable`.
-- frozen stays what the hot path reads: the operator's wish or an open dispute.
ALTER TABLE billing.wallets
    ADD COLUMN owed_micros bigint NOT NULL DEFAULT 0,
    ADD COLUMN frozen_by_operator boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT ck_wallets_owed_not_negative CHECK (owed_micros >= 0);
UPDATE billing.wallets SET frozen_by_operator = frozen WHERE frozen;

CREATE TABLE billing.stripe_customers (
    owner_id uuid CONSTRAINT pk_stripe_customers PRIMARY KEY,
    customer_id text NOT NULL CONSTRAINT uq_stripe_customers_customer_id UNIQUE,
    payment_method_id text,
    card_brand text,
    card_last4 text,
    card_saved_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row per attempt to pay, made before Stripe is asked. The id is Stripe's idempotency key, the entry's reference
-- and what Stripe's objects carry as metadata. The micros after `paid_at` are what has been posted so far.
CREATE TABLE billing.payments (
    id uuid CONSTRAINT pk_payments PRIMARY KEY,
    owner_id uuid NOT NULL,
    wallet_id bigint NOT NULL CONSTRAINT fk_payments_wallet_id REFERENCES billing.wallets (id),
    kind text NOT NULL,
    status text NOT NULL DEFAULT 'open',
    credit_micros bigint NOT NULL,
    fee_micros bigint NOT NULL,
    save_card boolean NOT NULL DEFAULT false,
    client_reference text,
    checkout_session_id text CONSTRAINT uq_payments_checkout_session_id UNIQUE,
    checkout_url text,
    expires_at timestamptz NOT NULL,
    payment_method_id text,
    payment_intent_id text CONSTRAINT uq_payments_payment_intent_id UNIQUE,
    charge_id text CONSTRAINT uq_payments_charge_id UNIQUE,
    receipt_url text,
    failure_code text,
    failure_message text,
    mismatch text,
    paid_at timestamptz,
    credited_micros bigint NOT NULL DEFAULT 0,
    refund_credit_micros bigint NOT NULL DEFAULT 0,
    refund_fee_micros bigint NOT NULL DEFAULT 0,
    dispute_credit_micros bigint NOT NULL DEFAULT 0,
    dispute_fee_micros bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT uq_payments_owner_id_client_reference UNIQUE (owner_id, client_reference),
    CONSTRAINT ck_payments_kind CHECK (kind IN ('checkout', 'auto')),
    CONSTRAINT ck_payments_status CHECK (status IN ('open', 'paid', 'expired', 'failed', 'canceled')),
    CONSTRAINT ck_payments_paid CHECK ((status = 'paid') = (paid_at IS NOT NULL)),
    CONSTRAINT ck_payments_whole_cents CHECK (
        credit_micros > 0 AND fee_micros >= 0 AND credit_micros % 10000 = 0 AND fee_micros % 10000 = 0
    ),
    CONSTRAINT ck_payments_credited_once CHECK (credited_micros IN (0, credit_micros)),
    CONSTRAINT ck_payments_taken_back CHECK (
        refund_credit_micros >= 0 AND refund_fee_micros >= 0
        AND dispute_credit_micros >= 0 AND dispute_fee_micros >= 0
        AND refund_credit_micros + dispute_credit_micros <= credited_micros
        AND refund_fee_micros + dispute_fee_micros <= fee_micros
    )
);
CREATE INDEX ix_payments_owner_id_id ON billing.payments (owner_id, id);
CREATE INDEX ix_payments_wallet_id ON billing.payments (wallet_id);
CREATE INDEX ix_payments_open ON billing.payments (expires_at) WHERE status = 'open';
-- The last line against charging a card twice for one crossing.
CREATE UNIQUE INDEX uq_payments_wallet_id_open_auto ON billing.payments (wallet_id)
    WHERE kind = 'auto' AND status = 'open';

-- Each time money moved because of a payment; its id is the reference of the entries. The first has the payment's id.
CREATE TABLE billing.payment_postings (
    id uuid CONSTRAINT pk_payment_postings PRIMARY KEY,
    payment_id uuid NOT NULL CONSTRAINT fk_payment_postings_payment_id REFERENCES billing.payments (id),
    cause text NOT NULL,
    stripe_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_payment_postings_cause CHECK (cause IN ('paid', 'refund', 'dispute'))
);
CREATE INDEX ix_payment_postings_payment_id ON billing.payment_postings (payment_id);

-- What the operator asked Stripe to refund, written before Stripe is asked.
CREATE TABLE billing.refund_requests (
    id uuid CONSTRAINT pk_refund_requests PRIMARY KEY,
    payment_id uuid NOT NULL CONSTRAINT fk_refund_requests_payment_id REFERENCES billing.payments (id),
    amount_micros bigint NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    status text NOT NULL DEFAULT 'requested',
    failure text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_refund_requests_amount_positive CHECK (amount_micros > 0 AND amount_micros % 10000 = 0),
    CONSTRAINT ck_refund_requests_status CHECK (status IN ('requested', 'made', 'rejected'))
);
CREATE INDEX ix_refund_requests_payment_id ON billing.refund_requests (payment_id);

-- Refunds and disputes as Stripe tells of them, in whatever order: each row only ever moves forward.
CREATE TABLE billing.refunds (
    id text CONSTRAINT pk_refunds PRIMARY KEY,
    payment_intent_id text NOT NULL,
    request_id uuid,
    amount_micros bigint NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_refunds_amount_positive CHECK (amount_micros > 0),
    CONSTRAINT ck_refunds_status CHECK (
        status IN ('pending', 'requires_action', 'succeeded', 'failed', 'canceled')
    )
);
CREATE INDEX ix_refunds_payment_intent_id ON billing.refunds (payment_intent_id);

CREATE TABLE billing.disputes (
    id text CONSTRAINT pk_disputes PRIMARY KEY,
    payment_intent_id text NOT NULL,
    charge_id text,
    amount_micros bigint NOT NULL,
    withdrawn_micros bigint NOT NULL DEFAULT 0,
    reinstated_micros bigint NOT NULL DEFAULT 0,
    reason text NOT NULL,
    status text NOT NULL,
    closed boolean NOT NULL,
    status_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_disputes_amounts CHECK (amount_micros > 0 AND withdrawn_micros >= 0 AND reinstated_micros >= 0)
);
CREATE INDEX ix_disputes_payment_intent_id ON billing.disputes (payment_intent_id);

-- Every webhook event, once. A row is written in the transaction that applies the event, so a row means: applied.
CREATE TABLE billing.stripe_events (
    id text CONSTRAINT pk_stripe_events PRIMARY KEY,
    type text NOT NULL,
    api_version text,
    payload jsonb NOT NULL,
    outcome text,
    stripe_created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ix_stripe_events_received_at ON billing.stripe_events (received_at);

-- Stripe's own account of what moved, against which stripe_clearing is proved. `id` is the reference of the entries.
CREATE TABLE billing.stripe_balance_transactions (
    id uuid CONSTRAINT pk_stripe_balance_transactions PRIMARY KEY,
    stripe_id text NOT NULL CONSTRAINT uq_stripe_balance_transactions_stripe_id UNIQUE,
    type text NOT NULL,
    source_id text,
    payment_intent_id text,
    amount_micros bigint NOT NULL,
    fee_micros bigint NOT NULL,
    posted boolean NOT NULL,
    stripe_created_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ix_stripe_balance_transactions_payment_intent_id
    ON billing.stripe_balance_transactions (payment_intent_id);

CREATE TABLE billing.auto_top_ups (
    owner_id uuid CONSTRAINT pk_auto_top_ups PRIMARY KEY,
    wallet_id bigint NOT NULL CONSTRAINT fk_auto_top_ups_wallet_id REFERENCES billing.wallets (id),
    enabled boolean NOT NULL,
    threshold_micros bigint NOT NULL,
    amount_micros bigint,
    target_micros bigint,
    monthly_ceiling_micros bigint NOT NULL,
    declines integer NOT NULL DEFAULT 0,
    paused_reason text,
    next_attempt_at timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_auto_top_ups_amount_or_target CHECK ((amount_micros IS NULL) <> (target_micros IS NULL)),
    CONSTRAINT ck_auto_top_ups_amounts CHECK (
        threshold_micros > 0 AND monthly_ceiling_micros > 0
        AND (amount_micros IS NULL OR amount_micros >= threshold_micros)
        AND (target_micros IS NULL OR target_micros > threshold_micros)
    )
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing.payment_postings
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing.stripe_balance_transactions
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER kept BEFORE DELETE ON billing.payments
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER price_fixed BEFORE UPDATE OF id, owner_id, wallet_id, kind, credit_micros, fee_micros
    ON billing.payments FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON billing.payments EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON billing.payment_postings EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON billing.refunds EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON billing.disputes EXECUTE FUNCTION billing.refuse_change();
