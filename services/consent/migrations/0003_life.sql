-- The whole life of a dossier: opposition before any opening, death, the end of the archive; who closed it; region.
-- Constraints are only widened: what the release before writes still holds.
-- squawk-ignore-file ban-drop-not-null, ban-drop-constraint
ALTER TABLE dossier
    ADD COLUMN region text NOT NULL DEFAULT '',
    ADD COLUMN closed_by text NOT NULL DEFAULT '',
    ADD COLUMN died_at timestamptz,
    ADD COLUMN destroy_at timestamptz,
    ADD COLUMN destruction_requested boolean NOT NULL DEFAULT false,
    ADD COLUMN consent_collector text NOT NULL DEFAULT '',
    ADD COLUMN consent_representative bigint NOT NULL DEFAULT 0,
    ALTER COLUMN opened_at DROP NOT NULL,
    ALTER COLUMN consent_collected_at DROP NOT NULL,
    ALTER COLUMN consent_method DROP NOT NULL,
    ALTER COLUMN consent_given_by DROP NOT NULL,
    DROP CONSTRAINT dossier_state,
    DROP CONSTRAINT dossier_closing;
ALTER TABLE dossier ADD CONSTRAINT dossier_state
    CHECK (state IN ('none', 'opposed', 'open', 'closed', 'destroying', 'destroyed')) NOT VALID;
ALTER TABLE dossier ADD CONSTRAINT dossier_closing
    CHECK (
        (state IN ('closed', 'destroying', 'destroyed')) = (closed_at IS NOT NULL)
        AND (closed_at IS NULL) = (close_reason IS NULL)
    ) NOT VALID;
ALTER TABLE dossier ADD CONSTRAINT dossier_opening
    CHECK ((state IN ('none', 'opposed')) = (opened_at IS NULL AND consent_collected_at IS NULL)) NOT VALID;
COMMENT ON COLUMN dossier.destroy_at IS 'When the archive of a closed dossier ends; once destroyed, when that was.';
COMMENT ON COLUMN dossier.consent_representative IS 'The health id of the representative who consented; 0: the patient.';

ALTER TABLE access_grant
    ADD COLUMN term text NOT NULL DEFAULT 'year',
    ADD COLUMN care_team boolean NOT NULL DEFAULT false,
    ADD COLUMN secret boolean NOT NULL DEFAULT false;
ALTER TABLE access_grant ADD CONSTRAINT access_grant_term CHECK (term IN ('year', 'visit')) NOT VALID;
