-- The constraints of 0009 on the rows that were there before; holds up no writer.
ALTER TABLE dossier VALIDATE CONSTRAINT dossier_state;
ALTER TABLE dossier VALIDATE CONSTRAINT dossier_merged;
