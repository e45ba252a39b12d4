"""The consent service: the life of a dossier, who may enter it, and every decision about access. No document here."""
