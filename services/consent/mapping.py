"""Between the contract (dmp.consent.v1) and the values of this service: parse at the edge, nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acts import Opening, grantee_kind_fits
from services.consent.decision import Filter
from services.consent.values import (
    Authorization,
    CloseReason,
    ConsentGiver,
    ConsentMethod,
    ConsentRecord,
    Dossier,
    DossierState,
    Grantee,
    GranteeKind,
)
from services.runtime.errors import invalid
from services.runtime.identifiers import dossier_name

_CLOSE_REASONS: Final = {
    pb.CLOSE_REASON_PATIENT_REQUEST: CloseReason.PATIENT_REQUEST,
    pb.CLOSE_REASON_DEATH: CloseReason.DEATH,
    pb.CLOSE_REASON_ERROR: CloseReason.ERROR,
}
_CLOSE_REASON_OUT: Final = {value: key for key, value in _CLOSE_REASONS.items()}
_METHODS: Final = {
    pb.CONSENT_METHOD_ORAL: ConsentMethod.ORAL,
    pb.CONSENT_METHOD_WRITTEN: ConsentMethod.WRITTEN,
    pb.CONSENT_METHOD_ELECTRONIC: ConsentMethod.ELECTRONIC,
}
_GIVERS: Final = {
    pb.CONSENT_GIVER_PATIENT: ConsentGiver.PATIENT,
    pb.CONSENT_GIVER_REPRESENTATIVE: ConsentGiver.REPRESENTATIVE,
}
_KINDS: Final = {
    pb.GRANTEE_KIND_PROFESSIONAL: GranteeKind.PROFESSIONAL,
    pb.GRANTEE_KIND_STRUCTURE: GranteeKind.STRUCTURE,
}
_KIND_OUT: Final = {value: key for key, value in _KINDS.items()}
_STATE_OUT: Final = {
    DossierState.OPEN: pb.DOSSIER_STATE_OPEN,
    DossierState.CLOSED: pb.DOSSIER_STATE_CLOSED,
}


def read_opening(request: pb.OpenDossierRequest) -> Opening:
    """The wish in a validated request. INVALID_FIELD for a time that no calendar has."""
    consent = request.consent
    return Opening(
        ConsentRecord(
            _read_time(consent.collect_time, "consent.collect_time"),
            _METHODS[consent.method],
            _GIVERS[consent.given_by],
        ),
        break_glass_opposed=request.break_glass_opposed,
        regulation_opposed=request.regulation_opposed,
    )


def read_close_reason(reason: int) -> CloseReason | None:
    """None for a value that the contract does not know."""
    return _CLOSE_REASONS.get(reason)  # type: ignore[call-overload,no-any-return]


def read_grantee(request: pb.GrantAuthorizationRequest | pb.RevokeAuthorizationRequest) -> Grantee | None:
    """The grantee named, if any; of no use before the request is validated."""
    return read_party(request.grantee) if request.HasField("grantee") else None


def read_party(grantee: pb.Grantee) -> Grantee:
    """A grantee as stated. An unknown kind reads as a professional: validation refuses it before it is used."""
    return Grantee(_KINDS.get(grantee.kind, GranteeKind.PROFESSIONAL), grantee.id.replace("\0", ""))


def check_party(grantee: Grantee | None) -> None:
    """INVALID_FIELD when the identifier is not of the kind stated: a block on it would shut out nobody."""
    if grantee is not None and not grantee_kind_fits(grantee):
        raise invalid("grantee.id", "grantee.kind", "the identifier does not begin like one of this kind")


def write_dossier(dossier: Dossier) -> pb.Dossier:
    """The dossier as the contract shows it."""
    written = pb.Dossier(
        name=dossier_name(dossier.health_id),
        state=_STATE_OUT[dossier.state],
        open_time=write_time(dossier.opened_at),
        epoch=dossier.epoch,
        break_glass_opposed=dossier.break_glass_opposed,
        regulation_opposed=dossier.regulation_opposed,
        home_host=dossier.home_host,
    )
    if dossier.closed_at is not None and dossier.close_reason is not None:
        written.close_time.CopyFrom(write_time(dossier.closed_at))
        written.close_reason = _CLOSE_REASON_OUT[dossier.close_reason]
    return written


def write_authorization(authorization: Authorization) -> pb.Authorization:
    """The authorisation as the contract shows it."""
    return pb.Authorization(
        grantee=pb.Grantee(kind=_KIND_OUT[authorization.grantee.kind], id=authorization.grantee.id),
        grant_time=write_time(authorization.granted_at),
        expire_time=write_time(authorization.expires_at),
        attending_physician=authorization.attending_physician,
    )


def write_filter(bounds: Filter) -> pb.Filter:
    """The filter as the contract shows it."""
    return pb.Filter(
        denied_type_codes=bounds.denied_type_codes,
        masked=bounds.masked,  # type: ignore[arg-type]
        content_readable=bounds.content_readable,
        patient_view=bounds.patient_view,
        representative_view=bounds.representative_view,
        traces=bounds.traces,  # type: ignore[arg-type]
        imputed_structure=bounds.imputed_structure,
    )


def write_time(at: datetime) -> Timestamp:
    """A timestamp of microseconds."""
    written = Timestamp()
    written.FromDatetime(at)
    return written


def _read_time(timestamp: Timestamp, field: str) -> datetime:
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "timestamp", "not a time of the calendar") from None
