-- The directory: professionals, structures, who works where, and the imports that brought them.
-- citus: practitioner, reference
-- citus: structure, reference
-- citus: practitioner_role, reference
-- citus: directory_import, reference
-- citus: directory_finding, reference

CREATE TABLE practitioner (
    idnps text COLLATE "C" PRIMARY KEY,
    family_name text NOT NULL,
    given_name text NOT NULL,
    family_key text COLLATE "C" NOT NULL,
    given_key text COLLATE "C" NOT NULL,
    profession text NOT NULL,
    specialties text[] NOT NULL,
    specialty_systems text[] NOT NULL,
    active boolean NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX practitioner_name ON practitioner (family_key, given_key, idnps);
COMMENT ON TABLE practitioner IS 'Health professionals. Their names are public.';
COMMENT ON COLUMN practitioner.family_key IS 'The name as searched: capitals without accents.';

CREATE TABLE structure (
    idnst text COLLATE "C" PRIMARY KEY,
    display_name text NOT NULL,
    name_key text COLLATE "C" NOT NULL,
    facility_type text NOT NULL,
    postcode text COLLATE "C" NOT NULL,
    city text NOT NULL,
    active boolean NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX structure_name ON structure (name_key, idnst);
CREATE INDEX structure_postcode ON structure (postcode, name_key, idnst);
COMMENT ON TABLE structure IS 'Places of care.';

CREATE TABLE practitioner_role (
    idnps text COLLATE "C" NOT NULL,
    idnst text COLLATE "C" NOT NULL,
    profession text NOT NULL,
    specialty text NOT NULL,
    specialty_system text NOT NULL,
    active boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (idnps, idnst)
);
CREATE INDEX practitioner_role_structure ON practitioner_role (idnst, idnps);
COMMENT ON TABLE practitioner_role IS 'Who works where.';

CREATE TABLE directory_import (
    import_id text PRIMARY KEY,
    last_row bigint NOT NULL,
    taken bigint NOT NULL,
    refused bigint NOT NULL,
    warned bigint NOT NULL,
    complete boolean NOT NULL,
    updated_at timestamptz NOT NULL
);
COMMENT ON TABLE directory_import IS 'How far each import of an extract has come.';

CREATE TABLE directory_finding (
    import_id text NOT NULL,
    row_number bigint NOT NULL,
    field text NOT NULL,
    rule text NOT NULL,
    refused boolean NOT NULL,
    PRIMARY KEY (import_id, row_number, field, rule)
);
COMMENT ON TABLE directory_finding IS 'What an import refused or took with a warning, and why.';
