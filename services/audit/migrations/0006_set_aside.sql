-- Events that could not be looked at: they are tried again, and hold up no others.
-- citus: set_aside, log_id
CREATE TABLE set_aside (
    log_id bigint NOT NULL,
    leaf_index bigint NOT NULL,
    error_type text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL,
    PRIMARY KEY (log_id, leaf_index)
);
COMMENT ON COLUMN set_aside.error_type IS 'What kind of error it was; never what it said, which may tell of somebody.';
