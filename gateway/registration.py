"""A client's registration: what it is, its keys, and what it may assert. Values and bounds only, no I/O.

Each client's registration bounds the actors, professions, structures and modes that it may assert and the scopes
that it may be given (design: who calls). `"*"` in `professions` or `structures` stands for any.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import format_health_id

ANY = "*"
FEEDS_REGISTER = "ITI-104"
"""The scope of who feeds the register of people, and merges them."""
HOST = r"^[a-z0-9][a-z0-9.-]{0,63}$"
"""How a home host is named."""
ClientKind = Literal["partner", "internal", "operator"]
ActorName = Literal["professional", "structure_staff", "structure", "patient", "representative", "system", "operator"]
ModeName = Literal["normal", "regulation", "break_glass"]
AuthenticationName = Literal["direct", "indirect", "indirect_strong"]
GrantName = Literal["client_credentials", "authorization_code"]
RealmName = Literal["", "professionals", "patients"]
ProfileName = Literal["management", "feeding", "consultation"]

_CALLERS: dict[str, access_pb2.CallerKind.ValueType] = {
    "partner": access_pb2.CALLER_KIND_PARTNER,
    "internal": access_pb2.CALLER_KIND_INTERNAL,
    "operator": access_pb2.CALLER_KIND_OPERATOR,
}
_OF_REALM: dict[str, frozenset[str]] = {
    "professionals": frozenset({"professional"}),
    "patients": frozenset({"patient", "representative"}),
}


class SoftwareRegistration(BaseModel):
    """The approved package."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    name: str
    version: str
    approval_number: str = ""


class QuotaRegistration(BaseModel):
    """How much a client may ask for, over all gateways together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    requests_per_second: float = Field(gt=0, le=100_000)
    burst: int = Field(gt=0, le=1_000_000)
    batch_share: float = Field(default=0.25, gt=0, le=1)


class Registration(BaseModel):
    """One registered client."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    client_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    kind: ClientKind
    active: bool = True
    vendor: str = ""
    contact: str = ""
    software: SoftwareRegistration
    profiles: frozenset[ProfileName] = frozenset()
    """Of its approval. They bound `scopes` where the operator registers it; a declared client need not name them."""
    scopes: frozenset[str]
    actors: frozenset[ActorName]
    professions: frozenset[str] = frozenset()
    structures: frozenset[str] = frozenset()
    access_modes: frozenset[ModeName] = frozenset({"normal"})
    authentication_modes: frozenset[AuthenticationName] = frozenset({"direct"})
    grants: frozenset[GrantName] = frozenset({"client_credentials"})
    login: RealmName = ""
    redirect_uris: tuple[str, ...] = ()
    jwks: dict[str, list[dict[str, str]]] = Field(default={"keys": []})
    """Public keys (a JWK set) that verify the client's assertions."""
    certificate_uri: str = ""
    """The URI name of the client certificate with which it may authenticate instead (RFC 8705)."""
    quota: QuotaRegistration | None = None
    sandbox: bool = False
    reflection: bool = False
    takes_over_hosts: frozenset[Annotated[str, Field(pattern=HOST)]] = frozenset()
    """The home hosts whose dossiers it may hand over or take over whole, as a system that names one of them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if "authorization_code" in self.grants:
            if not self.login or not self.redirect_uris:
                raise ValueError("the authorization_code grant needs login and redirect_uris")
            if not self.actors & _OF_REALM[self.login]:
                raise ValueError("nobody who signs in there is among actors")
        for uri in self.redirect_uris:
            if not allowed_redirect(uri):
                raise ValueError("a redirect URI is https, or http on loopback, without a fragment")
        if not self.jwks.get("keys") and not self.certificate_uri:
            raise ValueError("a client has a key or a certificate")
        if self.takes_over_hosts and ("system" not in self.actors or self.sandbox):
            raise ValueError("who takes over a host has system among actors, and is no sandbox")
        if self.takes_over_hosts and FEEDS_REGISTER in self.scopes:
            raise ValueError("who takes over a host feeds no register of people: it could make two people one")
        return self


class Statement(BaseModel):
    """Who acts, as a client states it in its assertion (`extensions.dmp`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    actor: ActorName
    subject: str = Field(min_length=1, max_length=64)
    subject_name: str = Field(default="", max_length=200)
    profession: str = Field(default="", max_length=8)
    specialty: str = Field(default="", max_length=64)
    structure: str = Field(default="", max_length=64)
    structure_name: str = Field(default="", max_length=200)
    authentication_mode: AuthenticationName = "direct"
    access_mode: ModeName = "normal"
    break_glass_reason: str = Field(default="", max_length=500)
    purpose_of_use: str = Field(default="TREAT", max_length=32)
    patient_health_id: int = Field(default=0, ge=0, le=(1 << 63) - 1)
    secret_connection: bool = False
    occupational_physician: bool = False
    takes_over_host: str = Field(default="", max_length=64)


def allowed_redirect(uri: str) -> bool:
    """Whether an authorization code may be sent there (RFC 9700 §4.1, RFC 8252 §7.3)."""
    try:
        parts = urlsplit(uri)
        loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    except ValueError:
        return False
    if parts.fragment or "#" in uri or parts.username is not None or not parts.hostname:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and loopback)


def acting_context(registration: Registration, statement: Statement) -> context_pb2.ActingContext:
    """The claims of a token for `statement`; GRANT_NOT_ALLOWED naming what exceeds the registration."""
    beyond = [
        FieldViolation(f"extensions.dmp.{field}", "registration", "beyond what this client is registered for")
        for field in _beyond(registration, statement)
    ]
    if beyond:
        raise DmpError(reasons.ERROR_REASON_GRANT_NOT_ALLOWED, fields=beyond)
    software = registration.software
    return context_pb2.ActingContext(
        actor_kind=context_pb2.ActorKind.Value(f"ACTOR_KIND_{statement.actor.upper()}"),
        subject=statement.subject,
        subject_name=statement.subject_name,
        profession=statement.profession,
        specialty=statement.specialty,
        structure=statement.structure,
        structure_name=statement.structure_name,
        authentication_mode=context_pb2.AuthenticationMode.Value(
            f"AUTHENTICATION_MODE_{statement.authentication_mode.upper()}"
        ),
        access_mode=context_pb2.AccessMode.Value(f"ACCESS_MODE_{statement.access_mode.upper()}"),
        break_glass_reason=statement.break_glass_reason,
        purpose_of_use=statement.purpose_of_use,
        software=context_pb2.Software(
            id=software.id, name=software.name, version=software.version, approval_number=software.approval_number
        ),
        patient_health_id=statement.patient_health_id,
        secret_connection=statement.secret_connection,
        client_id=registration.client_id,
        caller=caller_kind(registration, statement),
        occupational_physician=statement.occupational_physician,
        takes_over_host=statement.takes_over_host,
        sandbox=registration.sandbox,
    )


def caller_kind(registration: Registration, statement: Statement) -> access_pb2.CallerKind.ValueType:
    """The kind of caller: a patient or representative is one whatever software carries the call."""
    if statement.actor in ("patient", "representative"):
        return access_pb2.CALLER_KIND_PATIENT
    return _CALLERS[registration.kind]


def itself(registration: Registration) -> context_pb2.ActingContext:
    """A client as the actor of what it does for itself: asking for tokens, being refused."""
    software = registration.software
    return context_pb2.ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_SYSTEM,
        subject=registration.client_id[:64],
        software=context_pb2.Software(
            id=software.id, name=software.name, version=software.version, approval_number=software.approval_number
        ),
        client_id=registration.client_id,
        caller=_CALLERS[registration.kind],
        sandbox=registration.sandbox,
    )


def _beyond(registration: Registration, statement: Statement) -> list[str]:
    fields: list[str] = []
    if statement.actor not in registration.actors:
        fields.append("actor")
    if statement.actor == "professional" and not _within(statement.profession, registration.professions):
        fields.append("profession")
    if statement.structure and not _within(statement.structure, registration.structures):
        fields.append("structure")
    if statement.actor in ("structure", "structure_staff") and not statement.structure:
        fields.append("structure")
    if statement.access_mode not in registration.access_modes:
        fields.append("access_mode")
    if statement.access_mode == "break_glass" and not statement.break_glass_reason.strip():
        fields.append("break_glass_reason")
    if statement.authentication_mode not in registration.authentication_modes:
        fields.append("authentication_mode")
    if statement.takes_over_host and not (
        statement.actor == "system" and statement.takes_over_host in registration.takes_over_hosts
    ):
        fields.append("takes_over_host")
    if statement.actor in ("patient", "representative") and not statement.patient_health_id:
        fields.append("patient_health_id")
    if statement.actor == "patient" and statement.subject != format_health_id(statement.patient_health_id):
        fields.append("subject")
    return fields


def _within(value: str, allowed: frozenset[str]) -> bool:
    return ANY in allowed or value in allowed
