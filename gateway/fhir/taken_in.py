"""The Parameters of a dossier that another host handed over (`handed_over`), read back. Pure.

Links to people are read apart: who they are here is for the endpoint to find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.consent.v1 import consent_pb2 as pb
from gateway.fhir.codesystems import IDNPS, IDNST
from gateway.fhir.identifiers import PatientLink, known_identifier, patient_identifier, read_patient
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, Node
from gateway.fhir.refusals import invalid
from gateway.fhir.times import timestamp
from services.runtime.errors import DmpError

_MOST: Final = 10_000
_KINDS: Final = {IDNPS: pb.GRANTEE_KIND_PROFESSIONAL, IDNST: pb.GRANTEE_KIND_STRUCTURE}
_TIMES: Final = {
    "openDate": "open_time",
    "closeDate": "close_time",
    "deathDate": "death_time",
    "destructionDate": "destroy_time",
}
_FLAGS: Final = {
    "breakGlassOpposed": "break_glass_opposed",
    "regulationOpposed": "regulation_opposed",
    "maskedShownInEmergency": "masked_shown_in_emergency",
    "destructionRequested": "destruction_requested",
}
_WORDS: Final = {"homeHost": "home_host", "region": "region", "closedBy": "closed_by"}
_GIVEN: Final = {"attendingPhysician": "attending_physician", "careTeam": "care_team", "secret": "secret"}
_SAID: Final = frozenset(
    {
        *("patient", "state", "reason", "mergedInto", "representatives", "blocked", "authorized"),
        *("consentMethod", "consentGivenBy", "consentDate", "consentCollector", "consentRepresentative"),
        *(_TIMES | _FLAGS | _WORDS),
    }
)
_OF_A_STANDING: Final = frozenset({"actor", "start", "end", "visit", *_GIVEN})
_OF_A_REPRESENTATIVE: Final = frozenset({"person", "kind", "start", "end"})
_FIELDS: Final[Mapping[str, str]] = {
    "name": "patient",
    "taken.standings": "authorized",
    "taken.representatives": "representatives",
    "taken.consent": "consentDate",
    "taken.dossier.state": "state",
    "taken.dossier.merged_into": "mergedInto",
    **{f"taken.dossier.{field}": name for name, field in (_TIMES | _WORDS | _FLAGS).items()},
}


@dataclass(frozen=True, slots=True)
class Taken:
    """A dossier as handed over, without the people that it names: whose it is, and who else it speaks of.

    `representatives` are in the order of those of `host`; `giver` is who gave the consent in the patient's place;
    `survivor` is the person whose dossier a merged one went to.
    """

    patient: PatientLink
    host: pb.HostDossier
    representatives: tuple[PatientLink, ...]
    giver: PatientLink | None
    survivor: PatientLink | None


def read_taken(parameters: Node, base_url: str) -> Taken:
    """What a line says; INVALID_FIELD or METADATA_ERROR naming what is wrong."""
    said = _by_name(parameters.child("parameter").required().array(_MOST), _SAID)
    host = pb.HostDossier()
    state = _code(said, "state", pb.DossierState, "DOSSIER_STATE_")
    host.dossier.state = state  # type: ignore[assignment]
    if "reason" in said:
        host.dossier.close_reason = _code(said, "reason", pb.CloseReason, "CLOSE_REASON_")  # type: ignore[assignment]
    for name, field in _TIMES.items():
        _moment(said, name, getattr(host.dossier, field))
    for name, field in _FLAGS.items():
        setattr(host.dossier, field, name in said and said[name].boolean("valueBoolean"))
    for name, field in _WORDS.items():
        setattr(host.dossier, field, said[name].token(name="valueString") if name in said else "")
    if "consentMethod" in said:
        _read_consent(said, host.consent)
    for name in ("blocked", "authorized"):
        for entry in _parts(said, name):
            host.standings.append(_standing(entry, blocked=name == "blocked"))
    people = [_representative(entry, host.representatives.add(), base_url) for entry in _parts(said, "representatives")]
    giver = (
        read_patient(said["consentRepresentative"].child("valueReference"), base_url)
        if "consentRepresentative" in said
        else None
    )
    survivor = read_patient(said["mergedInto"].child("valueReference"), base_url) if "mergedInto" in said else None
    return Taken(_patient(said, base_url), host, tuple(people), giver, survivor)


def said_field(field: str) -> str:
    """The place in the Parameters of a field of the request that they became."""
    for prefix in sorted(_FIELDS, key=len, reverse=True):
        if field == prefix or field.startswith((f"{prefix}.", f"{prefix}[")):
            return f"Parameters.parameter('{_FIELDS[prefix]}'){field.removeprefix(prefix)}"
    return field


def _patient(said: Mapping[str, Node], base_url: str) -> PatientLink:
    if "patient" not in said:
        raise invalid("Parameters.parameter('patient')", "required", "whose dossier it is")
    named = said["patient"].child("valueIdentifier")
    if not named.present:
        return read_patient(said["patient"].child("valueReference"), base_url)
    system = named.child("system").required().token(LONGEST_URI)
    value = named.child("value").required().token(LONGEST_CODE)
    return PatientLink(patient_identifier(system, value, named.path), field=named.path)


def _read_consent(said: Mapping[str, Node], consent: pb.ConsentRecord) -> None:
    consent.method = _code(said, "consentMethod", pb.ConsentMethod, "CONSENT_METHOD_")  # type: ignore[assignment]
    consent.given_by = _code(said, "consentGivenBy", pb.ConsentGiver, "CONSENT_GIVER_")  # type: ignore[assignment]
    if not _moment(said, "consentDate", consent.collect_time):
        raise invalid("Parameters.parameter('consentDate')", "required", "when the consent was given")
    if "consentCollector" in said:
        consent.collector = said["consentCollector"].token(name="valueString")


def _standing(entry: Node, *, blocked: bool) -> pb.GranteeStanding:
    said = _by_name(entry.children("part", 16), _OF_A_STANDING)
    actor = said.get("actor", Node(f"{entry.path}.part('actor')", None)).child("valueIdentifier").required()
    system = actor.child("system").required().token(LONGEST_URI)
    found = known_identifier(system, actor.child("value").required().token(LONGEST_CODE), actor.path)
    if found.system not in _KINDS:
        raise actor.error("system", "a professional or a structure, by the identifier of its kind")
    standing = pb.GranteeStanding(grantee=pb.Grantee(kind=_KINDS[found.system], id=found.value))
    if blocked:
        standing.state = pb.AUTHORIZATION_STATE_FORBIDDEN
        _moment(said, "start", standing.block_time)
        return standing
    given = standing.authorization
    _moment(said, "start", given.grant_time)
    _moment(said, "end", given.expire_time)
    for name, field in _GIVEN.items():
        setattr(given, field, name in said and said[name].boolean("valueBoolean"))
    visit = "visit" in said and said["visit"].boolean("valueBoolean")
    given.term = pb.AUTHORIZATION_TERM_VISIT if visit else pb.AUTHORIZATION_TERM_YEAR
    return standing


def _representative(entry: Node, written: pb.Representative, base_url: str) -> PatientLink:
    said = _by_name(entry.children("part", 16), _OF_A_REPRESENTATIVE)
    written.kind = _code(said, "kind", pb.RepresentationKind, "REPRESENTATION_KIND_")  # type: ignore[assignment]
    _moment(said, "start", written.start_time)
    _moment(said, "end", written.end_time)
    person = said.get("person", Node(f"{entry.path}.part('person')", None))
    return read_patient(person.child("valueReference"), base_url)


def _parts(said: Mapping[str, Node], name: str) -> list[Node]:
    return said[name].children("part", _MOST) if name in said else []


def _by_name(items: Sequence[Node], known: frozenset[str]) -> dict[str, Node]:
    """What is said, by its name; INVALID_FIELD for what is said twice or is not known: whom it shuts out would be
    let in."""
    said: dict[str, Node] = {}
    for item in items:
        name = item.token(name="name")
        if name not in known:
            raise invalid(f"{item.path}.name", "known", f"one of {', '.join(sorted(known))}")
        if name in said:
            raise invalid(f"{item.path}.name", "unique", f"{name} is said once")
        said[name] = item
    return said


def _moment(said: Mapping[str, Node], name: str, written: Timestamp) -> bool:
    found = timestamp(said[name].child("valueDateTime").required()) if name in said else None
    if found is not None:
        written.CopyFrom(found)
    return found is not None


def _code(said: Mapping[str, Node], name: str, words: Any, prefix: str) -> int:
    """The number of a word of the contract; INVALID_FIELD for another, and for none."""
    code = said[name].token(name="valueCode") if name in said else ""
    number = dict(words.items()).get(f"{prefix}{code.upper()}", 0)
    if not number:
        words_known = ", ".join(each.removeprefix(prefix) for each, value in words.items() if value)
        raise invalid(f"Parameters.parameter('{name}')", "code", f"one of {words_known}")
    return int(number)


def unknown_people(unknown: list[int]) -> DmpError:
    """That a dossier was taken in without representatives whom nobody here knows."""
    fields = [f"Parameters.parameter('representatives')[{index}].person" for index in unknown]
    error = invalid(fields[0], "representative.unknown", "taken in without this representative, whom nobody here knows")
    more = [invalid(each, "representative.unknown", "nobody here knows this representative") for each in fields[1:]]
    return DmpError(error.reason, fields=[*error.fields, *(one.fields[0] for one in more)])
