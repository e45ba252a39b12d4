"""Fixtures of the system tests: the fleet that the fault tests break, and consent on a database of its own."""

from __future__ import annotations

from tests.consent_service import consent, consent_database
from tests.faults.conftest import clients, fleet, zygote

__all__ = ["clients", "consent", "consent_database", "fleet", "zygote"]
