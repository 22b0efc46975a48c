-- Promotional credit that ends, notices, and snapshots to audit from. All of it lies beside the hot path: calls only
-- move the wallet's one balance, and what of it was promotional follows from the entries.

INSERT INTO billing.accounts (id, kind) VALUES (10, 'breakage');

-- Below low_balance_micros of free money the owner is told, once until money comes in again. 0: never.
ALTER TABLE billing.wallets
    ADD COLUMN low_balance_micros bigint NOT NULL DEFAULT 1000000,
    ADD COLUMN low_balance_noticed boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT ck_wallets_low_balance_not_negative CHECK (low_balance_micros >= 0);

-- What is left of each promotional grant as of the entry `through_entry_id` of its wallet. NULL: never ends.
CREATE TABLE billing.credit_lots (
    grant_id uuid CONSTRAINT pk_credit_lots PRIMARY KEY
        CONSTRAINT fk_credit_lots_grant_id REFERENCES billing.grants (id),
    wallet_id bigint NOT NULL,
    amount_micros bigint NOT NULL,
    remaining_micros bigint NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_credit_lots_remaining CHECK (remaining_micros BETWEEN 0 AND amount_micros)
);
CREATE INDEX ix_credit_lots_wallet_id_open ON billing.credit_lots (wallet_id) WHERE remaining_micros > 0;
CREATE INDEX ix_credit_lots_expires_at_open ON billing.credit_lots (expires_at) WHERE remaining_micros > 0;

-- Its row is the lock of a wallet's lots; it is taken before the wallet's own.
CREATE TABLE billing.credit_attributions (
    wallet_id bigint CONSTRAINT pk_credit_attributions PRIMARY KEY
        CONSTRAINT fk_credit_attributions_wallet_id REFERENCES billing.wallets (id),
    through_entry_id bigint NOT NULL DEFAULT 0,
    attributed_at timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX ix_credit_attributions_attributed_at ON billing.credit_attributions (attributed_at);

-- Each time credit ended unused; its id is the reference of the entry. A lot may end in parts, as holds let go of it.
CREATE TABLE billing.credit_expiries (
    id uuid CONSTRAINT pk_credit_expiries PRIMARY KEY,
    grant_id uuid NOT NULL CONSTRAINT fk_credit_expiries_grant_id REFERENCES billing.credit_lots (grant_id),
    amount_micros bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT ck_credit_expiries_amount_positive CHECK (amount_micros > 0)
);
CREATE INDEX ix_credit_expiries_grant_id ON billing.credit_expiries (grant_id);

-- What owners should hear, written in the transaction that it tells of.
CREATE TABLE billing.notices (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_notices PRIMARY KEY,
    owner_id uuid NOT NULL,
    kind text NOT NULL,
    details jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz
);
CREATE INDEX ix_notices_owner_id_id ON billing.notices (owner_id, id);
CREATE INDEX ix_notices_undelivered ON billing.notices (id) WHERE delivered_at IS NULL;

-- A wallet's balance after one of its entries, summed from the entries before it: where an audit may start. Entry ids
-- of one wallet are given out under its lock, so no entry below the highest visible one can appear later.
CREATE TABLE billing.balance_snapshots (
    wallet_id bigint CONSTRAINT pk_balance_snapshots PRIMARY KEY,
    through_entry_id bigint NOT NULL,
    balance_micros bigint NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Reports by month read few pages: entries are appended in the order of their time.
CREATE INDEX ix_ledger_entries_created_at ON billing.ledger_entries USING brin (created_at);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing.credit_expiries
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER kept BEFORE DELETE ON billing.credit_lots
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER lot_fixed BEFORE UPDATE OF grant_id, wallet_id, amount_micros, expires_at ON billing.credit_lots
    FOR EACH ROW EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON billing.credit_lots EXECUTE FUNCTION billing.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON billing.credit_expiries EXECUTE FUNCTION billing.refuse_change();

-- Promotional grants of before this migration never end. What calls have spent so far came out of them first.
INSERT INTO billing.credit_attributions (wallet_id, through_entry_id)
    SELECT granted.wallet_id,
        (SELECT max(entry.id) FROM billing.ledger_entries entry WHERE entry.wallet_id = granted.wallet_id)
    FROM billing.grants granted WHERE granted.kind = 'promotional' GROUP BY granted.wallet_id;
INSERT INTO billing.credit_lots (grant_id, wallet_id, amount_micros, remaining_micros)
    SELECT lot.id, lot.wallet_id, lot.amount_micros,
        least(lot.amount_micros, greatest(0, lot.through_micros - greatest(
            lot.total_micros - wallet.balance_micros,
            coalesce((SELECT sum(entry.amount_micros) FROM billing.ledger_entries entry
                WHERE entry.wallet_id = lot.wallet_id AND entry.kind = 'usage'), 0))))
    FROM (
        SELECT granted.*,
            sum(granted.amount_micros) OVER (PARTITION BY granted.wallet_id ORDER BY granted.created_at, granted.id)
                AS through_micros,
            sum(granted.amount_micros) OVER (PARTITION BY granted.wallet_id) AS total_micros
        FROM billing.grants granted WHERE granted.kind = 'promotional'
    ) lot
    JOIN billing.wallets wallet ON wallet.id = lot.wallet_id;
