"""What the audit service is told, beside what every service is."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import ServiceSettings, Target


class AuditSettings(ServiceSettings):
    """Settings of the audit service."""

    consent_address: Target
    audit_log_count: int = Field(default=1, ge=1, le=1024)
    """Number of logs. Fixed by the first start: a dossier is found in its log by this number."""
    audit_batch_events: int = Field(default=512, ge=1, le=4096)
    """Events of one transaction, about: the events of one call are never divided."""
    audit_max_pending_events: int = Field(default=8192, ge=1024, le=1 << 20)
    """Events of one log that may wait; beyond that callers are pushed back (OVERLOADED)."""
