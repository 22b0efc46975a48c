-- Promotional credit is spent before paid credit, and what ends first is spent first. Calls know nothing of this: what
-- they spent is attributed to the lots afterwards. Between two changes of a wallet's set of lots the order of spending
-- does not matter, so lots are brought up to date only when one is added or ends, and now and then to keep that short.

-- The wallet's lots that have something left, with what of it is left now. With R left before an entry, a charge of
-- `spent` and the balance after it, max(0, min(R - spent, balance)) is left: money that was taken back in any other
-- way is paid money first. Folded over all entries that is the smallest of the terms below.
CREATE FUNCTION billing.lots_now(p_wallet_id bigint)
RETURNS TABLE (
    grant_id uuid, amount_micros bigint, remaining_micros bigint, expires_at timestamptz, through_entry_id bigint
)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH lots AS (
        SELECT lot.*,
            sum(lot.remaining_micros) OVER (ORDER BY lot.expires_at NULLS LAST, lot.grant_id) AS reach_micros,
            sum(lot.remaining_micros) OVER () AS total_micros
        FROM billing.credit_lots lot WHERE lot.wallet_id = p_wallet_id AND lot.remaining_micros > 0
    ),
    entries AS (
        SELECT entry.id, entry.wallet_balance_micros,
            sum(CASE entry.kind WHEN 'usage' THEN entry.amount_micros ELSE 0 END) OVER (ORDER BY entry.id DESC)
                AS spent_from_here,
            CASE entry.kind WHEN 'usage' THEN entry.amount_micros ELSE 0 END AS spent
        FROM billing.ledger_entries entry
        WHERE entry.wallet_id = p_wallet_id AND entry.id > (
            SELECT attribution.through_entry_id FROM billing.credit_attributions attribution
            WHERE attribution.wallet_id = p_wallet_id)
            AND EXISTS (SELECT FROM lots)
    ),
    since AS (
        SELECT max(entries.id) AS last_id, coalesce(sum(entries.spent), 0) AS spent,
            min(entries.wallet_balance_micros - (entries.spent_from_here - entries.spent)) AS at_most
        FROM entries
    )
    SELECT lots.grant_id, lots.amount_micros,
        greatest(0, least(lots.remaining_micros, lots.reach_micros - greatest(
            since.spent, lots.total_micros - greatest(0, coalesce(since.at_most, lots.total_micros)))))::bigint,
        lots.expires_at, since.last_id
    FROM lots CROSS JOIN since
$$;

-- Bring the wallet's lots up to date. Holds their lock until the transaction ends; needs no lock of the wallet.
CREATE FUNCTION billing.attribute_credit(p_wallet_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    PERFORM FROM billing.credit_attributions attribution WHERE attribution.wallet_id = p_wallet_id FOR UPDATE;
    WITH present AS MATERIALIZED (
        SELECT * FROM billing.lots_now(p_wallet_id)
    ),
    attributed AS (
        UPDATE billing.credit_lots lot SET remaining_micros = present.remaining_micros
            FROM present
            WHERE lot.grant_id = present.grant_id AND lot.remaining_micros <> present.remaining_micros
    )
    UPDATE billing.credit_attributions attribution SET
        through_entry_id = greatest(attribution.through_entry_id, (SELECT max(through_entry_id) FROM present)),
        attributed_at = clock_timestamp()
        WHERE attribution.wallet_id = p_wallet_id;
END
$$;

-- A grant of promotional credit and its lot, once per reference.
CREATE FUNCTION billing.grant_credit(
    p_grant_id uuid,
    p_owner_id uuid,
    p_amount bigint,
    p_reference text,
    p_reason text,
    p_actor text,
    p_expires_at timestamptz,
    OUT outcome text,
    OUT balance_micros bigint,
    OUT held_micros bigint,
    OUT frozen boolean
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    owners_wallet_id bigint;
    answer record;
BEGIN
    SELECT wallet.id INTO owners_wallet_id FROM billing.wallets wallet WHERE wallet.owner_id = p_owner_id;
    IF owners_wallet_id IS NOT NULL THEN
        INSERT INTO billing.credit_attributions (wallet_id) VALUES (owners_wallet_id)
            ON CONFLICT (wallet_id) DO NOTHING;
        PERFORM FROM billing.credit_attributions attribution
            WHERE attribution.wallet_id = owners_wallet_id FOR UPDATE;
    END IF;
    answer := billing.credit_wallet(
        p_grant_id, p_owner_id, 'promotional', p_amount, p_reference, p_reason, p_actor);
    outcome := answer.outcome;
    balance_micros := answer.balance_micros;
    held_micros := answer.held_micros;
    frozen := answer.frozen;
    IF outcome = 'credited' THEN
        PERFORM billing.attribute_credit(owners_wallet_id);
        -- earlier entries have nothing to do with this lot, also where there was no other one to attribute them to
        UPDATE billing.credit_attributions attribution
            SET through_entry_id = (
                SELECT max(entry.id) FROM billing.ledger_entries entry WHERE entry.wallet_id = owners_wallet_id)
            WHERE attribution.wallet_id = owners_wallet_id;
        INSERT INTO billing.credit_lots (grant_id, wallet_id, amount_micros, remaining_micros, expires_at)
            VALUES (p_grant_id, owners_wallet_id, p_amount, p_amount, p_expires_at);
    ELSIF outcome = 'replayed' AND NOT EXISTS (
        SELECT FROM billing.grants granted JOIN billing.credit_lots lot ON lot.grant_id = granted.id
        WHERE granted.wallet_id = owners_wallet_id AND granted.reference = p_reference
            AND lot.expires_at IS NOT DISTINCT FROM p_expires_at
    ) THEN
        outcome := 'conflict';
    END IF;
END
$$;

-- End the lots that are due, of at most p_limit wallets: what is left of them goes to breakage. Money that open holds
-- reserve is not taken; if it comes back later, the next call of this takes it then.
CREATE FUNCTION billing.expire_credit(p_limit integer)
RETURNS TABLE (grant_id uuid, owner_id uuid, amount_micros bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    due_ids bigint[];
    due_id bigint;
    wallet billing.wallets;
    lot record;
    free bigint;
    amount bigint;
    expiry_id uuid;
BEGIN
    due_ids := ARRAY(
        SELECT attribution.wallet_id FROM billing.credit_attributions attribution
        WHERE EXISTS (
            SELECT FROM billing.credit_lots x
            WHERE x.wallet_id = attribution.wallet_id AND x.remaining_micros > 0 AND x.expires_at <= now())
        ORDER BY attribution.attributed_at LIMIT p_limit);
    due_ids := ARRAY(SELECT id FROM unnest(due_ids) AS x (id) ORDER BY id);
    FOREACH due_id IN ARRAY due_ids LOOP -- the long part, while calls go on
        PERFORM billing.attribute_credit(due_id);
    END LOOP;
    FOREACH due_id IN ARRAY due_ids LOOP
        SELECT * INTO STRICT wallet FROM billing.wallets x WHERE x.id = due_id FOR NO KEY UPDATE;
        PERFORM billing.attribute_credit(due_id);
        free := wallet.balance_micros - wallet.held_micros;
        FOR lot IN
            SELECT x.grant_id, x.remaining_micros FROM billing.credit_lots x
            WHERE x.wallet_id = due_id AND x.remaining_micros > 0 AND x.expires_at <= now()
            ORDER BY x.expires_at, x.grant_id
        LOOP
            amount := least(lot.remaining_micros, free);
            EXIT WHEN amount = 0;
            free := free - amount;
            expiry_id := gen_random_uuid();
            INSERT INTO billing.credit_expiries (id, grant_id, amount_micros)
                VALUES (expiry_id, lot.grant_id, amount);
            PERFORM billing.post_to_wallet(due_id, 10, -amount, 'breakage', expiry_id); -- account 10 is breakage
            UPDATE billing.credit_lots x SET remaining_micros = x.remaining_micros - amount
                WHERE x.grant_id = lot.grant_id;
            INSERT INTO billing.notices (owner_id, kind, details) VALUES (
                wallet.owner_id, 'credit_expired',
                jsonb_build_object('amount_micros', amount, 'grant_id', lot.grant_id));
            grant_id := lot.grant_id;
            owner_id := wallet.owner_id;
            amount_micros := amount;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$$;

-- Bring the lots of at most p_limit wallets up to date that have not been for p_age; returns how many.
CREATE FUNCTION billing.attribute_stale_credit(p_age interval, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stale_ids bigint[];
    stale_id bigint;
BEGIN
    stale_ids := ARRAY(
        SELECT attribution.wallet_id FROM billing.credit_attributions attribution
        WHERE attribution.attributed_at < now() - p_age AND EXISTS (
            SELECT FROM billing.credit_lots lot
            WHERE lot.wallet_id = attribution.wallet_id AND lot.remaining_micros > 0)
        ORDER BY attribution.attributed_at LIMIT p_limit);
    stale_ids := ARRAY(SELECT id FROM unnest(stale_ids) AS x (id) ORDER BY id);
    FOREACH stale_id IN ARRAY stale_ids LOOP
        PERFORM billing.attribute_credit(stale_id);
    END LOOP;
    RETURN cardinality(stale_ids);
END
$$;

CREATE FUNCTION billing.promotional_credit(p_owner_id uuid)
RETURNS TABLE (grant_id uuid, amount_micros bigint, remaining_micros bigint, expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT lot.grant_id, lot.amount_micros, lot.remaining_micros, lot.expires_at
    FROM billing.wallets wallet CROSS JOIN LATERAL billing.lots_now(wallet.id) lot
    WHERE wallet.owner_id = p_owner_id AND lot.remaining_micros > 0
    ORDER BY lot.expires_at NULLS LAST, lot.grant_id
$$;

-- Runs inside whatever changes a wallet, so the notice is committed with the hold that crossed the line. Money that a
-- hold gives back does not arm it again: only money that comes in does.
CREATE FUNCTION billing.notice_low_balance() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.low_balance_noticed := NOT NEW.low_balance_noticed;
    IF NEW.low_balance_noticed THEN
        INSERT INTO billing.notices (owner_id, kind, details) VALUES (
            NEW.owner_id, 'low_balance',
            jsonb_build_object(
                'available_micros', NEW.balance_micros - NEW.held_micros,
                'threshold_micros', NEW.low_balance_micros));
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER low_balance BEFORE UPDATE OF balance_micros, held_micros ON billing.wallets
    FOR EACH ROW WHEN (
        (NOT NEW.low_balance_noticed
            AND NEW.balance_micros - NEW.held_micros < NEW.low_balance_micros
            AND NEW.balance_micros - NEW.held_micros < OLD.balance_micros - OLD.held_micros)
        OR (NEW.low_balance_noticed
            AND NEW.balance_micros - NEW.held_micros >= NEW.low_balance_micros
            AND NEW.balance_micros > OLD.balance_micros))
    EXECUTE FUNCTION billing.notice_low_balance();

CREATE FUNCTION billing.set_low_balance(p_owner_id uuid, p_micros bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    UPDATE billing.wallets SET low_balance_micros = p_micros, low_balance_noticed = false
        WHERE owner_id = p_owner_id;
    RETURN FOUND;
END
$$;

-- Take notices that nobody has taken, oldest first. Whoever takes them delivers them before the commit, so one that
-- is delivered may be delivered again after a crash, and none is lost.
CREATE FUNCTION billing.take_notices(p_limit integer) RETURNS SETOF billing.notices
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE billing.notices notice SET delivered_at = clock_timestamp()
        WHERE notice.id IN (
            SELECT x.id FROM billing.notices x WHERE x.delivered_at IS NULL
            ORDER BY x.id LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING notice.*
$$;

-- Snapshots of the wallets that have had at least p_entries entries since their last; returns how many were taken.
CREATE FUNCTION billing.take_balance_snapshots(p_entries bigint, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    taken integer;
BEGIN
    INSERT INTO billing.balance_snapshots AS snapshot (wallet_id, through_entry_id, balance_micros)
        SELECT wallet.id, since.last_id, coalesce(earlier.balance_micros, 0) + since.total
        FROM billing.wallets wallet
        LEFT JOIN billing.balance_snapshots earlier ON earlier.wallet_id = wallet.id
        CROSS JOIN LATERAL (
            SELECT max(entry.id) AS last_id, count(*) AS entries, sum(
                CASE WHEN entry.credit_account_id = wallet.id THEN entry.amount_micros ELSE -entry.amount_micros END
            ) AS total
            FROM billing.ledger_entries entry
            WHERE entry.wallet_id = wallet.id AND entry.id > coalesce(earlier.through_entry_id, 0)
        ) since
        WHERE since.entries >= p_entries
        ORDER BY wallet.id LIMIT p_limit
        ON CONFLICT (wallet_id) DO UPDATE SET through_entry_id = excluded.through_entry_id,
            balance_micros = excluded.balance_micros, taken_at = excluded.taken_at
            WHERE excluded.through_entry_id > snapshot.through_entry_id;
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN taken;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing FROM PUBLIC;
DO $$
BEGIN
    GRANT SELECT ON ALL TABLES IN SCHEMA billing TO gateway_app;
    GRANT EXECUTE ON FUNCTION
        billing.grant_credit, billing.expire_credit, billing.attribute_stale_credit, billing.promotional_credit,
        billing.set_low_balance, billing.take_notices, billing.take_balance_snapshots
        TO gateway_app;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
