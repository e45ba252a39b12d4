"""What the document service is told. The values that every service has are in the runtime."""

from __future__ import annotations

from services.runtime.settings import ServiceSettings, Target


class DocumentSettings(ServiceSettings):
    """The service cannot do without identity, consent and audit."""

    identity_address: Target
    consent_address: Target
    audit_address: Target

    allow_masked_and_invisible: bool = False
    """Whether MASQUE_PS may come together with INVISIBLE_PATIENT (domain.md §3: refused by default)."""
