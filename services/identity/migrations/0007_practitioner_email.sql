-- Where a professional is written to: the mailbox that the national directory publishes.
ALTER TABLE practitioner ADD COLUMN email text NOT NULL DEFAULT '';
COMMENT ON COLUMN practitioner.email IS 'Mailbox of the secure mail system of health; told to the audit service alone.';
