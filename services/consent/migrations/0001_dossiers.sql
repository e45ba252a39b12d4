-- Dossiers, authorisations, blocks, and the history from which any past decision can be worked out again.
-- citus: dossier, health_id
-- citus: access_grant, health_id
-- citus: access_block, health_id
-- citus: consent_event, health_id

CREATE TABLE dossier (
    health_id bigint PRIMARY KEY,
    state text NOT NULL,
    epoch bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    close_reason text,
    break_glass_opposed boolean NOT NULL,
    regulation_opposed boolean NOT NULL,
    masked_in_emergency boolean NOT NULL,
    home_host text NOT NULL,
    consent_collected_at timestamptz NOT NULL,
    consent_method text NOT NULL,
    consent_given_by text NOT NULL,
    CONSTRAINT dossier_state CHECK (state IN ('open', 'closed')),
    CONSTRAINT dossier_epoch CHECK (epoch > 0),
    CONSTRAINT dossier_closing CHECK (
        (state = 'closed') = (closed_at IS NOT NULL) AND (closed_at IS NULL) = (close_reason IS NULL)
    ),
    CONSTRAINT dossier_close_reason CHECK (close_reason IN ('patient_request', 'death', 'error')),
    CONSTRAINT dossier_consent_method CHECK (consent_method IN ('oral', 'written', 'electronic')),
    CONSTRAINT dossier_consent_given_by CHECK (consent_given_by IN ('patient', 'representative'))
) WITH (fillfactor = 80);
COMMENT ON TABLE dossier IS 'One row per dossier. Every consent change locks it, so the changes of a dossier have an order.';
COMMENT ON COLUMN dossier.epoch IS 'Counts the consent changes; the last epoch in consent_event.';
COMMENT ON COLUMN dossier.masked_in_emergency IS 'Whether the patient lets masked documents be seen in emergency modes.';
COMMENT ON COLUMN dossier.home_host IS 'The approved host that holds the dossier.';

CREATE TABLE access_grant (
    health_id bigint NOT NULL,
    grantee_kind text NOT NULL,
    grantee_id text NOT NULL,
    granted_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    attending_physician boolean NOT NULL,
    PRIMARY KEY (health_id, grantee_kind, grantee_id),
    CONSTRAINT access_grant_kind CHECK (grantee_kind IN ('professional', 'structure')),
    CONSTRAINT access_grant_attending CHECK (grantee_kind = 'professional' OR NOT attending_physician),
    CONSTRAINT access_grant_period CHECK (expires_at > granted_at)
);
COMMENT ON TABLE access_grant IS 'Authorisations, expired ones included until revoked: TD0.2 tells EXPIRED from NONE.';

CREATE TABLE access_block (
    health_id bigint NOT NULL,
    grantee_kind text NOT NULL,
    grantee_id text NOT NULL,
    blocked_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, grantee_kind, grantee_id),
    CONSTRAINT access_block_kind CHECK (grantee_kind IN ('professional', 'structure'))
);
COMMENT ON TABLE access_block IS 'Whom the patient shut out, whatever the mode.';

CREATE TABLE consent_event (
    health_id bigint NOT NULL,
    epoch bigint NOT NULL,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    actor bytea NOT NULL,
    request_id text NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, epoch)
);
COMMENT ON TABLE consent_event IS 'Append-only: the changes up to an epoch give the dossier, the authorisations and the blocks of that epoch.';
COMMENT ON COLUMN consent_event.actor IS 'The dmp.common.v1.ActingContext of who did it, serialized.';
