"""The identity service: who is who, and which identifiers point to a dossier."""
