-- The constraints of 0003 on the rows that were there before; holds up no writer.
ALTER TABLE dossier VALIDATE CONSTRAINT dossier_state;
ALTER TABLE dossier VALIDATE CONSTRAINT dossier_closing;
ALTER TABLE dossier VALIDATE CONSTRAINT dossier_opening;
ALTER TABLE access_grant VALIDATE CONSTRAINT access_grant_term;
