-- Answers of mutations, kept seven days: a retry with the same request_id changes nothing and gets the same answer.
-- citus: idempotency, health_id
CREATE TABLE idempotency (
    health_id bigint NOT NULL,
    client text NOT NULL,
    method text NOT NULL,
    request_id text NOT NULL,
    body_digest bytea NOT NULL,
    -- Null only inside the transaction that is still working out the answer.
    response bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (health_id, client, method, request_id)
) WITH (fillfactor = 80);
-- Serves the purge, no request.
CREATE INDEX idempotency_created_at ON idempotency (created_at);
