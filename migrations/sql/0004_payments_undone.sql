-- What 0004 replaced, as 0001 made it.
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

REVOKE ALL ON FUNCTION billing.set_wallet_frozen FROM PUBLIC;
DO $$
BEGIN
    GRANT EXECUTE ON FUNCTION billing.set_wallet_frozen TO gateway_app;
EXCEPTION
    WHEN undefined_object THEN NULL;
END
$$;
