-- citus: client, client_id
-- citus: used_assertion, client_id

CREATE TABLE client (
    client_id text PRIMARY KEY,
    kind text NOT NULL,
    active boolean NOT NULL,
    registration jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE client IS 'Registered software: partners, internal systems, operators. registration holds keys and bounds.';

CREATE TABLE used_assertion (
    client_id text NOT NULL,
    jti text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, jti)
);
COMMENT ON TABLE used_assertion IS 'Client assertions already used: the unique insert is the replay protection.';

CREATE INDEX used_assertion_expires_at ON used_assertion (expires_at);
