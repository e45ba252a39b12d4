-- citus: client_key, client_id
-- citus: sign_in, sign_in
-- citus: authorization_code, code
-- citus: login_grant, grant_id
-- citus: revoked_token, token_id
-- citus: partner_usage, client_id
-- include: runtime/idempotency.sql
-- include: runtime/outbox.sql
-- include: runtime/lease.sql

ALTER TABLE client ADD COLUMN declared boolean NOT NULL DEFAULT true;
ALTER TABLE client ADD COLUMN suspended_at timestamptz;
ALTER TABLE client ADD COLUMN suspend_reason text NOT NULL DEFAULT '';
COMMENT ON COLUMN client.declared IS 'Whether the declared registrations hold it: those are changed in their file.';
COMMENT ON COLUMN client.suspended_at IS 'Since when it may not call. No start of a gateway touches it.';

CREATE TABLE client_key (
    client_id text NOT NULL,
    kid text NOT NULL,
    jwk jsonb,
    retired_at timestamptz,
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_id, kid)
);
COMMENT ON TABLE client_key IS 'Keys added to a registration or, retired, taken from it. Without jwk: a retired one of the registration.';

CREATE TABLE sign_in (
    sign_in bytea PRIMARY KEY,
    browser bytea NOT NULL,
    realm text NOT NULL,
    nonce text NOT NULL,
    verifier text NOT NULL,
    request jsonb NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE sign_in IS 'People who are signing in at an OpenID provider: by digest of the state, bound to a browser by digest of its cookie.';
CREATE INDEX sign_in_expires_at ON sign_in (expires_at);

CREATE TABLE authorization_code (
    code bytea PRIMARY KEY,
    client_id text NOT NULL,
    request jsonb NOT NULL,
    identity jsonb NOT NULL,
    grant_id uuid NOT NULL,
    used_at timestamptz,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE authorization_code IS 'Codes by digest. A used one stays until it expires: used again, its grant ends.';
CREATE INDEX authorization_code_expires_at ON authorization_code (expires_at);

CREATE TABLE login_grant (
    grant_id uuid PRIMARY KEY,
    client_id text NOT NULL,
    identity jsonb NOT NULL,
    scopes text[] NOT NULL,
    refresh bytea NOT NULL,
    generation bigint NOT NULL DEFAULT 1,
    tokens text[] NOT NULL DEFAULT '{}',
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text NOT NULL DEFAULT ''
);
COMMENT ON TABLE login_grant IS 'What a sign-in has given: the digest of the one refresh token that counts, and the ids of tokens that may still live.';
CREATE INDEX login_grant_expires_at ON login_grant (expires_at);

CREATE TABLE revoked_token (
    token_id text PRIMARY KEY,
    client_id text NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE revoked_token IS 'Platform tokens revoked before their end. Looked at in every request.';
CREATE INDEX revoked_token_expires_at ON revoked_token (expires_at);

CREATE TABLE denial_list (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);
COMMENT ON TABLE denial_list IS 'The version of the list that services are told: moved with every suspension, resumption and revocation.';
INSERT INTO denial_list (version) VALUES (1);

CREATE TABLE partner_usage (
    client_id text NOT NULL,
    day date NOT NULL,
    operation text NOT NULL,
    outcome text NOT NULL,
    count bigint NOT NULL,
    seconds double precision NOT NULL,
    PRIMARY KEY (client_id, day, operation, outcome)
);
COMMENT ON TABLE partner_usage IS 'How often each client did what, by day (UTC).';
