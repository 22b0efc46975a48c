CREATE TABLE gateway.provider_credentials (
    id              uuid        NOT NULL,
    organization_id uuid        NOT NULL,
    provider        text        NOT NULL,
    name            text        NOT NULL,
    base_url        text,
    key_id          text        NOT NULL,
    wrapped_key     bytea       NOT NULL,
    ciphertext      bytea       NOT NULL,
    last4           text        NOT NULL,
    fingerprint     text        NOT NULL,
    models          text[],
    api_keys        uuid[],
    position        integer     NOT NULL DEFAULT 100,
    may_fall_back   boolean     NOT NULL DEFAULT false,
    enabled         boolean     NOT NULL DEFAULT true,
    disabled_reason text,
    refusals        integer     NOT NULL DEFAULT 0,
    last_error      text,
    last_error_at   timestamptz,
    created_at      timestamptz NOT NULL,
    CONSTRAINT pk_provider_credentials PRIMARY KEY (id),
    CONSTRAINT fk_provider_credentials_organization_id
        FOREIGN KEY (organization_id) REFERENCES gateway.organizations (id),
    CONSTRAINT uq_provider_credentials_organization_id
        UNIQUE NULLS NOT DISTINCT (organization_id, provider, base_url, fingerprint),
    CONSTRAINT ck_provider_credentials_provider_known CHECK (provider IN ('openai', 'fal', 'wavespeed')),
    CONSTRAINT ck_provider_credentials_base_url_of_openai CHECK ((provider = 'openai') = (base_url IS NOT NULL)),
    CONSTRAINT ck_provider_credentials_reason_of_disabled CHECK (disabled_reason IS NULL OR NOT enabled),
    CONSTRAINT ck_provider_credentials_refusals_not_negative CHECK (refusals >= 0)
);

CREATE TABLE gateway.deployment_switches (
    name       text        NOT NULL,
    enabled    boolean     NOT NULL,
    reason     text,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_deployment_switches PRIMARY KEY (name)
);

-- Calls on a customer's key have no hold whose expiry would end them when a machine dies.
CREATE INDEX ix_predictions_unfinished ON gateway.predictions (created_at)
    WHERE status = 'processing' AND payer = 'customer';
