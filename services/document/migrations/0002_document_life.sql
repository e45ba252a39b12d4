-- No release has these tables yet: they are empty or small wherever this runs, so that locks are short.
-- squawk-ignore-file constraint-missing-not-valid, disallowed-unique-constraint, ban-drop-constraint, ban-drop-column, require-concurrent-index-deletion, require-concurrent-index-creation
-- A document's life: metadata versions, replacement, relations, folders; what it is searched by; the row that every
-- change of a dossier locks, and the list of changes. A row without entry_id was sealed before versions existed.
ALTER TABLE document
ADD COLUMN entry_id uuid,
ADD COLUMN changed_at timestamptz,
ADD COLUMN change bigint NOT NULL DEFAULT 9,
ADD COLUMN status_before bigint NOT NULL DEFAULT 0,
ADD COLUMN replaced_by uuid,
ADD COLUMN relations text [] NOT NULL DEFAULT '{}',
ADD COLUMN folder_ids uuid [] NOT NULL DEFAULT '{}',
ADD COLUMN service_stop timestamptz,
ADD COLUMN facility_code text NOT NULL DEFAULT '',
ADD COLUMN setting_code text NOT NULL DEFAULT '',
ADD COLUMN confidentiality text [] NOT NULL DEFAULT '{}',
ADD COLUMN event_codes text [] NOT NULL DEFAULT '{}',
ADD COLUMN institution_digests bytea [] NOT NULL DEFAULT '{}',
ADD COLUMN reference_digests bytea [] NOT NULL DEFAULT '{}',
ADD COLUMN title_digests bigint [] NOT NULL DEFAULT '{}',
ADD COLUMN set_digest bytea,
ADD COLUMN set_version bigint,
ADD COLUMN noticed_at timestamptz,
ADD CONSTRAINT document_set UNIQUE (health_id, set_digest, set_version),
DROP CONSTRAINT document_set_version,
DROP COLUMN set_version_digest;
COMMENT ON COLUMN document.entry_id IS 'entryUUID of the current metadata version; document_id is that of the first';
COMMENT ON COLUMN document.change IS 'dmp.document.v1.DocumentChange that made the current version';
COMMENT ON COLUMN document.status_before IS 'Where unarchiving brings it back to';
COMMENT ON COLUMN document.relations IS 'RelationshipType, and RelationshipType:document, of what it is to others';
COMMENT ON COLUMN document.title_digests IS 'Digests of the title''s words and their beginnings, under a key of the dossier';
COMMENT ON COLUMN document.set_digest IS 'Keyed digest of a CDA''s setId';
COMMENT ON COLUMN document.noticed_at IS 'When the patient was told that something waits to be announced';

DROP INDEX document_by_type;
CREATE INDEX document_by_content ON document (health_id, content_id);
-- Serves the job of visibility deadlines, no request.
CREATE INDEX document_waiting ON document (submitted_at) WHERE invisible_patient;

-- citus: document_version, health_id
CREATE TABLE document_version (
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    version bigint NOT NULL,
    entry_id uuid NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, document_id, version),
    CONSTRAINT document_version_entry UNIQUE (health_id, entry_id)
);
ALTER TABLE document_version ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE document_version IS 'Metadata versions that another has followed';
COMMENT ON COLUMN document_version.sealed IS 'The DocumentVersion message, under the dossier''s key';

-- citus: dossier_clock, health_id
CREATE TABLE dossier_clock (
    health_id bigint PRIMARY KEY,
    sequence bigint NOT NULL,
    changed_at timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE dossier_clock IS 'The row that each change of a dossier''s documents locks: they happen one after another';

-- citus: change, health_id
CREATE TABLE change (
    health_id bigint NOT NULL,
    sequence bigint NOT NULL,
    document_id uuid NOT NULL,
    kind bigint NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, sequence)
);
COMMENT ON TABLE change IS 'What happened to the documents of a dossier, in order';
COMMENT ON COLUMN change.kind IS 'dmp.document.v1.DocumentChange';

-- citus: folder, health_id
CREATE TABLE folder (
    health_id bigint NOT NULL,
    folder_id uuid NOT NULL,
    unique_id_digest bytea NOT NULL,
    status bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    submission_set_id uuid NOT NULL,
    codes text [] NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, folder_id),
    CONSTRAINT folder_unique_id UNIQUE (health_id, unique_id_digest)
);
COMMENT ON TABLE folder IS 'Folders; which documents lie in one is in document.folder_ids';
COMMENT ON COLUMN folder.sealed IS 'The Folder message, under the dossier''s key';

ALTER TABLE submission_set
ADD COLUMN source_id text NOT NULL DEFAULT '',
ADD COLUMN content_type text NOT NULL DEFAULT '',
ADD COLUMN author_digests bytea [] NOT NULL DEFAULT '{}',
ADD COLUMN institution_digests bytea [] NOT NULL DEFAULT '{}';
CREATE INDEX submission_set_by_time ON submission_set (health_id, submitted_at DESC, submission_set_id DESC);
