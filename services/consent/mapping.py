"""Between the contract (dmp.consent.v1) and the values of this service: parse at the edge, nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acts import grantee_kind_fits
from services.consent.seeing import Filter
from services.consent.store.lists import GranteeRow
from services.consent.values import (
    Authorization,
    CloseReason,
    ConsentGiver,
    ConsentMethod,
    ConsentRecord,
    Document,
    Dossier,
    DossierState,
    Grantee,
    GranteeKind,
    Representation,
    RepresentationKind,
    Term,
)
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import dossier_name, dossier_of, person_name

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
_METHOD_OUT: Final = {value: key for key, value in _METHODS.items()}
_GIVER_OUT: Final = {value: key for key, value in _GIVERS.items()}
_KINDS: Final = {
    pb.GRANTEE_KIND_PROFESSIONAL: GranteeKind.PROFESSIONAL,
    pb.GRANTEE_KIND_STRUCTURE: GranteeKind.STRUCTURE,
}
_KIND_OUT: Final = {value: key for key, value in _KINDS.items()}
_STATE_OUT: Final = {
    DossierState.OPEN: pb.DOSSIER_STATE_OPEN,
    DossierState.CLOSED: pb.DOSSIER_STATE_CLOSED,
    DossierState.OPPOSED: pb.DOSSIER_STATE_OPPOSED,
    DossierState.NONE: pb.DOSSIER_STATE_UNSPECIFIED,
    DossierState.DESTROYING: pb.DOSSIER_STATE_DESTROYED,
    DossierState.DESTROYED: pb.DOSSIER_STATE_DESTROYED,
    DossierState.MERGED: pb.DOSSIER_STATE_MERGED,
}
_TERMS: Final = {pb.AUTHORIZATION_TERM_VISIT: Term.VISIT}
_TERM_OUT: Final = {Term.YEAR: pb.AUTHORIZATION_TERM_YEAR, Term.VISIT: pb.AUTHORIZATION_TERM_VISIT}
_REPRESENTATIONS: Final = {
    pb.REPRESENTATION_KIND_PARENT: RepresentationKind.PARENT,
    pb.REPRESENTATION_KIND_GUARDIAN: RepresentationKind.GUARDIAN,
    pb.REPRESENTATION_KIND_HEIR: RepresentationKind.HEIR,
    pb.REPRESENTATION_KIND_COURT: RepresentationKind.COURT,
}
_REPRESENTATION_OUT: Final = {value: key for key, value in _REPRESENTATIONS.items()}


def check_consent(record: pb.ConsentRecord) -> None:
    """INVALID_FIELD for a time that no calendar has, or a representative's consent without the representative."""
    consent = read_consent(record)
    if (consent.given_by is ConsentGiver.REPRESENTATIVE) != (consent.representative != 0):
        raise invalid("consent.representative", "consent.given_by", "named when, and only when, he gave the consent")


def read_consent(record: pb.ConsentRecord) -> ConsentRecord:
    """The proof in a validated request."""
    return ConsentRecord(
        read_time(record.collect_time, "consent.collect_time"),
        _METHODS[record.method],
        _GIVERS[record.given_by],
        record.collector,
        int(dossier_of(record.representative, "consent.representative")) if record.representative else 0,
    )


def read_person(name: str) -> int:
    """The health id in `people/{person}`, 0 for what is none: validation refuses it before it is used."""
    try:
        return int(dossier_of(name, "person")) if name.startswith("people/") else 0
    except DmpError:
        return 0


def read_representation_kind(kind: int) -> RepresentationKind:
    """An unknown kind reads as a court, whom only operators register; validation refuses it before it is used."""
    return _REPRESENTATIONS.get(kind, RepresentationKind.COURT)  # type: ignore[call-overload,no-any-return]


def read_term(term: int) -> Term:
    """A year unless it is for one visit."""
    return _TERMS.get(term, Term.YEAR)  # type: ignore[call-overload,no-any-return]


def read_document(attributes: pb.DocumentAttributes) -> Document:
    """The one document that a check is about."""
    return Document(
        type_code=attributes.type_code,
        masked=attributes.masked,
        invisible_to_patient=attributes.invisible_to_patient,
        hidden_from_representatives=attributes.hidden_from_representatives,
        authored_by_caller=attributes.authored_by_caller,
        authored_by_structure=attributes.authored_by_structure,
        archived=attributes.archived,
        deprecated=attributes.deprecated,
        deleted=attributes.deleted,
    )


def read_close_reason(reason: int) -> CloseReason | None:
    """None for a value that the contract does not know."""
    return _CLOSE_REASONS.get(reason)  # type: ignore[call-overload,no-any-return]


def read_grantee(
    request: pb.GrantAuthorizationRequest | pb.RevokeAuthorizationRequest | pb.RemoveAttendingPhysicianRequest,
) -> Grantee | None:
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
        open_time=write_optional_time(dossier.opened_at),
        close_time=write_optional_time(dossier.closed_at),
        epoch=dossier.epoch,
        break_glass_opposed=dossier.break_glass_opposed,
        regulation_opposed=dossier.regulation_opposed,
        home_host=dossier.home_host,
        region=dossier.region,
        masked_shown_in_emergency=dossier.masked_in_emergency,
        closed_by=dossier.closed_by,
        destroy_time=write_optional_time(dossier.destroy_at),
        death_time=write_optional_time(dossier.died_at),
        destruction_requested=dossier.destruction_requested,
        merged_into=dossier_name(dossier.merged_into) if dossier.merged_into else "",
    )
    if dossier.close_reason is not None:
        written.close_reason = _CLOSE_REASON_OUT[dossier.close_reason]
    return written


def write_consent(record: ConsentRecord) -> pb.ConsentRecord:
    """The proof as the contract shows it."""
    return pb.ConsentRecord(
        collect_time=write_time(record.collected_at),
        method=_METHOD_OUT[record.method],
        given_by=_GIVER_OUT[record.given_by],
        collector=record.collector,
        representative=person_name(record.representative) if record.representative else "",
    )


def write_standing(row: GranteeRow, now: datetime) -> pb.GranteeStanding:
    """How a grantee stands as the contract shows it."""
    if row.authorization is None:
        return pb.GranteeStanding(
            grantee=write_grantee(row.grantee),
            state=pb.AUTHORIZATION_STATE_FORBIDDEN,
            block_time=write_optional_time(row.blocked_at),
        )
    valid = row.authorization.expires_at > now
    return pb.GranteeStanding(
        grantee=write_grantee(row.grantee),
        state=pb.AUTHORIZATION_STATE_VALID if valid else pb.AUTHORIZATION_STATE_EXPIRED,
        authorization=write_authorization(row.authorization),
    )


def write_grantee(grantee: Grantee) -> pb.Grantee:
    """The grantee as the contract shows it."""
    return pb.Grantee(kind=_KIND_OUT[grantee.kind], id=grantee.id)


def write_authorization(authorization: Authorization) -> pb.Authorization:
    """The authorisation as the contract shows it."""
    return pb.Authorization(
        grantee=write_grantee(authorization.grantee),
        grant_time=write_time(authorization.granted_at),
        expire_time=write_time(authorization.expires_at),
        attending_physician=authorization.attending_physician,
        term=_TERM_OUT[authorization.term],
        care_team=authorization.care_team,
        secret=authorization.secret,
    )


def write_representative(representation: Representation, now: datetime) -> pb.Representative:
    """The representation as the contract shows it."""
    return pb.Representative(
        person=person_name(representation.person),
        kind=_REPRESENTATION_OUT[representation.kind],
        start_time=write_time(representation.starts_at),
        end_time=write_optional_time(representation.ends_at),
        active=representation.in_force(now),
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
        restriction=bounds.restriction,  # type: ignore[arg-type]
        without_archived=bounds.without_archived,
        without_deprecated=bounds.without_deprecated,
        deleted_traces=bounds.deleted_traces,
        secret=bounds.secret,
    )


def write_time(at: datetime) -> Timestamp:
    """A timestamp of microseconds."""
    written = Timestamp()
    written.FromDatetime(at)
    return written


def write_optional_time(at: datetime | None) -> Timestamp | None:
    """The same where there may be none."""
    return None if at is None else write_time(at)


def read_time(timestamp: Timestamp, field: str) -> datetime:
    """The instant; INVALID_FIELD for one that no calendar has."""
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "timestamp", "not a time of the calendar") from None
