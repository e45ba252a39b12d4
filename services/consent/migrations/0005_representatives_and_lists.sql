-- Who represents whom, and the lists of one grantee and of one representative, which no dossier leads to.
-- citus: representation, health_id
-- citus: grantee_dossier, grantee_id
-- citus: represented, person

CREATE TABLE representation (
    health_id bigint NOT NULL,
    person bigint NOT NULL,
    kind text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    PRIMARY KEY (health_id, person),
    CONSTRAINT representation_kind CHECK (kind IN ('parent', 'guardian', 'heir', 'court')),
    CONSTRAINT representation_period CHECK (ends_at > starts_at),
    CONSTRAINT representation_other CHECK (person <> health_id)
);
COMMENT ON TABLE representation IS 'Who acts for a patient, by what title, from when, until when; ended ones are in the history.';

CREATE TABLE grantee_dossier (
    grantee_id text NOT NULL,
    grantee_kind text NOT NULL,
    health_id bigint NOT NULL,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (grantee_id, grantee_kind, health_id)
);
CREATE INDEX grantee_dossier_newest ON grantee_dossier (grantee_id, grantee_kind, granted_at DESC, health_id DESC);
COMMENT ON TABLE grantee_dossier IS 'TD0.4: where a grantee is authorised. What is listed is checked again in its dossier.';

CREATE TABLE represented (
    person bigint NOT NULL,
    health_id bigint NOT NULL,
    PRIMARY KEY (person, health_id)
);
COMMENT ON TABLE represented IS 'Whom a person represents. What is listed is checked again in its dossier.';

INSERT INTO grantee_dossier (grantee_id, grantee_kind, health_id, granted_at)
SELECT grantee_id, grantee_kind, health_id, granted_at FROM access_grant;
