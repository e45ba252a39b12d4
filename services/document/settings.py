"""What the document service is told. The values that every service has are in the runtime."""

from __future__ import annotations

from pydantic import Field, FilePath

from services.runtime.settings import Listen, ServiceSettings, Target


class DocumentSettings(ServiceSettings):
    """The service cannot do without identity, consent and audit."""

    identity_address: Target
    consent_address: Target
    audit_address: Target

    allow_masked_and_invisible: bool = False
    """Whether MASQUE_PS may come together with INVISIBLE_PATIENT (domain.md §3: refused by default)."""
    max_submission_bytes: int = Field(default=256 << 20, ge=1 << 20, le=1 << 30)
    """All contents of a submission together, uploads included."""

    submission_group: int = Field(default=48, ge=1, le=256)
    """Submissions that may share one commit; 1 on a cluster, where a transaction stays on one shard
    (docs/how-to/cluster.md)."""

    object_store_url: str | None = None
    """Where contents may lie besides the database: `s3://…`, `gs://…`, `az://…`, `file:///…`."""
    object_store_config_file: FilePath | None = None
    """A JSON object with the store's keys and options, as obstore names them."""
    object_store_writes: bool = True
    """Whether new contents go to the object store; without it, it only keeps what was moved there."""
    scanner_address: Listen | None = None
    """Where clamd is asked about every content, `host:port` or `unix:/path`; nothing is scanned without it."""
