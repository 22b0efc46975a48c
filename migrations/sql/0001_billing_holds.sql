-- Place, capture, release and expire holds, many at once. All arrays have one element per operation.
--
-- Order matters and is why this is several statements: under READ COMMITTED each statement takes a new snapshot, so
-- what is read after the wallets are locked includes everything that earlier lock holders committed. A single
-- statement of data-modifying CTEs would read the state from before the lock. Wallets are locked in the order of
-- their ids by everyone, so two batches cannot deadlock; NO KEY leaves foreign-key checks alone.
--
-- The planner switches keep every look-up an index probe: a plan made while these tables were still empty would
-- otherwise be cached as a scan or a hash join.
CREATE FUNCTION billing.apply_operations(
    p_actions text[],
    p_hold_ids uuid[],
    p_owner_ids uuid[],
    p_amounts bigint[],
    p_expires_at timestamptz[],
    p_key_ids uuid[],
    p_period_starts timestamptz[],
    p_caps bigint[],
    p_reasons text[],
    OUT outcomes text[],
    OUT available_micros bigint[],
    OUT key_spent_micros bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    size constant integer := cardinality(p_actions);
    no_money constant bigint[] := array_fill(NULL::bigint, ARRAY[size]);
    -- running state, one element per wallet and per key of this batch
    wallet_ids bigint[] := no_money;
    balances bigint[] := no_money;
    helds bigint[] := no_money;
    key_wallet_ids bigint[] := no_money;
    key_ids uuid[] := array_fill(NULL::uuid, ARRAY[size]);
    key_periods timestamptz[] := array_fill(NULL::timestamptz, ARRAY[size]);
    key_spents bigint[] := no_money;
    key_helds bigint[] := no_money;
    key_caps bigint[] := no_money;
    key_changed boolean[] := array_fill(false, ARRAY[size]);
    -- facts of the writes, one element per operation
    write_wallet_ids bigint[] := no_money;
    write_amounts bigint[] := no_money;
    write_balances bigint[] := no_money;
    write_key_ids uuid[] := array_fill(NULL::uuid, ARRAY[size]);
    write_periods timestamptz[] := array_fill(NULL::timestamptz, ARRAY[size]);
    op record;
    w integer;
    k integer;
    outcome text;
    amount bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'billing.apply_operations needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    outcomes := array_fill(NULL::text, ARRAY[size]);
    available_micros := no_money;
    key_spent_micros := no_money;

    PERFORM wallet.id FROM billing.wallets wallet
        WHERE wallet.owner_id = ANY (p_owner_ids) ORDER BY wallet.id FOR NO KEY UPDATE;

    FOR op IN
        WITH facts AS (
            SELECT
                o.position::integer AS position, o.action, o.amount, o.cap,
                wallet.id AS wallet_id, wallet.balance_micros, wallet.held_micros, wallet.frozen,
                hold.id AS open_id, hold.wallet_id AS hold_wallet_id, hold.amount_micros AS hold_amount,
                released.cause, released.wallet_id AS released_wallet_id,
                released.amount_micros AS released_amount,
                entry.kind AS entry_kind, entry.amount_micros AS entry_amount, entry.wallet_id AS entry_wallet_id,
                CASE o.action WHEN 'place' THEN o.key_id ELSE coalesce(hold.key_id, released.key_id) END AS key_id,
                CASE o.action WHEN 'place' THEN o.period_start
                    ELSE coalesce(hold.period_start, released.period_start) END AS period_start
            FROM unnest(p_actions, p_hold_ids, p_owner_ids, p_amounts, p_key_ids, p_period_starts, p_caps)
                WITH ORDINALITY
                AS o (action, hold_id, owner_id, amount, key_id, period_start, cap, position)
            LEFT JOIN LATERAL (
                SELECT * FROM billing.wallets x WHERE x.owner_id = o.owner_id LIMIT 1
            ) wallet ON true
            LEFT JOIN LATERAL (
                SELECT * FROM billing.holds x WHERE x.id = o.hold_id LIMIT 1
            ) hold ON true
            LEFT JOIN LATERAL (
                SELECT * FROM billing.hold_releases x
                WHERE hold.id IS NULL AND x.hold_id = o.hold_id LIMIT 1
            ) released ON true
            LEFT JOIN LATERAL (
                SELECT * FROM billing.ledger_entries x
                WHERE hold.id IS NULL AND x.reference = o.hold_id AND x.kind IN ('usage', 'writeoff') LIMIT 1
            ) entry ON true
        )
        SELECT facts.*, spend.spent_micros AS key_spent, spend.held_micros AS key_held, spend.cap_micros AS key_cap,
            dense_rank() OVER (ORDER BY facts.wallet_id)::integer AS wallet_slot,
            dense_rank() OVER (ORDER BY facts.wallet_id, facts.key_id, facts.period_start)::integer AS key_slot
        FROM facts
        LEFT JOIN LATERAL (
            SELECT * FROM billing.key_spend x
            WHERE x.wallet_id = facts.wallet_id AND x.key_id = facts.key_id
                AND x.period_start = facts.period_start
            LIMIT 1
        ) spend ON true
        ORDER BY facts.action = 'place', facts.position
    LOOP
        IF op.wallet_id IS NULL THEN
            outcomes[op.position] := 'wallet_unknown';
            CONTINUE;
        END IF;
        w := op.wallet_slot;
        IF wallet_ids[w] IS NULL THEN
            wallet_ids[w] := op.wallet_id;
            balances[w] := op.balance_micros;
            helds[w] := op.held_micros;
        END IF;
        k := NULL;
        IF op.key_id IS NOT NULL THEN
            k := op.key_slot;
            IF key_ids[k] IS NULL THEN
                key_wallet_ids[k] := op.wallet_id;
                key_ids[k] := op.key_id;
                key_periods[k] := op.period_start;
                key_spents[k] := coalesce(op.key_spent, 0);
                key_helds[k] := coalesce(op.key_held, 0);
                key_caps[k] := op.key_cap;
            END IF;
        END IF;
        amount := op.amount;

        IF op.hold_wallet_id <> op.wallet_id OR op.released_wallet_id <> op.wallet_id
            OR op.entry_wallet_id <> op.wallet_id THEN
            outcome := 'conflict';

        ELSIF op.action = 'place' THEN
            IF op.open_id IS NOT NULL THEN
                outcome := CASE WHEN op.hold_amount = amount THEN 'replayed' ELSE 'conflict' END;
            ELSIF op.cause IS NOT NULL OR op.entry_kind IS NOT NULL THEN
                outcome := 'resolved_differently';
            ELSIF op.frozen THEN
                outcome := 'frozen';
            ELSIF balances[w] - helds[w] < amount THEN
                outcome := 'insufficient';
            ELSIF k IS NOT NULL AND key_spents[k] + key_helds[k] + amount > op.cap THEN
                outcome := 'cap_reached';
            ELSE
                outcome := 'placed';
                helds[w] := helds[w] + amount;
                IF k IS NOT NULL THEN
                    key_helds[k] := key_helds[k] + amount;
                    key_caps[k] := op.cap;
                    key_changed[k] := true;
                END IF;
            END IF;

        ELSIF op.action = 'capture' THEN
            IF op.entry_kind IS NOT NULL THEN
                outcome := CASE
                    WHEN op.entry_amount <> amount THEN 'resolved_differently'
                    WHEN op.entry_kind = 'writeoff' THEN 'written_off'
                    ELSE 'replayed' END;
                amount := NULL;
            ELSIF op.open_id IS NOT NULL THEN
                IF amount > op.hold_amount THEN
                    outcome := 'conflict';
                ELSE
                    outcome := 'captured';
                    balances[w] := balances[w] - amount;
                    helds[w] := helds[w] - op.hold_amount;
                    IF k IS NOT NULL THEN
                        key_spents[k] := key_spents[k] + amount;
                        key_helds[k] := key_helds[k] - op.hold_amount;
                        key_changed[k] := true;
                    END IF;
                END IF;
            ELSIF op.cause = 'expired' THEN
                IF amount > op.released_amount THEN
                    outcome := 'conflict';
                ELSIF balances[w] - helds[w] < amount
                    OR (k IS NOT NULL AND key_spents[k] + key_helds[k] + amount > key_caps[k]) THEN
                    outcome := 'written_off';
                ELSE
                    outcome := 'captured_late';
                    balances[w] := balances[w] - amount;
                    IF k IS NOT NULL THEN
                        key_spents[k] := key_spents[k] + amount;
                        key_changed[k] := true;
                    END IF;
                END IF;
            ELSIF op.cause IS NOT NULL THEN
                outcome := 'resolved_differently';
            ELSE
                outcome := 'unknown';
            END IF;

        ELSE -- release or expire
            amount := op.hold_amount;
            IF op.open_id IS NOT NULL THEN
                outcome := CASE op.action WHEN 'expire' THEN 'expired' ELSE 'released' END;
                helds[w] := helds[w] - op.hold_amount;
                IF k IS NOT NULL THEN
                    key_helds[k] := key_helds[k] - op.hold_amount;
                    key_changed[k] := true;
                END IF;
            ELSIF op.entry_kind IS NOT NULL THEN
                outcome := 'resolved_differently';
            ELSIF op.cause IS NOT NULL THEN
                outcome := 'replayed';
            ELSE
                outcome := 'tombstoned';
            END IF;
        END IF;

        outcomes[op.position] := outcome;
        available_micros[op.position] := balances[w] - helds[w];
        IF k IS NOT NULL THEN
            key_spent_micros[op.position] := key_spents[k] + key_helds[k];
        END IF;
        write_wallet_ids[op.position] := op.wallet_id;
        write_amounts[op.position] := amount;
        write_balances[op.position] := balances[w];
        write_key_ids[op.position] := op.key_id;
        write_periods[op.position] := op.period_start;
    END LOOP;

    DELETE FROM billing.holds hold WHERE hold.id = ANY (ARRAY(
        SELECT o.hold_id FROM unnest(p_hold_ids, outcomes) AS o (hold_id, outcome)
        WHERE o.outcome IN ('captured', 'released', 'expired')
    ));
    INSERT INTO billing.holds (id, wallet_id, amount_micros, expires_at, key_id, period_start)
        SELECT o.hold_id, o.wallet_id, o.amount, o.expires_at, o.key_id, o.period_start
        FROM unnest(p_hold_ids, outcomes, write_wallet_ids, write_amounts, p_expires_at, write_key_ids, write_periods)
            AS o (hold_id, outcome, wallet_id, amount, expires_at, key_id, period_start)
        WHERE o.outcome = 'placed';
    INSERT INTO billing.hold_releases (hold_id, cause, reason, wallet_id, amount_micros, key_id, period_start)
        SELECT o.hold_id, CASE o.outcome WHEN 'tombstoned' THEN 'tombstone' ELSE o.outcome END,
            coalesce(o.reason, ''), o.wallet_id, o.amount, o.key_id, o.period_start
        FROM unnest(p_hold_ids, outcomes, p_reasons, write_wallet_ids, write_amounts, write_key_ids, write_periods)
            AS o (hold_id, outcome, reason, wallet_id, amount, key_id, period_start)
        WHERE o.outcome IN ('released', 'expired', 'tombstoned');
    -- account 1 is usage_revenue; ids follow the order of the operations, as the balances after them do
    INSERT INTO billing.ledger_entries
        (kind, reference, debit_account_id, credit_account_id, amount_micros, wallet_id, wallet_balance_micros, key_id)
        SELECT 'usage', o.hold_id, o.wallet_id, 1, o.amount, o.wallet_id, o.balance, o.key_id
        FROM unnest(p_hold_ids, outcomes, write_wallet_ids, write_amounts, write_balances, write_key_ids)
            AS o (hold_id, outcome, wallet_id, amount, balance, key_id)
        WHERE o.outcome IN ('captured', 'captured_late');
    -- account 4 is writeoff; a repeated capture of a written-off hold has no amount here and posts nothing
    INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
        SELECT 'writeoff', o.hold_id, 4, 1, o.amount
        FROM unnest(p_hold_ids, outcomes, write_amounts) AS o (hold_id, outcome, amount)
        WHERE o.outcome = 'written_off' AND o.amount IS NOT NULL;
    UPDATE billing.wallets wallet SET balance_micros = s.balance, held_micros = s.held
        FROM unnest(wallet_ids, balances, helds) AS s (id, balance, held)
        WHERE wallet.id = s.id AND (wallet.balance_micros, wallet.held_micros) IS DISTINCT FROM (s.balance, s.held);
    INSERT INTO billing.key_spend
        (wallet_id, key_id, period_start, spent_micros, held_micros, cap_micros)
        SELECT s.wallet_id, s.key_id, s.period_start, s.spent, s.held, s.cap
        FROM unnest(key_wallet_ids, key_ids, key_periods, key_spents, key_helds, key_caps, key_changed)
            AS s (wallet_id, key_id, period_start, spent, held, cap, changed)
        WHERE s.changed
    ON CONFLICT ON CONSTRAINT pk_key_spend DO UPDATE
        SET spent_micros = excluded.spent_micros, held_micros = excluded.held_micros,
            cap_micros = excluded.cap_micros;
END
$$;

-- An expiry never changes, so what is due before the wallets are locked is still due after; what was captured or
-- released meanwhile is gone by then and left alone.
CREATE FUNCTION billing.expire_holds(p_limit integer) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    hold_ids uuid[];
    owner_ids uuid[];
    size integer;
    answer record;
BEGIN
    SELECT array_agg(due.id), array_agg(wallet.owner_id) INTO hold_ids, owner_ids
        FROM (
            SELECT id, wallet_id FROM billing.holds WHERE expires_at < now() ORDER BY expires_at LIMIT p_limit
        ) due
        JOIN billing.wallets wallet ON wallet.id = due.wallet_id;
    IF hold_ids IS NULL THEN
        RETURN;
    END IF;
    size := cardinality(hold_ids);
    answer := billing.apply_operations(
        array_fill('expire'::text, ARRAY[size]), hold_ids, owner_ids,
        array_fill(NULL::bigint, ARRAY[size]), array_fill(NULL::timestamptz, ARRAY[size]),
        array_fill(NULL::uuid, ARRAY[size]), array_fill(NULL::timestamptz, ARRAY[size]),
        array_fill(NULL::bigint, ARRAY[size]), array_fill('expired'::text, ARRAY[size]));
    RETURN QUERY SELECT o.hold_id FROM unnest(hold_ids, answer.outcomes) AS o (hold_id, outcome)
        WHERE o.outcome = 'expired';
END
$$;
