CREATE TABLE gateway.predictions (
    id              uuid        NOT NULL,
    organization_id uuid        NOT NULL,
    key_id          uuid        NOT NULL,
    request_id      text        NOT NULL,
    dialect         text        NOT NULL,
    model           text        NOT NULL,
    status          text        NOT NULL,
    payer           text        NOT NULL,
    units           smallint    NOT NULL,
    price_micros    bigint      NOT NULL,
    charged_micros  bigint      NOT NULL DEFAULT 0,
    deployment      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    timings_ms      jsonb,
    output          jsonb,
    error           jsonb,
    CONSTRAINT pk_predictions PRIMARY KEY (id),
    CONSTRAINT fk_predictions_organization_id
        FOREIGN KEY (organization_id) REFERENCES gateway.organizations (id),
    CONSTRAINT ck_predictions_status_known
        CHECK (status IN ('queued', 'processing', 'completed', 'failed', 'canceled', 'aborted')),
    CONSTRAINT ck_predictions_payer_known CHECK (payer IN ('wallet', 'customer')),
    CONSTRAINT ck_predictions_finished_when_ended
        CHECK ((finished_at IS NULL) = (status IN ('queued', 'processing'))),
    CONSTRAINT ck_predictions_only_completed_is_charged CHECK (charged_micros = 0 OR status = 'completed')
) WITH (fillfactor = 80);  -- every row is updated once, when the call ends

CREATE INDEX ix_predictions_organization_id_id ON gateway.predictions (organization_id, id);
CREATE INDEX ix_predictions_request_id ON gateway.predictions (request_id);

-- 0001 creates the role where it may; on databases where it may not, the program works as the owner.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'gateway_app') THEN
        GRANT USAGE ON SCHEMA gateway TO gateway_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gateway TO gateway_app;
        ALTER DEFAULT PRIVILEGES IN SCHEMA gateway GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO gateway_app;
    END IF;
END
$$;
