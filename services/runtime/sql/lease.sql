-- Who leads (relay, sequencer, jobs), and when each job last ran. A handful of rows, not distributed.
CREATE TABLE lease (
    name text PRIMARY KEY,
    holder uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE job (
    name text PRIMARY KEY,
    last_run_at timestamptz NOT NULL
);
