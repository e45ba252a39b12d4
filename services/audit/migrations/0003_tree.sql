-- The log as a public tree: its tiles, and the newest checkpoint of each log.
-- citus: checkpoint, log_id
-- citus: tile, log_id
-- include: runtime/lease.sql
CREATE TABLE checkpoint (
    log_id bigint PRIMARY KEY,
    tree_size bigint NOT NULL,
    root bytea NOT NULL,
    signed bytea NOT NULL,
    published_size bigint NOT NULL,
    published bytea NOT NULL,
    cosigners text[] NOT NULL DEFAULT '{}',
    CONSTRAINT checkpoint_root_bytes CHECK (octet_length(root) = 32),
    CONSTRAINT checkpoint_published CHECK (published_size <= tree_size)
) WITH (fillfactor = 10);
COMMENT ON TABLE checkpoint IS 'One row a log. Moved by comparing and swapping, so two integrators cannot fork a log.';
COMMENT ON COLUMN checkpoint.signed IS 'The newest signed note: what the log has committed itself to.';
COMMENT ON COLUMN checkpoint.published IS 'The newest note given out, with the cosignatures of witnesses.';
COMMENT ON COLUMN checkpoint.cosigners IS 'The witnesses that cosigned what is published.';

CREATE TABLE tile (
    log_id bigint NOT NULL,
    level bigint NOT NULL,
    number bigint NOT NULL,
    hashes bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (log_id, level, number),
    CONSTRAINT tile_hashes CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0)
);
COMMENT ON TABLE tile IS 'A tile as far as it has grown (c2sp.org/tlog-tiles); a partial tile is its beginning.';
