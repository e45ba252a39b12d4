-- The outbox: events written in the transaction of the change that they tell of, and delivered by one relay.
-- citus: outbox, health_id
-- citus: outbox_parked, health_id
CREATE TABLE outbox (
    health_id bigint NOT NULL,
    event_id uuid NOT NULL,
    -- The time of the insert, not of the transaction's start: closer to the order of commits.
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload bytea NOT NULL,
    PRIMARY KEY (health_id, event_id)
) WITH (
    -- Rows live for a fraction of a second: without eager vacuuming the relay would step over their remains.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);
-- Serves the relay (the order of delivery, the lag), no request.
CREATE INDEX outbox_created_at ON outbox (created_at, event_id);

-- Events that the receiver calls malformed: kept for a person to look at, never dropped.
CREATE TABLE outbox_parked (
    health_id bigint NOT NULL,
    event_id uuid NOT NULL,
    reason text NOT NULL,
    payload bytea NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (health_id, event_id)
);
