"""What the gateway is told by its environment, beyond what every workload is told."""

from __future__ import annotations

from pydantic import Field, FilePath

from services.runtime.settings import Address, ServiceSettings, Target


class GatewaySettings(ServiceSettings):
    """`listen` is the gRPC relay, `http_listen` FHIR and OAuth."""

    http_listen: Address
    public_url: str = Field(min_length=1)
    """The base of every URL that the gateway gives out, such as `https://dmp.example`."""
    token_key_file: FilePath
    """The Ed25519 key that signs platform tokens; the gateway is the only issuer."""
    token_seconds: int = Field(default=300, ge=30, le=300)
    clients_file: FilePath | None = None
    """Registrations applied at start: a JSON array, see gateway/registration.py."""
    identity_address: Target
    consent_address: Target
    document_address: Target
    audit_address: Target
