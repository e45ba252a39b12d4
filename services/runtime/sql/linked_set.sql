-- Which people are one person, as identity told it last: whoever is named, the members are read together.
-- citus: linked_set, health_id
CREATE TABLE linked_set (
    health_id bigint PRIMARY KEY,
    revision bigint NOT NULL,
    member_ids bigint [] NOT NULL,
    CONSTRAINT linked_set_member CHECK (health_id = ANY(member_ids))
);
COMMENT ON COLUMN linked_set.member_ids IS 'All of them, the survivor first; one alone was parted from the others.';
