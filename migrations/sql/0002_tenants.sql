CREATE SCHEMA gateway;

CREATE TABLE gateway.organizations (
    id                  uuid        NOT NULL,
    name                text        NOT NULL,
    status              text        NOT NULL,
    requests_per_minute integer,
    created_at          timestamptz NOT NULL,
    CONSTRAINT pk_organizations PRIMARY KEY (id),
    CONSTRAINT ck_organizations_status_known CHECK (status IN ('active', 'suspended')),
    CONSTRAINT ck_organizations_requests_per_minute_positive CHECK (requests_per_minute > 0)
);

CREATE TABLE gateway.api_keys (
    id                  uuid        NOT NULL,
    organization_id     uuid,
    lineage_id          uuid        NOT NULL,
    rotated_from_id     uuid,
    name                text        NOT NULL,
    kind                text        NOT NULL,
    digest              bytea       NOT NULL,
    pepper_id           text        NOT NULL,
    hint                text        NOT NULL,
    scopes              text[]      NOT NULL,
    allowed_models      text[],
    requests_per_minute integer,
    spend_cap_micros    bigint,
    spend_cap_period    text        NOT NULL,
    expires_at          timestamptz,
    revoked_at          timestamptz,
    last_used_at        timestamptz,
    created_at          timestamptz NOT NULL,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys_digest UNIQUE (digest),
    CONSTRAINT fk_api_keys_organization_id FOREIGN KEY (organization_id) REFERENCES gateway.organizations (id),
    CONSTRAINT fk_api_keys_rotated_from_id FOREIGN KEY (rotated_from_id) REFERENCES gateway.api_keys (id),
    CONSTRAINT ck_api_keys_kind_known CHECK (kind IN ('live', 'admin')),
    CONSTRAINT ck_api_keys_admin_has_no_organization CHECK ((kind = 'admin') = (organization_id IS NULL)),
    CONSTRAINT ck_api_keys_digest_length CHECK (octet_length(digest) = 32),
    CONSTRAINT ck_api_keys_requests_per_minute_positive CHECK (requests_per_minute > 0),
    CONSTRAINT ck_api_keys_spend_cap_not_negative CHECK (spend_cap_micros >= 0),
    CONSTRAINT ck_api_keys_spend_cap_period_known CHECK (spend_cap_period IN ('never', 'day', 'week', 'month'))
);

CREATE INDEX ix_api_keys_organization_id_id ON gateway.api_keys (organization_id, id);
