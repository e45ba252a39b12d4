-- What documents say, read from their structured content (services/document/reading). Derived: it can be read again at
-- any time. All that is said is sealed under the dossier's key; in clear is only what lists are cut by.

-- citus: reading, health_id
CREATE TABLE reading (
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    reader_version bigint NOT NULL,
    unread bigint NOT NULL,
    left_out bigint NOT NULL,
    read_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, document_id)
);
COMMENT ON TABLE reading IS 'Which documents have been read; one without a row waits to be';
COMMENT ON COLUMN reading.reader_version IS 'services.document.reading.model.READER_VERSION';
COMMENT ON COLUMN reading.unread IS 'dmp.document.v1.UnreadReason; 0 when it was read';
COMMENT ON COLUMN reading.left_out IS 'Entries and values of it that could not be read';

-- citus: projection, health_id
CREATE TABLE projection (
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    place bigint NOT NULL,
    kind bigint NOT NULL,
    subkind bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    unread bigint NOT NULL,
    series_digest bytea NOT NULL,
    code_digests bytea [] NOT NULL,
    link_digests bytea [] NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, document_id, place)
);
ALTER TABLE projection ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE projection IS 'One thing that a document says; shown to whoever may read the document';
COMMENT ON COLUMN projection.place IS 'Its place in the document, counted down from 0';
COMMENT ON COLUMN projection.kind IS 'services.document.reading.model.Kind';
COMMENT ON COLUMN projection.subkind IS 'MedicationKind, SummaryKind or PathwayCategory';
COMMENT ON COLUMN projection.occurred_at IS 'When it was so; the document''s service start where it does not say';
COMMENT ON COLUMN projection.unread IS 'UnreadReason of a document that stands in its list unread, else 0';
COMMENT ON COLUMN projection.series_digest IS 'Digest of a result''s code and unit, under a key of the dossier';
COMMENT ON COLUMN projection.code_digests IS 'Digests of its codes, under a key of the dossier';
COMMENT ON COLUMN projection.link_digests IS 'Digests of what joins reports and key-object references of an examination';
COMMENT ON COLUMN projection.sealed IS 'The message, under the dossier''s key; empty for an unread document';

CREATE INDEX projection_by_time ON projection (health_id, kind, occurred_at DESC, document_id DESC, place DESC);

-- How far the reading of all documents has come. One row, not distributed.
CREATE TABLE reading_sweep (
    name text PRIMARY KEY,
    reader_version bigint NOT NULL,
    started_at timestamptz NOT NULL,
    health_id bigint NOT NULL,
    document_id uuid NOT NULL,
    read_count bigint NOT NULL,
    failed_count bigint NOT NULL,
    done boolean NOT NULL,
    request_id text
);
COMMENT ON COLUMN reading_sweep.request_id IS 'Of the request that began it anew';
COMMENT ON COLUMN reading_sweep.health_id IS 'With document_id: the last document that it has passed';
