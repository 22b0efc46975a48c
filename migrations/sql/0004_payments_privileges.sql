-- The functions that only other functions call are granted to nobody.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing FROM PUBLIC;

DO $$
BEGIN
    GRANT SELECT ON ALL TABLES IN SCHEMA billing TO gateway_app;
    GRANT EXECUTE ON FUNCTION
        billing.set_wallet_frozen,
        billing.start_payment, billing.attach_checkout, billing.record_stripe_customer, billing.mark_payment_paid,
        billing.end_payment, billing.note_payment_failure, billing.record_charge, billing.record_refund,
        billing.record_dispute, billing.request_refund, billing.reject_refund_request,
        billing.receive_stripe_event, billing.finish_stripe_event, billing.record_balance_transaction,
        billing.set_auto_top_up, billing.claim_auto_top_up, billing.fail_auto_top_up, billing.pause_auto_top_up,
        billing.forget_card
        TO gateway_app;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
