-- People, found by keyed digests; what is known of them is sealed. Nothing here is civil identity in clear.
-- citus: person, health_id
-- citus: identifier, digest
-- citus: match_key, digest
-- citus: registration_lock, digest

CREATE TABLE person (
    health_id bigint PRIMARY KEY,
    status text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT person_status CHECK (status IN ('provisional', 'retrieved', 'validated', 'qualified'))
);
COMMENT ON TABLE person IS 'Who has a health id.';
COMMENT ON COLUMN person.sealed IS 'Traits and identifiers (a dmp.identity.v1.Person), under the key of dossier_key.';

CREATE TABLE identifier (
    digest bytea PRIMARY KEY,
    health_id bigint NOT NULL,
    CONSTRAINT identifier_digest CHECK (length(digest) = 32)
);
COMMENT ON TABLE identifier IS 'Whose identifier it is. The value itself is in person.sealed alone.';
COMMENT ON COLUMN identifier.digest IS 'HMAC of system and value; one row per live generation of the digest key.';

CREATE TABLE match_key (
    digest bytea NOT NULL,
    health_id bigint NOT NULL,
    PRIMARY KEY (digest, health_id),
    CONSTRAINT match_key_digest CHECK (length(digest) = 32)
);
COMMENT ON TABLE match_key IS 'Who may be the same person: HMACs of all strict traits, and of birth date and name prefix.';

CREATE TABLE registration_lock (
    digest bytea PRIMARY KEY,
    taken_at timestamptz NOT NULL,
    CONSTRAINT registration_lock_digest CHECK (length(digest) = 32)
);
COMMENT ON TABLE registration_lock IS 'Rows on which registrations of one person meet: by its traits, by each identifier.';
