-- The versions of the rights tables, and which is in force. Version 0 is what the service came with, and has no row.
-- citus: rights_version, reference
-- citus: rights_in_force, reference

CREATE TABLE rights_version (
    version bigint PRIMARY KEY,
    functional_rights text NOT NULL,
    type_denials text NOT NULL,
    effective_at timestamptz NOT NULL,
    replaced_by text NOT NULL,
    comment text NOT NULL,
    CONSTRAINT rights_version_number CHECK (version > 0)
);
COMMENT ON TABLE rights_version IS 'Append-only: a decision is made again by the version that it was made by.';

CREATE TABLE rights_in_force (
    only_row boolean PRIMARY KEY,
    version bigint NOT NULL,
    CONSTRAINT rights_in_force_one CHECK (only_row)
);
COMMENT ON TABLE rights_in_force IS 'Every batch of decisions reads this row in the statement that reads its facts.';
INSERT INTO rights_in_force VALUES (true, 0);
