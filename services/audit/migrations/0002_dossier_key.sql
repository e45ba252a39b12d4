-- The keys under which the clear parts of a dossier's events are sealed; health_id 0 has that of events about none.
-- As runtime/dossier_key.sql, but without its citus line, so that beyond one machine it stays on the node that the
-- service talks to: one append holds the key rows of many dossiers (FOR KEY SHARE), which no distributed table allows.
CREATE TABLE dossier_key (
    health_id bigint PRIMARY KEY,
    wrapped bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CONSTRAINT dossier_key_destroyed CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);
