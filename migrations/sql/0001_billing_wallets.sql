-- Open, credit and freeze wallets.

CREATE FUNCTION billing.open_wallet(p_owner_id uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wallet_id bigint;
BEGIN
    INSERT INTO billing.accounts (kind, owner_id) VALUES ('wallet', p_owner_id)
        ON CONFLICT (owner_id, kind) WHERE owner_id IS NOT NULL DO NOTHING
        RETURNING id INTO wallet_id;
    IF wallet_id IS NULL THEN
        SELECT account.id INTO STRICT wallet_id FROM billing.accounts account
            WHERE account.owner_id = p_owner_id AND account.kind = 'wallet';
    ELSE
        INSERT INTO billing.wallets (id, owner_id) VALUES (wallet_id, p_owner_id);
    END IF;
    RETURN wallet_id;
END
$$;

CREATE FUNCTION billing.credit_wallet(
    p_grant_id uuid,
    p_owner_id uuid,
    p_kind text,
    p_amount bigint,
    p_reference text,
    p_reason text,
    p_actor text,
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
    wallet billing.wallets;
    earlier billing.grants;
    other_account bigint := CASE p_kind WHEN 'promotional' THEN 2 ELSE 3 END;
BEGIN
    SELECT * INTO wallet FROM billing.wallets x WHERE x.owner_id = p_owner_id FOR NO KEY UPDATE;
    IF wallet.id IS NULL THEN
        outcome := 'wallet_unknown';
        RETURN;
    END IF;
    balance_micros := wallet.balance_micros;
    held_micros := wallet.held_micros;
    frozen := wallet.frozen;

    SELECT * INTO earlier FROM billing.grants x WHERE x.wallet_id = wallet.id AND x.reference = p_reference;
    IF earlier.id IS NOT NULL THEN
        outcome := CASE WHEN (earlier.kind, earlier.amount_micros) = (p_kind, p_amount)
            THEN 'replayed' ELSE 'conflict' END;
        RETURN;
    END IF;
    IF balance_micros - held_micros + p_amount < 0 THEN
        outcome := 'insufficient';
        RETURN;
    END IF;

    outcome := 'credited';
    balance_micros := balance_micros + p_amount;
    INSERT INTO billing.grants (id, wallet_id, kind, amount_micros, reference, reason, actor)
        VALUES (p_grant_id, wallet.id, p_kind, p_amount, p_reference, p_reason, p_actor);
    INSERT INTO billing.ledger_entries
        (kind, reference, debit_account_id, credit_account_id, amount_micros, wallet_id, wallet_balance_micros)
        VALUES (
            p_kind, p_grant_id,
            CASE WHEN p_amount > 0 THEN other_account ELSE wallet.id END,
            CASE WHEN p_amount > 0 THEN wallet.id ELSE other_account END,
            abs(p_amount), wallet.id, credit_wallet.balance_micros);
    UPDATE billing.wallets x SET balance_micros = credit_wallet.balance_micros WHERE x.id = wallet.id;
END
$$;

CREATE FUNCTION billing.set_wallet_frozen(p_owner_id uuid, p_frozen boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    UPDATE billing.wallets SET frozen = p_frozen WHERE owner_id = p_owner_id;
    RETURN FOUND;
END
$$;
