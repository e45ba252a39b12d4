-- What documents and submission sets are found by of their authors' names. No release has these tables yet.
ALTER TABLE document ADD COLUMN author_name_digests bigint [] NOT NULL DEFAULT '{}';
ALTER TABLE submission_set ADD COLUMN author_name_digests bigint [] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN document.author_name_digests IS 'Digests of the beginnings of the authors'' names, under a key of the dossier';
COMMENT ON COLUMN submission_set.author_name_digests IS 'The same of who handed it in';
