-- The logs: for each one its head, and its events in the order of their leaves.
-- citus: log_head, log_id
-- citus: event, log_id
CREATE TABLE log_head (
    log_id bigint PRIMARY KEY,
    size bigint NOT NULL DEFAULT 0,
    CONSTRAINT log_head_size CHECK (size >= 0)
) WITH (fillfactor = 10);
COMMENT ON TABLE log_head IS 'One row a log. Whoever appends holds it, so places are given without gaps.';
COMMENT ON COLUMN log_head.size IS 'Events in the log, hence the place of the next one.';

CREATE TABLE event (
    log_id bigint NOT NULL,
    leaf_index bigint NOT NULL,
    health_id bigint NOT NULL,
    event_id uuid NOT NULL,
    producer text NOT NULL,
    event_time timestamptz NOT NULL,
    secret boolean NOT NULL,
    actor_digest bytea NOT NULL,
    content_digest bytea NOT NULL,
    leaf bytea NOT NULL,
    sealed bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (log_id, leaf_index),
    CONSTRAINT event_leaf_bytes CHECK (octet_length(leaf) = 49),
    CONSTRAINT event_leaf_index CHECK (leaf_index >= 0)
);
COMMENT ON TABLE event IS 'What happened. Rows are only ever added.';
COMMENT ON COLUMN event.leaf_index IS 'Place in the log, from 0, without gaps.';
COMMENT ON COLUMN event.health_id IS 'The dossier; 0 for an event about none.';
COMMENT ON COLUMN event.producer IS 'The service that recorded it, from its certificate.';
COMMENT ON COLUMN event.secret IS 'Whether the connection was secret: hidden from legal representatives.';
COMMENT ON COLUMN event.actor_digest IS 'HMAC of dossier and acting subject.';
COMMENT ON COLUMN event.content_digest IS 'HMAC of the clear part: tells a retry from another event of the same id.';
COMMENT ON COLUMN event.leaf IS 'The entry of the log: version, event id, commitment (docs/decisions/0005).';
COMMENT ON COLUMN event.sealed IS 'Salt and clear part under the dossier''s key. Ciphertext: not worth compressing.';

-- Each event once. The id leads: a batch of retries is looked up by its ids, and those of one moment lie together.
CREATE UNIQUE INDEX event_once ON event (log_id, event_id, producer);
-- The trail of a dossier, newest first.
CREATE INDEX event_trail ON event (health_id, leaf_index);
-- The acts of one subject in a dossier, newest first.
CREATE INDEX event_trail_of_actor ON event (health_id, actor_digest, leaf_index);
