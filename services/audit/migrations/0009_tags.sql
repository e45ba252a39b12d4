-- Every row that is made of the trail bears a keyed digest of itself, so that whatever is changed in it is found; and
-- what was taken from the trail names the event of the log that says so (docs/decisions/0046).
-- citus: destruction, health_id
-- squawk-ignore-file ban-drop-column
ALTER TABLE derived
ADD COLUMN counted bigint NOT NULL DEFAULT 0,
ADD COLUMN notices bigint NOT NULL DEFAULT 0,
ADD COLUMN items bigint NOT NULL DEFAULT 0,
ADD COLUMN aside bigint NOT NULL DEFAULT 0,
ADD COLUMN tag bytea NOT NULL DEFAULT '';
COMMENT ON COLUMN derived.counted IS 'The sum of day_count.event_count: a count that is gone is missed.';
COMMENT ON COLUMN derived.notices IS 'How many notices there are of this log.';
COMMENT ON COLUMN derived.items IS 'How many unusual accesses there are of this log.';
COMMENT ON COLUMN derived.aside IS 'How many of its events are set aside.';
ALTER TABLE day_count ADD COLUMN tag bytea NOT NULL DEFAULT '';
ALTER TABLE notice ADD COLUMN tag bytea NOT NULL DEFAULT '';
ALTER TABLE unusual_access ADD COLUMN tag bytea NOT NULL DEFAULT '';
ALTER TABLE actor_window ADD COLUMN tag bytea NOT NULL DEFAULT '';
ALTER TABLE set_aside ADD COLUMN tag bytea NOT NULL DEFAULT '';
ALTER TABLE given_up ADD COLUMN tag bytea NOT NULL DEFAULT '';

CREATE TABLE destruction (
    health_id bigint PRIMARY KEY,
    log_id bigint NOT NULL,
    leaf_index bigint NOT NULL,
    tag bytea NOT NULL
);
COMMENT ON TABLE destruction IS 'Dossiers whose key is destroyed, and the event, durable before that, which says so.';
COMMENT ON COLUMN event.actor_digest IS
'HMAC of dossier and acting subject. Without a content_digest: the place of the event that says why, HMAC of the row.';

-- When a key was made is nobody's question, and nothing could vouch for the answer.
ALTER TABLE dossier_key DROP COLUMN created_at;
