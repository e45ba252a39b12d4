-- citus: export_job, job

CREATE TABLE export_job (
    job uuid PRIMARY KEY,
    client_id text NOT NULL,
    host text NOT NULL,
    began_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE export_job IS 'Exports of whole home hosts. What is exported is never kept here: it is read when it is fetched.';
CREATE INDEX export_job_expires_at ON export_job (expires_at);
