-- The whole register: versions of people, blocks for matching, links with their ledger, the work list, domains.
-- citus: person_history, health_id
-- citus: match_block, block
-- citus: rematch_due, health_id
-- citus: link_set, health_id
-- citus: link_ledger, health_id
-- citus: link_delivery, health_id
-- citus: possible_duplicate, low_id
-- citus: identifier_domain, reference
-- citus: key_rotation, reference

ALTER TABLE person ADD COLUMN version bigint NOT NULL DEFAULT 1, ADD COLUMN updated_at timestamptz;
COMMENT ON COLUMN person.sealed IS 'What is known (a dmp.identity.v1.PersonVersion, or a Person of old), under the key of dossier_key.';
COMMENT ON COLUMN person.updated_at IS 'When this version began; null for the first.';

CREATE TABLE person_history (
    health_id bigint NOT NULL,
    version bigint NOT NULL,
    status text NOT NULL,
    sealed bytea NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    PRIMARY KEY (health_id, version)
);
COMMENT ON TABLE person_history IS 'Append-only: the versions of a person before the one in person.';

CREATE TABLE match_block (
    block bigint NOT NULL,
    health_id bigint NOT NULL,
    PRIMARY KEY (block, health_id)
);
COMMENT ON TABLE match_block IS 'Who may be the same person. A block is 64 bits of an HMAC: who meets there by chance is told apart by the traits.';
INSERT INTO match_block (block, health_id)
SELECT ('x' || encode(substring(digest FROM 1 FOR 8), 'hex'))::bit(64)::bigint, health_id FROM match_key
ON CONFLICT DO NOTHING;

CREATE TABLE rematch_due (
    health_id bigint PRIMARY KEY
);
COMMENT ON TABLE rematch_due IS 'Who was registered, or changed traits, and has not yet been compared with what others committed meanwhile.';

CREATE TABLE link_set (
    health_id bigint PRIMARY KEY,
    into_id bigint,
    root_id bigint NOT NULL,
    revision bigint NOT NULL,
    member_ids bigint [] NOT NULL
);
COMMENT ON COLUMN link_set.member_ids IS 'Of a survivor: all merged into it, and itself. Of a merged person: empty.';
COMMENT ON TABLE link_set IS 'Everyone who was ever in a link: whom merged into, and the survivor at the end of the chain (oneself without link).';

CREATE TABLE link_ledger (
    health_id bigint NOT NULL,
    merged_id bigint NOT NULL,
    survivor_id bigint NOT NULL,
    revision bigint NOT NULL,
    kind text NOT NULL,
    recorded_at timestamptz NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (health_id, merged_id, revision),
    CONSTRAINT link_ledger_kind CHECK (kind IN ('linked', 'unlinked', 'split')),
    CONSTRAINT link_ledger_two CHECK (health_id IN (merged_id, survivor_id))
);
COMMENT ON TABLE link_ledger IS 'Append-only: who was merged into whom, parted from it, or split off it. One row for each of the two.';
COMMENT ON COLUMN link_ledger.sealed IS 'A dmp.identity.v1.PersonChange (who and why), sealed with the key of health_id.';

CREATE TABLE link_delivery (
    health_id bigint NOT NULL,
    service text NOT NULL,
    revision bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (health_id, service)
);
COMMENT ON TABLE link_delivery IS 'Whose set of links a service has not yet been told.';

CREATE TABLE possible_duplicate (
    low_id bigint NOT NULL,
    high_id bigint NOT NULL,
    weight real NOT NULL,
    state text NOT NULL DEFAULT 'open',
    found_at timestamptz NOT NULL,
    decided_at timestamptz,
    decision bytea,
    PRIMARY KEY (low_id, high_id),
    CONSTRAINT possible_duplicate_order CHECK (low_id < high_id),
    CONSTRAINT possible_duplicate_state CHECK (state IN ('open', 'distinct', 'same'))
);
-- Serves the work list, no request about a dossier.
CREATE INDEX possible_duplicate_list ON possible_duplicate (state, found_at, low_id, high_id);
COMMENT ON TABLE possible_duplicate IS 'The work list: pairs that may be one person. A pair once decided is not found again.';
COMMENT ON COLUMN possible_duplicate.decision IS 'A dmp.identity.v1.PersonChange, sealed with the key of low_id.';

CREATE TABLE identifier_domain (
    system text PRIMARY KEY,
    display_name text NOT NULL,
    client_id text NOT NULL
);
COMMENT ON TABLE identifier_domain IS 'Assigning authorities of local identifiers, and the client that feeds each.';

CREATE TABLE key_rotation (
    id bigint PRIMARY KEY DEFAULT 1,
    phase text NOT NULL DEFAULT 'idle',
    generation bigint NOT NULL DEFAULT 0,
    position bigint NOT NULL DEFAULT 0,
    people_done bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT key_rotation_single CHECK (id = 1),
    CONSTRAINT key_rotation_phase CHECK (phase IN ('idle', 'backfilling', 'backfilled', 'removing'))
);
INSERT INTO key_rotation DEFAULT VALUES;
COMMENT ON TABLE key_rotation IS 'How far the rotation of digest and wrapping keys has come, person by person.';
