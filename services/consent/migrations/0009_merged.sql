-- Of two open dossiers of one person one stays open, and the other is merged into it. The constraint is only widened.
-- squawk-ignore-file ban-drop-constraint
ALTER TABLE dossier
    ADD COLUMN merged_into bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT dossier_state;
ALTER TABLE dossier ADD CONSTRAINT dossier_state
    CHECK (state IN ('none', 'opposed', 'open', 'closed', 'destroying', 'destroyed', 'merged')) NOT VALID;
ALTER TABLE dossier ADD CONSTRAINT dossier_merged CHECK ((state = 'merged') = (merged_into > 0)) NOT VALID;
COMMENT ON COLUMN dossier.merged_into IS 'The health id of the dossier that a merged one went to; 0 for any other.';
