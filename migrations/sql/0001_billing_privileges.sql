-- The application works as the role gateway_app: it may read the books and call the functions, and cannot write a
-- table. Where this login may not create roles, the books still work, as the owner; upgrade() says so.

DO $$
BEGIN
    CREATE ROLE gateway_app NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END
$$;

DO $$
BEGIN
    -- who creates a role may grant it, but from PostgreSQL 16 on may not work as it until it is granted
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT gateway_app TO %I', current_user);
    END IF;
EXCEPTION
    WHEN undefined_object OR insufficient_privilege THEN NULL;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA billing FROM PUBLIC;

DO $$
BEGIN
    GRANT USAGE ON SCHEMA billing TO gateway_app;
    GRANT SELECT ON ALL TABLES IN SCHEMA billing TO gateway_app;
    GRANT EXECUTE ON FUNCTION
        billing.apply_operations, billing.expire_holds, billing.open_wallet, billing.credit_wallet,
        billing.set_wallet_frozen
        TO gateway_app;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
