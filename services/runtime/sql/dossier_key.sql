-- One content key per dossier, wrapped by the keyring. Destroying it destroys what it sealed; the row stays, to say so.
-- citus: dossier_key, health_id
CREATE TABLE dossier_key (
    health_id bigint PRIMARY KEY,
    wrapped bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    CONSTRAINT dossier_key_destroyed CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
);
