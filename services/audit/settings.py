"""What the audit service is told, beside what every service is."""

from __future__ import annotations

from pydantic import DirectoryPath, Field, FilePath

from services.runtime.settings import ServiceSettings, Target


class AuditSettings(ServiceSettings):
    """Settings of the audit service."""

    consent_address: Target
    identity_address: Target
    audit_log_count: int = Field(default=1, ge=1, le=1024)
    """Number of logs. Fixed by the first start: a dossier is found in its log by this number."""
    audit_batch_events: int = Field(default=512, ge=1, le=4096)
    """Events of one transaction, about: the events of one call are never divided."""
    audit_max_pending_events: int = Field(default=8192, ge=1024, le=1 << 20)
    """Events of one log that may wait; beyond that callers are pushed back (OVERLOADED)."""
    audit_log_keys_dir: DirectoryPath
    """A file `<log id>.skey` for each log: its Ed25519 key, named by the log's origin (c2sp.org/signed-note)."""
    audit_witness_policy_file: FilePath | None = None
    """The witnesses, where they are, and how many must cosign (c2sp.org/tlog-policy); without it, none."""
    audit_checkpoint_seconds: float = Field(default=0.25, ge=0.05, le=60)
    """Time between two checkpoints of a log that grows, at least."""
    audit_witness_seconds: float = Field(default=0.5, ge=0.05, le=30)
    """How long a checkpoint waits for witnesses before it is given out without them."""
    audit_tile_store: str | None = None
    """Where tiles are kept and served from, such as `s3://bucket/prefix`; without it, in the database."""
    audit_retention_file: FilePath | None = None
    """How long events can be read, by kind: a table like services/audit/retention.csv, which holds without it."""
    audit_smtp_host: str | None = None
    """The mail server through which notices leave; without it they are lines in the log."""
    audit_smtp_port: int = Field(default=587, ge=1, le=65535)
    audit_smtp_start_tls: bool = True
    audit_notice_sender: str | None = None
    """The address that notices come from."""
    audit_notice_recipient: str | None = None
    """Where notices go: an alias with `{health_id}` and `{recipient}` in the operator's domain. Without it patients are
    written to at the address that they gave, attending physicians at that of the directory; both are identity's. Whose
    address is not known reads his notices in the platform."""
