"""What the identity service is told. The values that every service has are in the runtime."""

from __future__ import annotations

from pydantic import FilePath

from services.runtime.settings import ServiceSettings, Target


class IdentitySettings(ServiceSettings):
    """The service cannot do without audit, asks consent for decisions, and tells it of links."""

    audit_address: Target
    consent_address: Target

    insi_simulator_file: FilePath | None = None
    """Identities from which a simulated national identity service answers (CSV); refused in production. Without it
    the national service is unavailable."""
