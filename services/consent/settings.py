"""What the consent service is told. The values that every service has are in the runtime."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import ServiceSettings, Target


class ConsentSettings(ServiceSettings):
    """The service cannot do without audit."""

    audit_address: Target

    authorization_days: int = Field(default=365, ge=1, le=3650)
    """How long an authorisation is valid (domain: TD0.3, one year)."""
    home_host: str = Field(default="national", pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    """The approved host that the dossiers opened here belong to."""
