-- Documents: metadata found by columns and sealed as a whole, contents sealed, submission sets; the tables shared by
-- every service. Each key and index that serves a request starts with health_id.
-- include: runtime/dossier_key.sql
-- include: runtime/idempotency.sql
-- include: runtime/outbox.sql
-- include: runtime/lease.sql

-- citus: submission_set, health_id
CREATE TABLE submission_set (
    health_id bigint NOT NULL,
    submission_set_id uuid NOT NULL,
    unique_id_digest bytea NOT NULL,
    status bigint NOT NULL,
    submitted_at timestamptz NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, submission_set_id),
    CONSTRAINT submission_set_unique_id UNIQUE (health_id, unique_id_digest)
);
COMMENT ON TABLE submission_set IS 'What was handed in together; immutable but for its status';
COMMENT ON COLUMN submission_set.unique_id_digest IS 'Keyed digest of the producer''s identifier of the set';
COMMENT ON COLUMN submission_set.sealed IS 'The SubmissionSet message, under the dossier''s key';

-- citus: document, health_id
CREATE TABLE document (
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    logical_id uuid NOT NULL,
    version bigint NOT NULL,
    status bigint NOT NULL,
    type_code text NOT NULL,
    class_code text NOT NULL,
    format_code text NOT NULL,
    created_at timestamptz NOT NULL,
    service_start timestamptz NOT NULL,
    submitted_at timestamptz NOT NULL,
    submission_set_id uuid NOT NULL,
    unique_id_digest bytea NOT NULL,
    set_version_digest bytea,
    masked boolean NOT NULL,
    invisible_patient boolean NOT NULL,
    invisible_representatives boolean NOT NULL,
    author_digests bytea [] NOT NULL,
    content_id uuid NOT NULL,
    stored_size bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, document_id),
    CONSTRAINT document_unique_id UNIQUE (health_id, unique_id_digest),
    CONSTRAINT document_set_version UNIQUE (health_id, set_version_digest)
) WITH (toast_tuple_target = 4080);
-- Sealed bytes do not compress; a row of usual size stays whole in its page.
ALTER TABLE document ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE document IS 'Metadata of documents (XDS DocumentEntry): what is searched by in columns, all of it sealed';
COMMENT ON COLUMN document.document_id IS 'entryUUID (UUIDv7)';
COMMENT ON COLUMN document.status IS 'dmp.document.v1.DocumentStatus';
COMMENT ON COLUMN document.created_at IS 'creationTime: when it was authored';
COMMENT ON COLUMN document.unique_id_digest IS 'Keyed digest of the producer''s uniqueId, unique in the dossier';
COMMENT ON COLUMN document.set_version_digest IS 'Keyed digest of a CDA''s setId and versionNumber, unique in the dossier';
COMMENT ON COLUMN document.masked IS 'MASQUE_PS';
COMMENT ON COLUMN document.invisible_patient IS 'INVISIBLE_PATIENT, until one month after submitted_at';
COMMENT ON COLUMN document.invisible_representatives IS 'INVISIBLE_REPRESENTANTS_LEGAUX';
COMMENT ON COLUMN document.author_digests IS 'Keyed digests of the authors'' identifiers: whose own document it is';
COMMENT ON COLUMN document.stored_size IS 'Bytes of the sealed content';
COMMENT ON COLUMN document.sealed IS 'Content id and digest, and the Document message, under the dossier''s key';

CREATE INDEX document_by_submission ON document (health_id, submitted_at DESC, document_id DESC);
CREATE INDEX document_by_type ON document (health_id, type_code, submitted_at DESC, document_id DESC);

-- citus: content, health_id
CREATE TABLE content (
    health_id bigint NOT NULL,
    content_id uuid NOT NULL,
    sealed bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (health_id, content_id)
);
ALTER TABLE content ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE content IS 'Contents: zstd, then AES-256-GCM under the dossier''s key, bound to dossier and content';
