-- How payments move money. Everyone locks in this order: the payment intent (advisory), the payment, the wallet.

-- Money into the wallet (p_amount > 0) or out of it, against another account. Locks the wallet.
CREATE FUNCTION billing.post_to_wallet(
    p_wallet_id bigint, p_other_account_id bigint, p_amount bigint, p_kind text, p_reference uuid
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    balance bigint;
BEGIN
    UPDATE billing.wallets wallet SET balance_micros = wallet.balance_micros + p_amount
        WHERE wallet.id = p_wallet_id RETURNING wallet.balance_micros INTO STRICT balance;
    INSERT INTO billing.ledger_entries
        (kind, reference, debit_account_id, credit_account_id, amount_micros, wallet_id, wallet_balance_micros)
        VALUES (
            p_kind, p_reference,
            CASE WHEN p_amount > 0 THEN p_other_account_id ELSE p_wallet_id END,
            CASE WHEN p_amount > 0 THEN p_wallet_id ELSE p_other_account_id END,
            abs(p_amount), p_wallet_id, balance);
END
$$;

-- The account that holds what the owner of this wallet owes, made when it is first needed.
CREATE FUNCTION billing.receivable_of(p_wallet_id bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    receivable_id bigint;
BEGIN
    INSERT INTO billing.accounts (kind, owner_id)
        SELECT 'receivable', wallet.owner_id FROM billing.wallets wallet WHERE wallet.id = p_wallet_id
        ON CONFLICT (owner_id, kind) WHERE owner_id IS NOT NULL DO NOTHING;
    SELECT account.id INTO STRICT receivable_id
        FROM billing.accounts account JOIN billing.wallets wallet USING (owner_id)
        WHERE wallet.id = p_wallet_id AND account.kind = 'receivable';
    RETURN receivable_id;
END
$$;

-- Free money pays what is owed. Called after money came in by a payment, with the wallet locked.
CREATE FUNCTION billing.settle_debt(p_wallet_id bigint, p_reference uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    amount bigint;
BEGIN
    SELECT least(wallet.owed_micros, wallet.balance_micros - wallet.held_micros) INTO STRICT amount
        FROM billing.wallets wallet WHERE wallet.id = p_wallet_id;
    IF amount > 0 THEN
        PERFORM billing.post_to_wallet(
            p_wallet_id, billing.receivable_of(p_wallet_id), -amount, 'debt_settled', p_reference);
        UPDATE billing.wallets wallet SET owed_micros = wallet.owed_micros - amount WHERE wallet.id = p_wallet_id;
    END IF;
END
$$;

-- Take back part of a payment (deltas > 0) into p_account_id, or return it (deltas < 0). What the wallet does not have
-- free becomes a debt; what is returned pays a debt first.
CREATE FUNCTION billing.take_back(
    p_wallet_id bigint, p_account_id bigint, p_credit_delta bigint, p_fee_delta bigint, p_kind text, p_reference uuid
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    from_wallet bigint;
BEGIN
    IF p_credit_delta > 0 THEN
        SELECT least(wallet.balance_micros - wallet.held_micros, p_credit_delta) INTO STRICT from_wallet
            FROM billing.wallets wallet WHERE wallet.id = p_wallet_id;
        IF from_wallet > 0 THEN
            PERFORM billing.post_to_wallet(p_wallet_id, p_account_id, -from_wallet, p_kind, p_reference);
        END IF;
        IF from_wallet < p_credit_delta THEN
            INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
                VALUES (p_kind || '_owed', p_reference, billing.receivable_of(p_wallet_id), p_account_id,
                    p_credit_delta - from_wallet);
            UPDATE billing.wallets wallet SET owed_micros = wallet.owed_micros + p_credit_delta - from_wallet
                WHERE wallet.id = p_wallet_id;
        END IF;
    ELSIF p_credit_delta < 0 THEN
        PERFORM billing.post_to_wallet(p_wallet_id, p_account_id, -p_credit_delta, p_kind || '_returned', p_reference);
        PERFORM billing.settle_debt(p_wallet_id, p_reference);
    END IF;
    -- account 21 is platform_fee
    IF p_fee_delta > 0 THEN
        INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
            VALUES (p_kind || '_fee', p_reference, 21, p_account_id, p_fee_delta);
    ELSIF p_fee_delta < 0 THEN
        INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
            VALUES (p_kind || '_fee_returned', p_reference, p_account_id, 21, -p_fee_delta);
    END IF;
END
$$;

-- The credit's share of a part of the whole price, in whole cents, half up; all of it for all of the price.
CREATE FUNCTION billing.credit_share(p_part bigint, p_credit bigint, p_total bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT round(p_credit::numeric * p_part / p_total / 10000)::bigint * 10000
$$;

CREATE FUNCTION billing.refresh_frozen(p_wallet_id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM billing.wallets wallet WHERE wallet.id = p_wallet_id FOR NO KEY UPDATE;
    -- a new statement, so it sees what the earlier holder of the lock committed
    UPDATE billing.wallets wallet
        SET frozen = wallet.frozen_by_operator OR EXISTS (
            SELECT FROM billing.payments payment
            JOIN billing.disputes dispute ON dispute.payment_intent_id = payment.payment_intent_id
            WHERE payment.wallet_id = wallet.id AND NOT dispute.closed)
        WHERE wallet.id = p_wallet_id;
END
$$;

CREATE OR REPLACE FUNCTION billing.set_wallet_frozen(p_owner_id uuid, p_frozen boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    changed_id bigint;
BEGIN
    UPDATE billing.wallets SET frozen_by_operator = p_frozen WHERE owner_id = p_owner_id RETURNING id INTO changed_id;
    IF changed_id IS NOT NULL THEN
        PERFORM billing.refresh_frozen(changed_id);
    END IF;
    RETURN changed_id IS NOT NULL;
END
$$;

-- Post whatever is missing between what has been posted for a payment and what its facts ask for. The facts are kept
-- so that their order does not matter, the targets are absolute, and the caller has locked the payment: so the same
-- news again posts nothing, and every order of the same news ends in the same books.
CREATE FUNCTION billing.settle_payment(p_payment_id uuid, p_stripe_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    payment billing.payments;
    total bigint;
    refunded bigint;
    disputed bigint;
    refund_credit bigint;
    dispute_credit bigint;
    posting_id uuid;
BEGIN
    SELECT * INTO STRICT payment FROM billing.payments x WHERE x.id = p_payment_id;
    PERFORM billing.refresh_frozen(payment.wallet_id);
    IF payment.paid_at IS NULL THEN
        RETURN;
    END IF;
    total := payment.credit_micros + payment.fee_micros;

    IF payment.credited_micros = 0 THEN
        INSERT INTO billing.payment_postings (id, payment_id, cause, stripe_id)
            VALUES (payment.id, payment.id, 'paid', payment.payment_intent_id);
        -- account 20 is stripe_clearing, 21 platform_fee
        PERFORM billing.post_to_wallet(payment.wallet_id, 20, payment.credit_micros, 'topup', payment.id);
        IF payment.fee_micros > 0 THEN
            INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
                VALUES ('topup_fee', payment.id, 20, 21, payment.fee_micros);
        END IF;
        PERFORM billing.settle_debt(payment.wallet_id, payment.id);
        UPDATE billing.payments SET credited_micros = payment.credit_micros WHERE id = payment.id;
        UPDATE billing.auto_top_ups SET declines = 0 WHERE owner_id = payment.owner_id AND payment.kind = 'auto';
    END IF;

    SELECT least(coalesce(sum(refund.amount_micros), 0), total) INTO refunded
        FROM billing.refunds refund
        WHERE refund.payment_intent_id = payment.payment_intent_id AND refund.status NOT IN ('failed', 'canceled');
    SELECT least(coalesce(sum(greatest(dispute.withdrawn_micros - dispute.reinstated_micros, 0)), 0), total - refunded)
        INTO disputed
        FROM billing.disputes dispute WHERE dispute.payment_intent_id = payment.payment_intent_id;
    refund_credit := billing.credit_share(refunded, payment.credit_micros, total);
    dispute_credit := billing.credit_share(refunded + disputed, payment.credit_micros, total) - refund_credit;

    -- account 22 is refund_clearing, 23 dispute_reserve
    IF (refund_credit, refunded - refund_credit) <> (payment.refund_credit_micros, payment.refund_fee_micros) THEN
        posting_id := gen_random_uuid();
        INSERT INTO billing.payment_postings (id, payment_id, cause, stripe_id)
            VALUES (posting_id, payment.id, 'refund', p_stripe_id);
        PERFORM billing.take_back(
            payment.wallet_id, 22, refund_credit - payment.refund_credit_micros,
            refunded - refund_credit - payment.refund_fee_micros, 'refund', posting_id);
    END IF;
    IF (dispute_credit, disputed - dispute_credit) <> (payment.dispute_credit_micros, payment.dispute_fee_micros) THEN
        posting_id := gen_random_uuid();
        INSERT INTO billing.payment_postings (id, payment_id, cause, stripe_id)
            VALUES (posting_id, payment.id, 'dispute', p_stripe_id);
        PERFORM billing.take_back(
            payment.wallet_id, 23, dispute_credit - payment.dispute_credit_micros,
            disputed - dispute_credit - payment.dispute_fee_micros, 'dispute', posting_id);
    END IF;
    UPDATE billing.payments SET
        refund_credit_micros = refund_credit, refund_fee_micros = refunded - refund_credit,
        dispute_credit_micros = dispute_credit, dispute_fee_micros = disputed - dispute_credit
        WHERE id = payment.id;
END
$$;
