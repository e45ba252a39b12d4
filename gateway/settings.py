"""What the gateway is told by its environment, beyond what every workload is told."""

from __future__ import annotations

from pydantic import Field, FilePath

from services.runtime.settings import Address, ServiceSettings, Target


class GatewaySettings(ServiceSettings):
    """`listen` is the gRPC relay, `http_listen` FHIR and OAuth."""

    http_listen: Address
    http_connections: int = Field(default=4096, ge=16, le=1_000_000)
    """How many connections to the HTTP port there may be; beyond, those on which nothing has moved for longest are
    closed."""
    public_url: str = Field(min_length=1)
    """The base of every URL that the gateway gives out, such as `https://dmp.example`."""
    token_key_file: FilePath
    """The Ed25519 key that signs platform tokens; the gateway is the only issuer."""
    token_seconds: int = Field(default=300, ge=30, le=300)
    clients_file: FilePath | None = None
    """Registrations applied at start: a JSON array, see gateway/registration.py."""
    mutual_tls_listen: Address | None = None
    """Where clients authenticate by their certificate (RFC 8705): the OAuth forms over mutual TLS."""
    mutual_tls_url: str = ""
    """The base of the URLs of that port, such as `https://mtls.dmp.example`."""
    operator_listen: Address | None = None
    """Where operators keep the registrations: gRPC with mutual TLS, `dmp partner`."""
    openid_file: FilePath | None = None
    """The OpenID providers at which people sign in: JSON, see docs/reference/access.md."""
    sign_in_seconds: int = Field(default=4 * 3600, ge=60, le=24 * 3600)
    """How long a sign-in lasts: until then its refresh tokens give new tokens."""
    quota_requests_per_second: float = Field(default=50, gt=0, le=100_000)
    """The quota of a client whose registration has none, over all gateways together."""
    quota_burst: int = Field(default=200, gt=0, le=1_000_000)
    """How many requests of such a client may come at once."""
    gateways: int = Field(default=1, ge=1, le=1000)
    """How many gateways there are: while Redis is gone each gives out its part of a quota."""
    identity_address: Target
    consent_address: Target
    document_address: Target
    audit_address: Target
