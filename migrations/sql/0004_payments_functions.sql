-- What the application may do with payments. Amounts that come from Stripe are compared with our row, never believed.

CREATE FUNCTION billing.start_payment(
    p_id uuid, p_owner_id uuid, p_kind text, p_credit bigint, p_fee bigint, p_save_card boolean,
    p_client_reference text, p_expires_at timestamptz,
    OUT outcome text, OUT payment_id uuid
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    owners_wallet_id bigint;
    earlier billing.payments;
BEGIN
    SELECT wallet.id INTO owners_wallet_id FROM billing.wallets wallet WHERE wallet.owner_id = p_owner_id;
    IF owners_wallet_id IS NULL THEN
        outcome := 'wallet_unknown';
        RETURN;
    END IF;
    INSERT INTO billing.payments
        (id, owner_id, wallet_id, kind, credit_micros, fee_micros, save_card, client_reference, expires_at)
        VALUES (p_id, p_owner_id, owners_wallet_id, p_kind, p_credit, p_fee, p_save_card, p_client_reference,
            p_expires_at)
        ON CONFLICT ON CONSTRAINT uq_payments_owner_id_client_reference DO NOTHING
        RETURNING id INTO payment_id;
    IF payment_id IS NOT NULL THEN
        outcome := 'started';
        RETURN;
    END IF;
    SELECT * INTO STRICT earlier FROM billing.payments x
        WHERE x.owner_id = p_owner_id AND x.client_reference = p_client_reference;
    payment_id := earlier.id;
    outcome := CASE WHEN (earlier.credit_micros, earlier.save_card) = (p_credit, p_save_card)
        THEN 'replayed' ELSE 'conflict' END;
END
$$;

CREATE FUNCTION billing.attach_checkout(p_payment_id uuid, p_session_id text, p_url text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE billing.payments SET checkout_session_id = p_session_id, checkout_url = p_url
        WHERE id = p_payment_id AND (checkout_session_id IS NULL OR checkout_session_id = p_session_id)
$$;

-- The first customer that was recorded stays the owner's.
CREATE FUNCTION billing.record_stripe_customer(p_owner_id uuid, p_customer_id text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept_id text;
BEGIN
    INSERT INTO billing.stripe_customers (owner_id, customer_id) VALUES (p_owner_id, p_customer_id)
        ON CONFLICT (owner_id) DO NOTHING;
    SELECT customer.customer_id INTO STRICT kept_id
        FROM billing.stripe_customers customer WHERE customer.owner_id = p_owner_id;
    RETURN kept_id;
END
$$;

-- The one lock that exists before we know which payment a refund or a dispute belongs to.
CREATE FUNCTION billing.lock_payment_intent(p_payment_intent_id text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(p_payment_intent_id, 4004))
$$;

CREATE FUNCTION billing.mark_payment_paid(
    p_payment_id uuid, p_payment_intent_id text, p_amount bigint, p_currency text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    payment billing.payments;
    fault text;
BEGIN
    PERFORM billing.lock_payment_intent(p_payment_intent_id);
    SELECT * INTO payment FROM billing.payments x WHERE x.id = p_payment_id FOR UPDATE;
    IF payment.id IS NULL THEN
        RETURN 'unknown';
    END IF;
    IF p_currency <> 'usd' OR p_amount <> payment.credit_micros + payment.fee_micros THEN
        fault := format('paid %s micros in %s instead of %s in usd', p_amount, p_currency,
            payment.credit_micros + payment.fee_micros);
    ELSIF payment.payment_intent_id <> p_payment_intent_id THEN
        fault := format('paid a second time with %s', p_payment_intent_id);
    ELSIF EXISTS (
        SELECT FROM billing.payments x WHERE x.payment_intent_id = p_payment_intent_id AND x.id <> p_payment_id
    ) THEN
        fault := format('%s pays another payment', p_payment_intent_id);
    END IF;
    IF fault IS NOT NULL THEN
        UPDATE billing.payments SET mismatch = fault WHERE id = p_payment_id;
        RETURN 'mismatch';
    END IF;
    IF payment.paid_at IS NOT NULL THEN
        RETURN 'replayed';
    END IF;
    UPDATE billing.payments SET status = 'paid', paid_at = clock_timestamp(), failure_code = NULL,
        failure_message = NULL, payment_intent_id = p_payment_intent_id
        WHERE id = p_payment_id;
    PERFORM billing.settle_payment(p_payment_id, p_payment_intent_id);
    RETURN 'paid';
END
$$;

-- The attempt is over without money. What was paid stays paid.
CREATE FUNCTION billing.end_payment(p_payment_id uuid, p_status text, p_code text, p_message text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    UPDATE billing.payments SET status = p_status, failure_code = coalesce(p_code, failure_code),
        failure_message = coalesce(p_message, failure_message)
        WHERE id = p_payment_id AND status = 'open';
    RETURN FOUND;
END
$$;

-- A declined card at the hosted page: the customer may try another there.
CREATE FUNCTION billing.note_payment_failure(p_payment_id uuid, p_code text, p_message text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE billing.payments SET failure_code = p_code, failure_message = p_message
        WHERE id = p_payment_id AND status = 'open'
$$;

-- Receipt and card of a successful charge. The card is kept for later only if the customer asked for it.
CREATE FUNCTION billing.record_charge(
    p_payment_id uuid, p_charge_id text, p_receipt_url text, p_payment_method_id text, p_brand text, p_last4 text
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    payment billing.payments;
BEGIN
    UPDATE billing.payments SET charge_id = p_charge_id, receipt_url = coalesce(p_receipt_url, receipt_url)
        WHERE id = p_payment_id AND coalesce(charge_id, p_charge_id) = p_charge_id
        RETURNING * INTO payment;
    IF payment.save_card AND p_payment_method_id IS NOT NULL THEN
        UPDATE billing.stripe_customers customer SET payment_method_id = p_payment_method_id, card_brand = p_brand,
            card_last4 = p_last4, card_saved_at = payment.created_at
            WHERE customer.owner_id = payment.owner_id
                AND (customer.card_saved_at IS NULL OR customer.card_saved_at < payment.created_at);
    END IF;
    RETURN payment.id IS NOT NULL;
END
$$;

-- The payment that a refund or dispute is about, settled; 'pending' when we do not know it (yet).
CREATE FUNCTION billing.settle_payment_of(p_payment_intent_id text, p_stripe_id text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    found_id uuid;
BEGIN
    SELECT payment.id INTO found_id FROM billing.payments payment
        WHERE payment.payment_intent_id = p_payment_intent_id FOR UPDATE;
    IF found_id IS NULL THEN
        RETURN 'pending';
    END IF;
    PERFORM billing.settle_payment(found_id, p_stripe_id);
    RETURN 'settled';
END
$$;

-- pending -> succeeded -> failed or canceled: news from an earlier stage changes nothing.
CREATE FUNCTION billing.record_refund(
    p_id text, p_payment_intent_id text, p_amount bigint, p_status text, p_request_id uuid
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    stages constant text[] := ARRAY['pending', 'requires_action', 'succeeded', 'failed', 'canceled'];
BEGIN
    PERFORM billing.lock_payment_intent(p_payment_intent_id);
    INSERT INTO billing.refunds AS refund (id, payment_intent_id, request_id, amount_micros, status)
        VALUES (p_id, p_payment_intent_id, p_request_id, p_amount, p_status)
        ON CONFLICT (id) DO UPDATE SET status = excluded.status
            WHERE array_position(stages, excluded.status) > array_position(stages, refund.status);
    UPDATE billing.refund_requests SET status = 'made' WHERE id = p_request_id AND status = 'requested';
    RETURN billing.settle_payment_of(p_payment_intent_id, p_id);
END
$$;

-- Withdrawn and reinstated money only grow; a closed dispute stays closed; else the newest status counts.
CREATE FUNCTION billing.record_dispute(
    p_id text, p_payment_intent_id text, p_charge_id text, p_amount bigint, p_withdrawn bigint, p_reinstated bigint,
    p_reason text, p_status text, p_closed boolean, p_status_at timestamptz
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    PERFORM billing.lock_payment_intent(p_payment_intent_id);
    INSERT INTO billing.disputes (
            id, payment_intent_id, charge_id, amount_micros, withdrawn_micros, reinstated_micros, reason, status,
            closed, status_at)
        VALUES (p_id, p_payment_intent_id, p_charge_id, p_amount, p_withdrawn, p_reinstated, p_reason, p_status,
            p_closed, p_status_at)
        ON CONFLICT (id) DO NOTHING;
    UPDATE billing.disputes dispute SET
        withdrawn_micros = greatest(dispute.withdrawn_micros, p_withdrawn),
        reinstated_micros = greatest(dispute.reinstated_micros, p_reinstated)
        WHERE dispute.id = p_id;
    UPDATE billing.disputes dispute SET status = p_status, closed = p_closed, status_at = p_status_at
        WHERE dispute.id = p_id
            AND (p_closed, p_status_at) > (dispute.closed, dispute.status_at);
    RETURN billing.settle_payment_of(p_payment_intent_id, p_id);
END
$$;

-- Counts what was asked for and has not become a refund yet, so that two operators cannot refund the same dollar.
CREATE FUNCTION billing.request_refund(
    p_id uuid, p_payment_id uuid, p_amount bigint, p_reason text, p_actor text,
    OUT outcome text, OUT refundable_micros bigint, OUT amount_micros bigint
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    payment billing.payments;
BEGIN
    SELECT * INTO payment FROM billing.payments x WHERE x.id = p_payment_id FOR UPDATE;
    IF payment.id IS NULL THEN
        outcome := 'unknown';
        RETURN;
    ELSIF payment.paid_at IS NULL THEN
        outcome := 'unpaid';
        RETURN;
    END IF;
    SELECT payment.credit_micros + payment.fee_micros
        - coalesce((SELECT sum(refund.amount_micros) FROM billing.refunds refund
            WHERE refund.payment_intent_id = payment.payment_intent_id
                AND refund.status NOT IN ('failed', 'canceled')), 0)
        - coalesce((SELECT sum(request.amount_micros) FROM billing.refund_requests request
            WHERE request.payment_id = payment.id AND request.status = 'requested'), 0)
        INTO refundable_micros;
    amount_micros := coalesce(p_amount, refundable_micros);
    IF amount_micros <= 0 OR amount_micros > refundable_micros THEN
        outcome := 'too_much';
        RETURN;
    END IF;
    INSERT INTO billing.refund_requests (id, payment_id, amount_micros, reason, actor)
        VALUES (p_id, p_payment_id, amount_micros, p_reason, p_actor);
    outcome := 'requested';
END
$$;

CREATE FUNCTION billing.reject_refund_request(p_id uuid, p_failure text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE billing.refund_requests SET status = 'rejected', failure = p_failure
        WHERE id = p_id AND status = 'requested'
$$;

-- False when the event was applied before. Whoever comes second waits here for the first one's commit.
CREATE FUNCTION billing.receive_stripe_event(
    p_id text, p_type text, p_api_version text, p_payload jsonb, p_created_at timestamptz
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO billing.stripe_events (id, type, api_version, payload, stripe_created_at)
        VALUES (p_id, p_type, p_api_version, p_payload, p_created_at)
        ON CONFLICT (id) DO NOTHING;
    RETURN FOUND;
END
$$;

CREATE FUNCTION billing.finish_stripe_event(p_id text, p_outcome text) RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE billing.stripe_events SET outcome = p_outcome WHERE id = p_id AND outcome IS NULL
$$;

-- Stripe's own bookkeeping: what it keeps for itself, sends out for refunds and disputes, and pays out. Top-ups were
-- posted when they were paid. A type that we do not know is kept unposted, for reconciliation to name.
CREATE FUNCTION billing.record_balance_transaction(
    p_id uuid, p_stripe_id text, p_type text, p_source_id text, p_payment_intent_id text, p_amount bigint,
    p_fee bigint, p_created_at timestamptz
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    counter_account constant bigint := CASE
        WHEN p_type IN ('refund', 'payment_refund', 'refund_failure', 'payment_failure_refund') THEN 22
        WHEN p_type IN ('adjustment', 'payment_reversal') AND p_payment_intent_id IS NOT NULL THEN 23
        WHEN p_type IN ('payout', 'payout_cancel', 'payout_failure') THEN 26
        WHEN p_type IN ('stripe_fee', 'stripe_fx_fee', 'tax_fee') THEN 25
    END;
    ours constant boolean := p_payment_intent_id IS NULL OR EXISTS (
        SELECT FROM billing.payments payment
        WHERE payment.payment_intent_id = p_payment_intent_id AND payment.credited_micros > 0);
    is_charge constant boolean := p_type IN ('charge', 'payment') AND p_payment_intent_id IS NOT NULL;
    posts constant boolean := is_charge OR counter_account IS NOT NULL;
BEGIN
    IF NOT ours THEN
        RETURN 'not_ours';
    END IF;
    INSERT INTO billing.stripe_balance_transactions
        (id, stripe_id, type, source_id, payment_intent_id, amount_micros, fee_micros, posted, stripe_created_at)
        VALUES (p_id, p_stripe_id, p_type, p_source_id, p_payment_intent_id, p_amount, p_fee, posts, p_created_at)
        ON CONFLICT (stripe_id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'known';
    ELSIF NOT posts THEN
        RETURN 'unposted';
    END IF;
    -- account 20 is stripe_clearing
    IF NOT is_charge AND p_amount <> 0 THEN
        INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
            VALUES ('stripe_' || p_type, p_id,
                CASE WHEN p_amount < 0 THEN counter_account ELSE 20 END,
                CASE WHEN p_amount < 0 THEN 20 ELSE counter_account END, abs(p_amount));
    END IF;
    IF p_fee <> 0 THEN
        INSERT INTO billing.ledger_entries (kind, reference, debit_account_id, credit_account_id, amount_micros)
            SELECT CASE WHEN counter_account = 23 THEN 'dispute_charge' ELSE 'stripe_charge' END, p_id,
                CASE WHEN p_fee > 0 THEN cost ELSE 20 END, CASE WHEN p_fee > 0 THEN 20 ELSE cost END, abs(p_fee)
            FROM (SELECT CASE WHEN counter_account = 23 THEN 24 ELSE 25 END) AS x (cost);
    END IF;
    RETURN 'posted';
END
$$;
