"""PCF ITI-108: what a patient consented to or opposed, as Consent resources, and back. Pure.

Four kinds, told apart by `category` and `provision`:

    authorization   permit, actor: a professional or structure may enter, until period.end
    block           deny, actor: is shut out whatever the mode
    opposition      deny, purpose BTG or ETREAT: no break-glass, no access of the call centre
    disclosure      permit, purpose ETREAT: masked documents may be seen in emergencies

The id says kind and subject only to the platform. A Consent that does not hold is `inactive`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from dmp.consent.v1 import consent_pb2
from dmp.consent.v1.consent_pb2 import ConsentEvent, Dossier, Grantee, GranteeStanding
from gateway.fhir.codesystems import IDNPS, IDNST, domain_uri
from gateway.fhir.document_out import WritesIds
from gateway.fhir.identifiers import known_identifier
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, JsonObject, Node
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.refusals import metadata, unsupported
from gateway.fhir.times import write

Kind = Literal["authorization", "block", "break-glass", "regulation", "masked-in-emergency"]

CATEGORIES: Final = "https://dmp.sante.fr/fhir/CodeSystem/consent-category"
ATTENDING: Final = "https://dmp.sante.fr/fhir/StructureDefinition/attending-physician"
CARE_TEAM: Final = "https://dmp.sante.fr/fhir/StructureDefinition/care-team"
_ACT_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_SCOPE: Final = {
    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
}
_ROLE: Final = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
_POLICY: Final = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]}
_NAMESPACE: Final = uuid.UUID("5f0a8f0e-6a0b-4a3a-9f43-3a6b1c1b7e5d")
_PURPOSES: Final[dict[Kind, str]] = {
    "break-glass": "BTG",
    "regulation": "ETREAT",
    "masked-in-emergency": "ETREAT",
}
PREFERENCES: Final[tuple[Kind, ...]] = ("break-glass", "regulation", "masked-in-emergency")

PARAMETERS: Final = (
    SearchParameter("patient.identifier", "token", "system|value of the patient; this or patient is required"),
    SearchParameter("patient", "reference", "Patient/{id} as given in answers, or Patient?identifier=system|value"),
    SearchParameter("_id", "token", "ids as given in answers"),
    SearchParameter("status", "token", "active or inactive"),
    SearchParameter("category", "token", "authorization, block, break-glass, regulation, masked-in-emergency"),
    SearchParameter("actor.identifier", "token", "system|value of the professional or structure"),
    SearchParameter("actor", "token", "the same as actor.identifier"),
)
NAMES: Final = frozenset({parameter.name for parameter in PARAMETERS} | {"patient:identifier", "_count", "_page"})


@dataclass(frozen=True, slots=True)
class ConsentId:
    """Which Consent of a dossier this is: the entity of its external id."""

    kind: Kind
    subject: str = ""

    @property
    def entity(self) -> uuid.UUID:
        """The uuid that stands for it."""
        return uuid.uuid5(_NAMESPACE, f"{self.kind}|{self.subject}")


@dataclass(frozen=True, slots=True)
class ConsentIn:
    """A Consent as it came: what it is about and whether it holds."""

    kind: Kind
    grantee: Grantee | None
    active: bool
    attending_physician: bool
    care_team: bool
    verified: bool


def write_standing(standing: GranteeStanding, health_id: int, ids: WritesIds, epoch: int = 0) -> JsonObject:
    """The Consent of a grantee's authorisation or block."""
    blocked = standing.state == consent_pb2.AUTHORIZATION_STATE_FORBIDDEN
    kind: Kind = "block" if blocked else "authorization"
    active = blocked or standing.state == consent_pb2.AUTHORIZATION_STATE_VALID
    resource = _consent(ConsentId(kind, standing.grantee.id), health_id, ids, active=active, epoch=epoch)
    provision: JsonObject = {"type": "deny" if blocked else "permit", "actor": [_actor(standing.grantee)]}
    authorization = standing.authorization
    period: JsonObject = {}
    if blocked and standing.HasField("block_time"):
        resource["dateTime"] = period["start"] = write(standing.block_time)
    elif authorization.HasField("grant_time"):
        resource["dateTime"] = period["start"] = write(authorization.grant_time)
        if authorization.HasField("expire_time"):
            period["end"] = write(authorization.expire_time)
    if period:
        provision["period"] = period
    flags = ((ATTENDING, authorization.attending_physician), (CARE_TEAM, authorization.care_team))
    extensions = [{"url": url, "valueBoolean": True} for url, there in flags if there]
    if extensions:
        resource["extension"] = extensions
    resource["provision"] = provision
    return resource


def write_preferences(dossier: Dossier, health_id: int, ids: WritesIds) -> Iterator[JsonObject]:
    """The Consents of what the patient decided about emergencies."""
    holds = (dossier.break_glass_opposed, dossier.regulation_opposed, dossier.masked_shown_in_emergency)
    for kind, active in zip(PREFERENCES, holds, strict=True):
        yield write_preference(kind, health_id, ids, active=active, epoch=dossier.epoch)


def write_preference(kind: Kind, health_id: int, ids: WritesIds, *, active: bool, epoch: int) -> JsonObject:
    """The Consent of one of them."""
    resource = _consent(ConsentId(kind), health_id, ids, active=active, epoch=epoch)
    purpose = {"system": _ACT_REASON, "code": _PURPOSES[kind]}
    resource["provision"] = {"type": "permit" if kind == "masked-in-emergency" else "deny", "purpose": [purpose]}
    return resource


def write_event(event: ConsentEvent, found: ConsentId, health_id: int, ids: WritesIds) -> JsonObject:
    """A past version of a Consent: what a change of the dossier made of it. Its version is the epoch."""
    active = event.kind in ("authorization.grant", "authorization.block", "authorization.remove_attending")
    resource = _consent(found, health_id, ids, active=active, epoch=event.epoch)
    resource["dateTime"] = write(event.event_time)
    provision: JsonObject = {"type": "deny" if found.kind == "block" else "permit"}
    if event.HasField("grantee"):
        provision["actor"] = [_actor(event.grantee)]
    resource["provision"] = provision
    return resource


def concerns(event: ConsentEvent, found: ConsentId) -> bool:
    """Whether a change of the dossier is one of this Consent."""
    if found.kind == "block":
        return event.kind in ("authorization.block", "authorization.unblock") and event.grantee.id == found.subject
    if found.kind == "authorization":
        kinds = ("authorization.grant", "authorization.revoke", "authorization.remove_attending")
        return event.kind in kinds and event.grantee.id == found.subject
    return event.kind == "dossier.update_preferences"


def consent_of(event: ConsentEvent, entity: uuid.UUID) -> ConsentId | None:
    """The Consent with this entity, if a change of the dossier is one of it."""
    subject = event.grantee.id
    for found in (*map(ConsentId, PREFERENCES), ConsentId("authorization", subject), ConsentId("block", subject)):
        if found.entity == entity and concerns(event, found):
            return found
    return None


def read_consent(resource: Node) -> ConsentIn:
    """What a Consent that comes in asks for."""
    resource.refuse_modifiers()
    status = resource.child("status").required().token()
    if status not in ("active", "inactive"):
        raise metadata(f"{resource.path}.status", "code", "active or inactive")
    provision = resource.child("provision").required()
    deny = _is_deny(provision)
    actors = provision.children("actor", 2)
    if len(actors) > 1:
        raise unsupported(f"{provision.path}.actor", "one actor a Consent")
    verified = any(item.boolean("verified") for item in resource.children("verification", 4))
    flags = {
        item.uri("url"): item.boolean("valueBoolean")
        for item in resource.children("extension", 16)
        if item.uri("url") in (ATTENDING, CARE_TEAM)
    }
    kind: Kind
    grantee = None
    if actors:
        kind, grantee = "block" if deny else "authorization", read_grantee(actors[0].child("reference").required())
    else:
        kind = _preference(provision, deny=deny)
    return ConsentIn(
        kind, grantee, status == "active", flags.get(ATTENDING, False), flags.get(CARE_TEAM, False), verified
    )


def read_grantee(reference: Node) -> Grantee:
    """The professional or structure that a Reference names by identifier, or by its place in the directory."""
    identifier = reference.child("identifier")
    if identifier.present:
        system = identifier.child("system").required().token(LONGEST_URI)
        value = identifier.child("value").required().token(LONGEST_CODE)
        found = known_identifier(system, value, f"{identifier.path}.system")
        kinds = {IDNPS: consent_pb2.GRANTEE_KIND_PROFESSIONAL, IDNST: consent_pb2.GRANTEE_KIND_STRUCTURE}
        if found.system not in kinds:
            raise metadata(f"{identifier.path}.system", "system", "an IDNPS or an IDNST")
        return Grantee(kind=kinds[found.system], id=found.value)
    kind, _, id_ = reference.token(LONGEST_URI, "reference").rpartition("/")
    if kind.endswith("Practitioner") and id_:
        return Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=id_)
    if kind.endswith("Organization") and id_:
        return Grantee(kind=consent_pb2.GRANTEE_KIND_STRUCTURE, id=id_)
    raise metadata(reference.path, "required", "an identifier (IDNPS, IDNST), or Practitioner/… or Organization/…")


def _is_deny(provision: Node) -> bool:
    kind = provision.token(name="type")
    if kind not in ("permit", "deny"):
        raise metadata(f"{provision.path}.type", "code", "permit or deny")
    return kind == "deny"


def _preference(provision: Node, *, deny: bool) -> Kind:
    codes = {item.token(name="code") for item in provision.children("purpose", 4)}
    if codes == {"BTG"} and deny:
        return "break-glass"
    if codes == {"ETREAT"}:
        return "regulation" if deny else "masked-in-emergency"
    raise unsupported(
        f"{provision.path}.purpose", "without an actor: deny BTG, deny ETREAT, or permit ETREAT (masked documents)"
    )


def _consent(found: ConsentId, health_id: int, ids: WritesIds, *, active: bool, epoch: int) -> JsonObject:
    resource: JsonObject = {
        "resourceType": "Consent",
        "id": ids.write("Consent", health_id, found.entity),
        "status": "active" if active else "inactive",
        "scope": _SCOPE,
        "category": [{"coding": [{"system": CATEGORIES, "code": found.kind}]}],
        "patient": {"reference": f"Patient/{ids.write('Patient', health_id, uuid.UUID(int=0))}"},
        "policyRule": _POLICY,
    }
    if epoch:
        resource["meta"] = {"versionId": str(epoch)}
    return resource


def _actor(grantee: Grantee) -> JsonObject:
    system = IDNPS if grantee.kind == consent_pb2.GRANTEE_KIND_PROFESSIONAL else IDNST
    return {"role": _ROLE, "reference": {"identifier": {"system": domain_uri(system), "value": grantee.id}}}
