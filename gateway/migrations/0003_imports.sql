-- citus: import_job, job
-- citus: import_file, job
-- citus: import_refusal, job

CREATE TABLE import_job (
    job uuid PRIMARY KEY,
    client_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE import_job IS 'Imports that clients have begun. What is imported is never kept here.';
CREATE INDEX import_job_created_at ON import_job (created_at);

CREATE TABLE import_file (
    job uuid NOT NULL,
    file text NOT NULL,
    lines bigint NOT NULL DEFAULT 0,
    created bigint NOT NULL DEFAULT 0,
    existed bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    PRIMARY KEY (job, file)
);
COMMENT ON TABLE import_file IS 'How far the files of an import are, in lines: where a broken one goes on.';

CREATE TABLE import_refusal (
    job uuid NOT NULL,
    file text NOT NULL,
    line bigint NOT NULL,
    outcome jsonb NOT NULL,
    PRIMARY KEY (job, file, line)
);
COMMENT ON TABLE import_refusal IS 'Why a line was refused: an OperationOutcome, which holds no personal data.';
