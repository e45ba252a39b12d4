"""What the consent service is told. The values that every service has are in the runtime."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import ServiceSettings, Target


class ConsentSettings(ServiceSettings):
    """The service cannot do without audit; without the document service it destroys nothing whose time is over."""

    audit_address: Target

    authorization_days: int = Field(default=365, ge=1, le=3650)
    """How long an authorisation is valid (domain: TD0.3, one year)."""
    visit_hours: int = Field(default=24, ge=1, le=168)
    """How long an authorisation given for one visit is valid."""
    retention_years: int = Field(default=10, ge=1, le=100)
    """How long the archive of a closed dossier is kept (domain §3: ten years)."""
    destruction_days: int = Field(default=30, ge=0, le=90)
    """How long after a patient's request a closed dossier is destroyed (domain §3: within three months)."""
    minority_years: int = Field(default=18, ge=1, le=25)
    """The age of majority: a parent represents a child at most so long."""
    home_host: str = Field(default="national", pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")
    """The approved host that the dossiers opened here belong to."""
    region: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{0,63})?$")
    """The region that the dossiers opened here belong to; empty for none."""
