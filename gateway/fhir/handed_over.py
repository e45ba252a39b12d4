"""What consent holds of a dossier that is handed over to another host, as FHIR: Parameters and Consents. Pure.

The Parameters are those of TD1.1, so that they open the dossier elsewhere, and say besides what became of it: its
state, when and why it was closed, when its archive ends, who represents the patient, who is shut out and who may enter,
so that one line makes the dossier whole elsewhere. The Consents are those of TD1.6, for readers of FHIR, those given in
secret and those that have expired among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.consent.v1 import consent_pb2
from dmp.consent.v1.consent_pb2 import GranteeStanding, HostDossier, Representative
from dmp.identity.v1.identity_pb2 import Person
from gateway.fhir import consents
from gateway.fhir.codesystems import IDNPS, IDNST, domain_uri
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import INS_DOMAINS
from gateway.fhir.node import JsonObject
from gateway.fhir.times import write
from services.runtime.identifiers import dossier_of

NOBODY_KNOWN: Final[Mapping[Any, Person]] = {}
SECRET: Final = "https://dmp.sante.fr/fhir/StructureDefinition/secret-connection"  # noqa: S105 (no password)
VISIT: Final = "https://dmp.sante.fr/fhir/StructureDefinition/for-a-visit"


def write_opening(
    found: HostDossier, person: Person | None, links: Links, known: Mapping[Any, Person] = NOBODY_KNOWN
) -> JsonObject:
    """The Parameters of a dossier; `person` is None where identity knows nobody. `known` are others that it names."""
    dossier, consent = found.dossier, found.consent
    health_id = dossier_of(dossier.name, "name")
    said = [
        {"name": "patient", **_patient(health_id, person, links)},
        _code("state", consent_pb2.DossierState.Name(dossier.state), "DOSSIER_STATE_"),
        *_consent(found),
        {"name": "breakGlassOpposed", "valueBoolean": dossier.break_glass_opposed},
        {"name": "regulationOpposed", "valueBoolean": dossier.regulation_opposed},
        {"name": "maskedShownInEmergency", "valueBoolean": dossier.masked_shown_in_emergency},
        {"name": "homeHost", "valueString": dossier.home_host},
        *([{"name": "region", "valueString": dossier.region}] if dossier.region else ()),
        *_moment("openDate", dossier, "open_time"),
        *_moment("closeDate", dossier, "close_time"),
        *_moment("deathDate", dossier, "death_time"),
        *_moment("destructionDate", dossier, "destroy_time"),
    ]
    if dossier.close_reason:
        said.append(_code("reason", consent_pb2.CloseReason.Name(dossier.close_reason), "CLOSE_REASON_"))
    if dossier.closed_by:
        said.append({"name": "closedBy", "valueString": dossier.closed_by})
    if dossier.destruction_requested:
        said.append({"name": "destructionRequested", "valueBoolean": True})
    if dossier.merged_into:
        survivor = links.patient_id(dossier_of(dossier.merged_into, "merged_into"))
        said.append({"name": "mergedInto", "valueReference": {"reference": f"Patient/{survivor}"}})
    if found.representatives:
        people = [_representative(each, links, known) for each in found.representatives]
        said.append({"name": "representatives", "part": people})
    if consent.representative:
        giver = _reference(dossier_of(consent.representative, "representative"), links, known)
        said.append({"name": "consentRepresentative", "valueReference": giver})
    shut = [each for each in found.standings if each.state == consent_pb2.AUTHORIZATION_STATE_FORBIDDEN]
    entitled = [each for each in found.standings if each.state != consent_pb2.AUTHORIZATION_STATE_FORBIDDEN]
    for name, standings in (("blocked", shut), ("authorized", entitled)):
        if standings:
            said.append({"name": name, "part": [_entitled(each) for each in standings]})
    return {"resourceType": "Parameters", "id": links.patient_id(health_id)[:64], "parameter": said}


def write_consents(found: HostDossier, person: Person | None, links: Links) -> Iterator[JsonObject]:
    """The Consents of a dossier: blocks first, then authorisations, then what was decided about emergencies."""
    health_id = dossier_of(found.dossier.name, "name")
    standings = sorted(found.standings, key=lambda each: each.state != consent_pb2.AUTHORIZATION_STATE_FORBIDDEN)
    written = [_standing(each, health_id, links) for each in standings]
    if found.dossier.state != consent_pb2.DOSSIER_STATE_OPPOSED:
        written += consents.write_preferences(found.dossier, health_id, links.ids)
    named = identifier_of(person)
    for each in written:
        yield {**each, "patient": {**each["patient"], **({"identifier": named} if named else {})}}


def _standing(standing: GranteeStanding, health_id: int, links: Links) -> JsonObject:
    resource = consents.write_standing(standing, health_id, links.ids)
    authorization = standing.authorization
    for url, holds in (
        (SECRET, authorization.secret),
        (VISIT, authorization.term == consent_pb2.AUTHORIZATION_TERM_VISIT),
    ):
        if holds:
            resource.setdefault("extension", []).append({"url": url, "valueBoolean": True})
    return resource


def _consent(found: HostDossier) -> list[JsonObject]:
    """On what the dossier was opened; nothing of a person who opposes any opening."""
    if not found.HasField("consent"):
        return []
    consent = found.consent
    said = [
        _code("consentMethod", consent_pb2.ConsentMethod.Name(consent.method), "CONSENT_METHOD_", lower=True),
        _code("consentGivenBy", consent_pb2.ConsentGiver.Name(consent.given_by), "CONSENT_GIVER_", lower=True),
        *_moment("consentDate", consent, "collect_time"),
    ]
    return [*said, {"name": "consentCollector", "valueString": consent.collector}] if consent.collector else said


def _patient(health_id: int, person: Person | None, links: Links) -> JsonObject:
    named = identifier_of(person)
    if named:
        return {"valueIdentifier": named}
    return {"valueReference": {"reference": f"Patient/{links.patient_id(health_id)}"}}


def identifier_of(person: Person | None) -> JsonObject | None:
    """By what the person is found elsewhere: the INS, else another identifier."""
    held = [] if person is None else sorted(person.identifiers, key=lambda each: each.system not in INS_DOMAINS)
    return {"system": domain_uri(held[0].system), "value": held[0].value} if held else None


def _entitled(standing: GranteeStanding) -> JsonObject:
    """Who is shut out, or authorised, since when and until when."""
    who, authorization = standing.grantee, standing.authorization
    system = IDNPS if who.kind == consent_pb2.GRANTEE_KIND_PROFESSIONAL else IDNST
    parts = [
        {"name": "actor", "valueIdentifier": {"system": domain_uri(system), "value": who.id}},
        *_moment("start", standing, "block_time"),
        *_moment("start", authorization, "grant_time"),
        *_moment("end", authorization, "expire_time"),
    ]
    flags = (
        ("attendingPhysician", authorization.attending_physician),
        ("careTeam", authorization.care_team),
        ("secret", authorization.secret),
        ("visit", authorization.term == consent_pb2.AUTHORIZATION_TERM_VISIT),
    )
    return {
        "name": "entry",
        "part": [*parts, *({"name": name, "valueBoolean": True} for name, holds in flags if holds)],
    }


def _reference(health_id: int, links: Links, known: Mapping[Any, Person]) -> JsonObject:
    """A person besides the patient: by an identifier too, where the one who asks may be told it."""
    named = identifier_of(known.get(health_id))
    return {"reference": f"Patient/{links.patient_id(health_id)}", **({"identifier": named} if named else {})}


def _representative(held: Representative, links: Links, known: Mapping[Any, Person]) -> JsonObject:
    kind = consent_pb2.RepresentationKind.Name(held.kind).removeprefix("REPRESENTATION_KIND_").lower()
    person = _reference(dossier_of(held.person, "person"), links, known)
    parts = [
        {"name": "person", "valueReference": person},
        {"name": "kind", "valueCode": kind},
        *_moment("start", held, "start_time"),
        *_moment("end", held, "end_time"),
    ]
    return {"name": "representative", "part": parts}


def _moment(name: str, message: Any, field: str) -> list[JsonObject]:
    moment: Timestamp = getattr(message, field)
    return [{"name": name, "valueDateTime": write(moment)}] if message.HasField(field) else []


def _code(name: str, word: str, prefix: str, *, lower: bool = False) -> JsonObject:
    code = word.removeprefix(prefix)
    return {"name": name, "valueCode": code.lower() if lower else code}
