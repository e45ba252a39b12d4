-- What becomes due by the passing of time. A job takes a deadline away in the commit that does what was due: once.
-- citus: deadline, health_id

CREATE TABLE deadline (
    health_id bigint NOT NULL,
    what text NOT NULL,
    -- Whose: a grantee as kind/id, a person's health id; empty for the dossier itself.
    whose text NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, what, whose),
    CONSTRAINT deadline_what CHECK (what IN ('destruction', 'authorization', 'representation'))
);
-- Serves the jobs, no request.
CREATE INDEX deadline_due ON deadline (due_at, health_id);
COMMENT ON TABLE deadline IS 'Kept with what it belongs to: set, moved and taken away in the same commits.';

INSERT INTO deadline (health_id, what, whose, due_at)
SELECT health_id, 'authorization', grantee_kind || '/' || grantee_id, expires_at FROM access_grant;

UPDATE dossier SET destroy_at = closed_at + interval '10 years' WHERE state = 'closed';
INSERT INTO deadline (health_id, what, whose, due_at)
SELECT health_id, 'destruction', '', destroy_at FROM dossier WHERE state = 'closed';
