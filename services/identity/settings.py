"""What the identity service is told. The values that every service has are in the runtime."""

from __future__ import annotations

from services.runtime.settings import ServiceSettings, Target


class IdentitySettings(ServiceSettings):
    """The service cannot do without audit."""

    audit_address: Target
