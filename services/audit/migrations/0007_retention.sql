-- How far the clear parts of each log have been given up, by the kind of their events.
-- citus: given_up, log_id
CREATE TABLE given_up (
    log_id bigint NOT NULL,
    kind text NOT NULL,
    next_leaf bigint NOT NULL,
    PRIMARY KEY (log_id, kind)
);
COMMENT ON TABLE given_up IS 'Events of a kind before next_leaf were kept long enough: sealed is empty, the entry stays.';
