"""Fixtures that several modules of this directory use; each lives beside what it makes."""

from __future__ import annotations

from tests.consent_service import consent, consent_database
from tests.document_world import document_database, world
from tests.identity_service import identity_database, people
from tests.local_stack import state

__all__ = ["consent", "consent_database", "document_database", "identity_database", "people", "state", "world"]
