-- No release has these tables yet: they are empty or small wherever this runs, so that locks are short.
-- squawk-ignore-file constraint-missing-not-valid, disallowed-unique-constraint, ban-drop-constraint, ban-drop-column, require-concurrent-index-deletion, require-concurrent-index-creation, ban-drop-not-null
-- Contents may lie in an object store; uploads in chunks; the look-up of a uniqueId without its dossier.
ALTER TABLE content
ALTER COLUMN sealed DROP NOT NULL,
ADD COLUMN object_key text,
ADD COLUMN stored_size bigint,
ADD CONSTRAINT content_somewhere CHECK ((sealed IS NULL) <> (object_key IS NULL)) NOT VALID;
COMMENT ON COLUMN content.object_key IS 'Where the object store has it; null when it is here';
COMMENT ON COLUMN content.content_id IS 'From a keyed digest of dossier and bytes: the same bytes are stored once';
COMMENT ON COLUMN content.stored_size IS 'Bytes of the sealed content';

-- citus: upload, health_id
CREATE TABLE upload (
    health_id bigint NOT NULL,
    upload_id uuid NOT NULL,
    client text NOT NULL,
    size bigint NOT NULL,
    written bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, upload_id)
);
CREATE INDEX upload_created_at ON upload (created_at);
COMMENT ON TABLE upload IS 'Contents on their way in';

-- citus: upload_chunk, health_id
CREATE TABLE upload_chunk (
    health_id bigint NOT NULL,
    upload_id uuid NOT NULL,
    start bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, upload_id, start)
);
ALTER TABLE upload_chunk ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON COLUMN upload_chunk.sealed IS 'A zstd frame under the dossier''s key, bound to upload and start';

-- citus: unique_id, digest
CREATE TABLE unique_id (
    digest bytea NOT NULL,
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    PRIMARY KEY (digest, health_id, document_id)
);
-- Serves the destruction of a dossier, no request.
CREATE INDEX unique_id_by_dossier ON unique_id (health_id);
COMMENT ON TABLE unique_id IS 'Which dossiers hold a uniqueId, by its keyed digest; fed from unique_id_new';

-- citus: unique_id_new, health_id
CREATE TABLE unique_id_new (
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (health_id, document_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000
);
COMMENT ON TABLE unique_id_new IS 'What unique_id does not know of yet';
