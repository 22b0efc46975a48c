-- Charging a saved card when the wallet runs low. The open payment of kind 'auto' is the attempt.

CREATE FUNCTION billing.set_auto_top_up(
    p_owner_id uuid, p_enabled boolean, p_threshold bigint, p_amount bigint, p_target bigint, p_ceiling bigint
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    owners_wallet_id bigint;
BEGIN
    SELECT wallet.id INTO owners_wallet_id FROM billing.wallets wallet WHERE wallet.owner_id = p_owner_id;
    IF owners_wallet_id IS NULL THEN
        RETURN 'wallet_unknown';
    ELSIF p_enabled AND NOT EXISTS (
        SELECT FROM billing.stripe_customers customer
        WHERE customer.owner_id = p_owner_id AND customer.payment_method_id IS NOT NULL
    ) THEN
        RETURN 'card_missing';
    END IF;
    INSERT INTO billing.auto_top_ups (
            owner_id, wallet_id, enabled, threshold_micros, amount_micros, target_micros, monthly_ceiling_micros)
        VALUES (p_owner_id, owners_wallet_id, p_enabled, p_threshold, p_amount, p_target, p_ceiling)
        ON CONFLICT (owner_id) DO UPDATE SET
            enabled = excluded.enabled, threshold_micros = excluded.threshold_micros,
            amount_micros = excluded.amount_micros, target_micros = excluded.target_micros,
            monthly_ceiling_micros = excluded.monthly_ceiling_micros, declines = 0, paused_reason = NULL,
            next_attempt_at = '-infinity', updated_at = clock_timestamp();
    RETURN 'set';
END
$$;

-- The settings row serialises claims. Whether an attempt is open is read before the wallet: an attempt that ends
-- between the two has put its money there, so one crossing can never be claimed twice.
CREATE FUNCTION billing.claim_auto_top_up(
    p_payment_id uuid, p_owner_id uuid, p_credit bigint, p_fee bigint, p_expires_at timestamptz
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    setting billing.auto_top_ups;
    card text;
    spent bigint;
BEGIN
    SELECT * INTO setting FROM billing.auto_top_ups x WHERE x.owner_id = p_owner_id FOR UPDATE;
    IF setting.owner_id IS NULL OR NOT setting.enabled OR setting.paused_reason IS NOT NULL
        OR setting.next_attempt_at > now() THEN
        RETURN 'idle';
    END IF;
    PERFORM FROM billing.payments payment
        WHERE payment.wallet_id = setting.wallet_id AND payment.kind = 'auto' AND payment.status = 'open';
    IF FOUND THEN
        RETURN 'open';
    END IF;
    PERFORM FROM billing.wallets wallet
        WHERE wallet.id = setting.wallet_id AND NOT wallet.frozen
            AND wallet.balance_micros - wallet.held_micros < setting.threshold_micros;
    IF NOT FOUND THEN
        RETURN 'idle';
    END IF;
    SELECT customer.payment_method_id INTO card
        FROM billing.stripe_customers customer WHERE customer.owner_id = p_owner_id;
    IF card IS NULL THEN
        UPDATE billing.auto_top_ups SET paused_reason = 'card_missing' WHERE owner_id = p_owner_id;
        RETURN 'card_missing';
    END IF;
    SELECT coalesce(sum(payment.credit_micros + payment.fee_micros), 0) INTO spent
        FROM billing.payments payment
        WHERE payment.wallet_id = setting.wallet_id AND payment.kind = 'auto' AND payment.status = 'paid'
            AND payment.created_at >= date_trunc('month', now(), 'UTC');
    IF spent + p_credit + p_fee > setting.monthly_ceiling_micros THEN
        RETURN 'ceiling';
    END IF;
    INSERT INTO billing.payments
        (id, owner_id, wallet_id, kind, credit_micros, fee_micros, expires_at, payment_method_id)
        VALUES (p_payment_id, p_owner_id, setting.wallet_id, 'auto', p_credit, p_fee, p_expires_at, card);
    RETURN 'claimed';
END
$$;

-- An attempt was refused. Only the first to say so counts it: the answer to our call or the webhook.
CREATE FUNCTION billing.fail_auto_top_up(
    p_payment_id uuid, p_code text, p_message text, p_authentication boolean, p_declines_max integer,
    p_cool_down interval
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    payment billing.payments;
BEGIN
    SELECT * INTO payment FROM billing.payments x
        WHERE x.id = p_payment_id AND x.kind = 'auto' AND x.status = 'open' FOR UPDATE;
    IF payment.id IS NULL THEN
        RETURN false;
    END IF;
    UPDATE billing.payments SET status = 'failed', failure_code = p_code, failure_message = p_message
        WHERE id = p_payment_id;
    UPDATE billing.auto_top_ups SET
        declines = declines + 1,
        paused_reason = CASE
            WHEN p_authentication THEN 'authentication_required'
            WHEN declines + 1 >= p_declines_max THEN 'declined'
            ELSE paused_reason END,
        next_attempt_at = now() + p_cool_down
        WHERE owner_id = payment.owner_id;
    RETURN true;
END
$$;

-- The bank or Stripe warns of this customer's card: no more charges without being asked.
CREATE FUNCTION billing.pause_auto_top_up(p_owner_id uuid, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE billing.auto_top_ups SET paused_reason = p_reason WHERE owner_id = p_owner_id AND paused_reason IS NULL;
    RETURN FOUND;
END
$$;

CREATE FUNCTION billing.forget_card(p_payment_method_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owner uuid;
BEGIN
    UPDATE billing.stripe_customers SET payment_method_id = NULL, card_brand = NULL, card_last4 = NULL
        WHERE payment_method_id = p_payment_method_id RETURNING owner_id INTO owner;
    IF owner IS NULL THEN
        RETURN false;
    END IF;
    PERFORM billing.pause_auto_top_up(owner, 'card_missing');
    RETURN true;
END
$$;
