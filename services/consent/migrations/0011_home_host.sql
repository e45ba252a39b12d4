-- The dossiers of one home host, in the order in which they are listed to who takes them over. Serves no request about
-- a dossier. Where there are tens of millions of rows, build it CONCURRENTLY beforehand: it is taken as it is found.
-- squawk-ignore-file require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS dossier_by_home_host ON dossier (home_host, health_id);
