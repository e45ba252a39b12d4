-- What is made of the trail in the background: counts, notices, what looks unusual. All of it can be made again.
-- citus: derived, log_id
-- citus: day_count, log_id
-- citus: notice, health_id
-- citus: unusual_access, item_id
-- citus: actor_window, actor
CREATE TABLE derived (
    log_id bigint PRIMARY KEY,
    next_leaf bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE derived IS 'How far each log was looked at. Moved in the transaction that keeps what was made of it.';

CREATE TABLE day_count (
    log_id bigint NOT NULL,
    day date NOT NULL,
    action text NOT NULL,
    outcome bigint NOT NULL,
    access_mode bigint NOT NULL,
    event_count bigint NOT NULL,
    PRIMARY KEY (log_id, day, action, outcome, access_mode)
);

CREATE TABLE notice (
    health_id bigint NOT NULL,
    notice_id uuid NOT NULL,
    kind bigint NOT NULL,
    recipient bigint NOT NULL,
    actor_digest bytea NOT NULL,
    log_id bigint NOT NULL,
    leaves bigint[] NOT NULL,
    happened_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    sealed bytea NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    PRIMARY KEY (health_id, notice_id)
);
COMMENT ON COLUMN notice.happened_at IS 'The first event: those of the same actor within the episode (8 h) join it.';
COMMENT ON COLUMN notice.sealed IS 'Its text, under the dossier''s key.';
-- Serves the delivery, no request.
CREATE INDEX notice_due ON notice (next_attempt_at) WHERE delivered_at IS NULL;

CREATE TABLE unusual_access (
    item_id uuid PRIMARY KEY,
    health_id bigint NOT NULL,
    log_id bigint NOT NULL,
    leaf_index bigint NOT NULL,
    detector text NOT NULL,
    detected_at timestamptz NOT NULL DEFAULT now(),
    sealed bytea NOT NULL,
    decision bigint NOT NULL DEFAULT 0,
    decided_at timestamptz,
    decided_by text,
    CONSTRAINT unusual_access_decided CHECK ((decision = 0) = (decided_at IS NULL))
);
COMMENT ON COLUMN unusual_access.sealed IS 'Who, and what was seen, under the dossier''s key.';
-- The work list is read whole, by operators.
CREATE INDEX unusual_access_list ON unusual_access (decision, detected_at, item_id);
CREATE INDEX unusual_access_dossier ON unusual_access (health_id);

CREATE TABLE actor_window (
    actor bytea NOT NULL,
    hour timestamptz NOT NULL,
    new_dossiers bigint NOT NULL DEFAULT 0,
    break_glass bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (actor, hour)
);
COMMENT ON TABLE actor_window IS 'Counts of an actor by the hour, under a keyed digest; deleted after two days.';
