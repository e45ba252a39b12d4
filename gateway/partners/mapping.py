"""Registrations as the contract has them, and back; what an approval's profiles allow. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from google.protobuf import timestamp_pb2
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey
from pydantic import ValidationError

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.gateway.v1 import partner_pb2 as pb
from gateway.clients import current_keys
from gateway.registration import QuotaRegistration, Registration
from gateway.store import ClientRow
from services.runtime.access import MethodAccess
from services.runtime.errors import DmpError, FieldViolation

_KINDS: Final = {
    access_pb2.CALLER_KIND_PARTNER: "partner",
    access_pb2.CALLER_KIND_INTERNAL: "internal",
    access_pb2.CALLER_KIND_OPERATOR: "operator",
}
_REALMS: Final = {
    pb.LOGIN_REALM_UNSPECIFIED: "",
    pb.LOGIN_REALM_PROFESSIONALS: "professionals",
    pb.LOGIN_REALM_PATIENTS: "patients",
}
_PROFILES: Final = {
    pb.APPROVAL_PROFILE_MANAGEMENT: "management",
    pb.APPROVAL_PROFILE_FEEDING: "feeding",
    pb.APPROVAL_PROFILE_CONSULTATION: "consultation",
}
_CARE: Final = ("TD0.", "TD1.", "TD2.", "TD3.")
_THROUGH_SOFTWARE: Final = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})
_TRANSACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "management": ("TD0.", "TD1."),
    "feeding": ("TD0.2", "TD2.", "TD3.1b"),
    "consultation": ("TD0.", "TD3."),
}
"""Which transactions a profile is for, by the beginning of their names (domain: transactions). What belongs to no
transaction of care (identities, traces) is for every profile."""


def scopes_of_profiles(profiles: Iterable[str], methods: Iterable[MethodAccess]) -> frozenset[str]:
    """The scopes that software approved for these profiles may have: those of a method that one of them allows, which
    open no change that none of them allows (they may open a reading method of another profile besides)."""
    begins = tuple(begin for profile in profiles for begin in _TRANSACTIONS[profile])
    if not begins:
        return frozenset()
    allowed: set[str] = set()
    beyond: set[str] = set()
    for method in methods:
        if not method.callers & _THROUGH_SOFTWARE:
            continue
        if not method.transaction.startswith(_CARE) or method.transaction.startswith(begins):
            allowed |= method.scopes
        elif method.mutation:
            beyond |= method.scopes
    return frozenset(allowed - beyond)


def registration_of(partner: pb.Partner, methods: Iterable[MethodAccess]) -> Registration:
    """The registration that a message describes; INVALID_FIELD naming what is wrong with it."""
    try:
        registration = Registration.model_validate(_fields(partner))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise DmpError(
            reasons.ERROR_REASON_INVALID_FIELD,
            fields=[
                FieldViolation(
                    ".".join(["partner", *(str(part) for part in problem["loc"])]),
                    problem["type"],
                    problem["msg"].removeprefix("Value error, "),
                )
                for problem in problems[:16]
            ],
        ) from None
    _check_approval(registration, list(methods))
    return registration


def _fields(partner: pb.Partner) -> dict[str, Any]:
    """A registration's fields as its model reads them."""
    return {
        "client_id": partner.client_id,
        "kind": _KINDS[partner.kind],
        "vendor": partner.vendor,
        "contact": partner.contact,
        "software": {
            "id": partner.software.id,
            "name": partner.software.name,
            "version": partner.software.version,
            "approval_number": partner.software.approval_number,
        },
        "profiles": [_PROFILES[profile] for profile in partner.profiles],
        "scopes": list(partner.scopes),
        "actors": [_name(context_pb2.ActorKind, each, "ACTOR_KIND_") for each in partner.bounds.actors],
        "professions": list(partner.bounds.professions),
        "structures": list(partner.bounds.structures),
        "access_modes": [_name(context_pb2.AccessMode, m, "ACCESS_MODE_") for m in partner.bounds.access_modes]
        or ["normal"],
        "authentication_modes": [
            _name(context_pb2.AuthenticationMode, m, "AUTHENTICATION_MODE_")
            for m in partner.bounds.authentication_modes
        ]
        or ["direct"],
        "grants": [_name(pb.GrantKind, grant, "GRANT_KIND_") for grant in partner.grants] or ["client_credentials"],
        "login": _REALMS[partner.login],
        "redirect_uris": list(partner.redirect_uris),
        "jwks": {"keys": read_keys(partner.jwks, "partner.jwks")},
        "certificate_uri": partner.certificate_uri,
        "quota": _quota(partner),
        "sandbox": partner.sandbox,
        "reflection": partner.reflection,
        "takes_over_hosts": list(partner.takes_over_hosts),
    }


def state_of(row: ClientRow) -> pb.PartnerState:
    """A registration as it stands."""
    registration = row.registration
    partner = pb.Partner(
        client_id=registration.client_id,
        kind=next(kind for kind, name in _KINDS.items() if name == registration.kind),
        vendor=registration.vendor,
        contact=registration.contact,
        software=context_pb2.Software(**registration.software.model_dump()),
        profiles=sorted(value for value, name in _PROFILES.items() if name in registration.profiles),
        scopes=sorted(registration.scopes),
        bounds=pb.Bounds(
            actors=sorted(_values(context_pb2.ActorKind, registration.actors, "ACTOR_KIND_")),
            professions=sorted(registration.professions),
            structures=sorted(registration.structures),
            access_modes=sorted(_values(context_pb2.AccessMode, registration.access_modes, "ACCESS_MODE_")),
            authentication_modes=sorted(
                _values(context_pb2.AuthenticationMode, registration.authentication_modes, "AUTHENTICATION_MODE_")
            ),
        ),
        grants=sorted(_values(pb.GrantKind, registration.grants, "GRANT_KIND_")),
        login=next(value for value, name in _REALMS.items() if name == registration.login),
        redirect_uris=registration.redirect_uris,
        jwks=json.dumps(current_keys(row), sort_keys=True),
        certificate_uri=registration.certificate_uri,
        sandbox=registration.sandbox,
        reflection=registration.reflection,
        takes_over_hosts=sorted(registration.takes_over_hosts),
    )
    if registration.quota is not None:
        partner.quota.CopyFrom(pb.Quota(**registration.quota.model_dump()))
    state = pb.PartnerState(
        partner=partner,
        suspended=row.suspended_at is not None or not registration.active,
        suspend_reason=row.suspend_reason,
        declared=row.declared,
        update_time=_timestamp(row.updated_at),
    )
    if row.suspended_at is not None:
        state.suspend_time.CopyFrom(_timestamp(row.suspended_at))
    return state


def read_keys(jwks: str, field: str) -> list[dict[str, str]]:
    """The public keys of a JWK set, each with a `kid`; INVALID_FIELD for a private, foreign or weak one."""
    if not jwks:
        return []
    try:
        entries = json.loads(jwks)["keys"]
        keys = [_public_key(entry) for entry in entries]
    except (JoseError, ValueError, KeyError, TypeError, RecursionError):
        raise _bad_key(field, "not a JWK set of public EC P-256 or Ed25519 keys") from None
    if len({key["kid"] for key in keys}) != len(keys):
        raise _bad_key(field, "two keys have one kid")
    if len(keys) > 16:
        raise _bad_key(field, "at most 16 keys")
    return keys


def _public_key(entry: Any) -> dict[str, str]:
    kind, curve = entry["kty"], entry["crv"]
    if "d" in entry or (kind, curve) not in (("EC", "P-256"), ("OKP", "Ed25519")):
        raise ValueError
    key = ECKey.import_key(entry) if kind == "EC" else OKPKey.import_key(entry)
    kid = str(entry.get("kid") or key.thumbprint())
    if not 1 <= len(kid) <= 128 or "\0" in kid:
        raise ValueError
    public = {name: str(value) for name, value in key.as_dict(private=False).items() if isinstance(value, str)}
    return {**public, "kid": kid}


def _check_approval(registration: Registration, methods: list[MethodAccess]) -> None:
    known = {scope for method in methods for scope in method.scopes}
    wrong = sorted(registration.scopes - known)
    if registration.kind == "partner":
        if not registration.profiles:
            violation = FieldViolation("partner.profiles", "required", "a partner's package is approved for a profile")
            raise DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=[violation])
        wrong = sorted(registration.scopes - scopes_of_profiles(registration.profiles, methods))
    if wrong:
        violation = FieldViolation("partner.scopes", "approval", f"not of its profiles: {', '.join(wrong[:8])}")
        raise DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=[violation])


def _quota(partner: pb.Partner) -> dict[str, Any] | None:
    if not partner.HasField("quota"):
        return None
    quota = partner.quota
    return QuotaRegistration(
        requests_per_second=quota.requests_per_second, burst=quota.burst, batch_share=quota.batch_share or 0.25
    ).model_dump()


def _name(enum: Any, value: int, prefix: str) -> str:
    return cast(str, enum.Name(value)).removeprefix(prefix).lower()


def _values(enum: Any, names: Iterable[str], prefix: str) -> list[Any]:
    return [enum.Value(f"{prefix}{name.upper()}") for name in names]


def _timestamp(moment: Any) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _bad_key(field: str, description: str) -> DmpError:
    return DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=[FieldViolation(field, "jwks", description)])
