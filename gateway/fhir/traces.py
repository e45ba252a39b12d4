"""BALP: an event of the trail as an AuditEvent, the search ITI-81, and an event to record (ITI-20). Pure.

One AuditEvent tells of one dossier. What was done is a subtype in the platform's own words (`document.read`) and, where
IHE has one, in its transaction's (`ITI-68`); actions of R4 (C, R, U, D, E) stand for sets of the platform's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.audit.v1.audit_pb2 import AuditEvent, ListEventsRequest, RecordEventRequest, ReportedEvent
from dmp.common.v1 import context_pb2, error_reason_pb2
from dmp.document.v1.document_pb2 import TimeRange
from gateway.fhir.codesystems import IDNPS, IDNST, domain_uri
from gateway.fhir.document_out import Links
from gateway.fhir.identifiers import PatientLink, read_patient
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, JsonObject, Node
from gateway.fhir.parameters import Parameters, SearchParameter
from gateway.fhir.refusals import invalid, metadata
from gateway.fhir.search import (
    PATIENT_NAMES,
    check_newest_first,
    dates,
    read_identifiers,
    read_page,
    read_patient_parameter,
)
from gateway.fhir.times import instant, narrow, write
from services.runtime.identifiers import child_of
from services.runtime.names import AUDIT_ACTIONS

PARAMETERS: Final = (
    SearchParameter("date", "date", "when it happened; one bound at least is required"),
    SearchParameter("patient.identifier", "token", "system|value of the patient; this or patient is required"),
    SearchParameter("patient", "reference", "Patient/{id} as given in answers, or Patient?identifier=system|value"),
    SearchParameter("entity.identifier", "token", "the same as patient.identifier"),
    SearchParameter("entity", "reference", "DocumentReference/{id} that was touched"),
    SearchParameter("agent.identifier", "token", "system|value of the professional or structure that acted"),
    SearchParameter("agent", "token", "the same as agent.identifier"),
    SearchParameter("action", "token", "C, R, U, D or E"),
    SearchParameter("outcome", "token", "0 for what was done, 4 for what was wrong, 8 for what was refused"),
    SearchParameter("subtype", "token", "transaction (ITI-68) or action of the platform (document.read)"),
)
NAMES: Final = frozenset({parameter.name for parameter in PARAMETERS} | PATIENT_NAMES | {"_count", "_page", "_sort"})
LARGEST_PAGE: Final = 200

_ACTIONS: Final = "https://dmp.sante.fr/fhir/CodeSystem/audit-action"
_BASES: Final = "https://dmp.sante.fr/fhir/access-basis/"
_IP_ADDRESS: Final = "2"
_REASONS: Final = "https://dmp.sante.fr/fhir/CodeSystem/error-reason"
_IHE: Final = "urn:ihe:event-type-code"
_DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_ENTITY: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
_PURPOSE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_TYPES: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
_BALP_ENTITY: Final = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
_BALP: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition"

_TRANSACTIONS: Final[Mapping[str, str]] = {
    "document.submit": "ITI-65",
    "document.list_sets": "ITI-66",
    "document.get_set": "ITI-66",
    "document.list_folders": "ITI-66",
    "document.search": "ITI-67",
    "document.open": "ITI-67",
    "document.changes": "ITI-67",
    "document.resolve": "ITI-67",
    "document.get": "ITI-67",
    "document.read": "ITI-68",
    "person.search": "ITI-78",
    "person.read": "ITI-78",
    "person.crossreference": "ITI-83",
    "person.update": "ITI-104",
    "person.link": "ITI-104",
    "person.identifier": "ITI-104",
    "person.match": "ITI-119",
    "trace.read": "ITI-81",
    "event.report": "ITI-20",
}
_VERBS: Final[Mapping[str, str]] = {
    "submit": "C", "create": "C", "open": "C", "grant": "C", "block": "C", "upload": "C", "register": "C",
    "report": "C",
    "read": "R", "get": "R",
    "search": "E", "list": "E", "check": "E", "match": "E", "find": "E", "resolve": "E", "export": "E",
    "close": "U", "change": "U", "update": "U", "reopen": "U", "link": "U", "unlink": "U", "unblock": "U",
    "mask": "U", "unmask": "U", "archive": "U", "unarchive": "U", "show": "U", "deprecate": "U", "replace": "U",
    "withdraw": "U", "remove": "U", "move": "U", "split": "U", "identifier": "U", "death": "U", "oppose": "C",
    "revoke": "D", "destroy": "D", "end": "D", "expire": "D", "delete": "D",
}  # fmt: skip
_PROFILES: Final = {"C": "Create", "R": "Read", "U": "Update", "D": "Delete", "E": "Query"}
_OUTCOMES: Final = {
    audit_pb2.OUTCOME_SUCCESS: "0",
    audit_pb2.OUTCOME_REJECTED: "4",
    audit_pb2.OUTCOME_DENIED: "8",
}
_OUTCOMES_IN: Final = {
    "0": audit_pb2.OUTCOME_SUCCESS,
    "4": audit_pb2.OUTCOME_REJECTED,
    "8": audit_pb2.OUTCOME_DENIED,
    "12": audit_pb2.OUTCOME_DENIED,
}
_STRUCTURES: Final = frozenset({context_pb2.ACTOR_KIND_STRUCTURE, context_pb2.ACTOR_KIND_STRUCTURE_STAFF})
_PEOPLE: Final = frozenset({context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE})


@dataclass(frozen=True, slots=True)
class TraceSearch:
    """A search as read: the request without its dossier, and the patient it names."""

    request: ListEventsRequest
    patient: PatientLink
    pairs: Sequence[tuple[str, str]]
    only_total: bool


def action_of(name: str) -> str:
    """R4's letter for an action of the platform; E for what only asks."""
    if name == "document.open":  # the first look at a dossier
        return "E"
    return _VERBS.get(name.partition(".")[2].partition("_")[0], "E")


def read_search(parameters: Parameters, links: Links) -> TraceSearch:
    """The search that these parameters ask for."""
    if not parameters.values("date"):
        raise invalid("date", "required", "a bound is required: date=ge… or date=le…")
    page = read_page(parameters, LARGEST_PAGE)
    check_newest_first(parameters)
    span = TimeRange()
    for value in dates(parameters, "date"):
        narrow(span, value, "date")
    if span.HasField("excluded_start_time"):
        raise invalid("date", "prefix", "the prefix ne is not offered for the trail: its dates are bounds")
    agents = read_identifiers(parameters, "agent.identifier", "agent")
    if len(agents) > 1:
        raise invalid("agent", "repeated", "one agent")
    request = ListEventsRequest(page_size=page.size, page_token=page.token)
    where = request.filter
    if span.HasField("start_time"):
        where.start_time.CopyFrom(span.start_time)
    if span.HasField("end_time"):
        where.end_time.CopyFrom(span.end_time)
    for agent in agents:
        if agent.system == IDNST:
            where.structure = agent.value
        else:
            where.actor = agent.value
    where.actions.extend(_actions(parameters))
    outcome = parameters.single("outcome").rpartition("|")[2]
    if outcome and outcome not in _OUTCOMES_IN:
        raise invalid("outcome", "code", "0, 4, 8 or 12")
    where.outcome = _OUTCOMES_IN.get(outcome, audit_pb2.OUTCOME_UNSPECIFIED)
    entity = parameters.single("entity")
    if entity:
        where.object = links.document_of(entity.rpartition("/")[2])
    return TraceSearch(request, _patient(parameters, links.base_url), parameters.pairs, page.only_total)


def write_event(name: str, event: AuditEvent, links: Links) -> JsonObject:
    """The AuditEvent of an event of a dossier."""
    letter = action_of(event.action)
    actor = event.actor
    resource: JsonObject = {
        "resourceType": "AuditEvent",
        "id": event_id(name, links),
        "meta": {"profile": [f"{_BALP}/IHE.BasicAudit.Patient{_PROFILES[letter]}"]},
        "type": {"system": _TYPES, "code": "rest", "display": "Restful Operation"},
        "subtype": _subtypes(event),
        "action": letter,
        "recorded": write(event.event_time),
        "outcome": _OUTCOMES.get(event.outcome, "0"),
        "agent": [_agent(actor, event.basis), _software(actor, event.network_address)],
        "source": _source(event),
        "entity": _entities(event, links),
    }
    if event.reason:
        resource["outcomeDesc"] = error_reason_pb2.ErrorReason.Name(event.reason).removeprefix("ERROR_REASON_")
    if actor.purpose_of_use:
        resource["purposeOfEvent"] = [{"coding": [{"system": _PURPOSE, "code": actor.purpose_of_use}]}]
    return resource


def event_id(name: str, links: Links) -> str:
    """The id of the AuditEvent of an event by its resource name."""
    return links.ids.write("AuditEvent", *child_of(name, "events", "name"))


def read_event(resource: Node, base_url: str) -> tuple[RecordEventRequest, PatientLink]:
    """The request of ITI-20 without its dossier, and the patient of the AuditEvent."""
    resource.refuse_modifiers()
    recorded = instant(resource.child("recorded").required())
    outcome = resource.token(name="outcome") or "0"
    if outcome not in _OUTCOMES_IN:
        raise metadata(f"{resource.path}.outcome", "code", "0, 4, 8 or 12")
    subtypes = [item.token(LONGEST_CODE, "code") for item in resource.children("subtype", 8)]
    entities = resource.children("entity", 64)
    patients = [item for item in entities if _is_patient(item)]
    if len(patients) != 1:
        raise metadata(f"{resource.path}.entity", "patient", "one AuditEvent tells of one patient: an entity of role 1")
    purposes = [code for item in resource.children("purposeOfEvent", 4) for code in item.children("coding", 4)]
    request = RecordEventRequest(
        event_time=recorded,
        outcome=_OUTCOMES_IN[outcome],
        objects=[text for item in entities if item not in patients for text in _named(item.child("what"))],
        reported=ReportedEvent(
            type=resource.child("type").required().token(64, "code"),
            subtype=subtypes[0] if subtypes else "",
            agents=[text for agent in resource.children("agent", 16) for text in _named(agent.child("who"))],
            source="".join(_named(resource.child("source").required().child("observer"))[:1]),
            purpose_of_use=purposes[0].token(32, "code") if purposes else "",
        ),
    )
    return request, read_patient(patients[0].child("what").required(), base_url)


def write_receipt(proof: str, log_key: str, witness_keys: Sequence[str]) -> JsonObject:
    """The Parameters of `$receipt`."""
    found: list[JsonObject] = [{"name": "proof", "valueString": proof}, {"name": "logKey", "valueString": log_key}]
    found += [{"name": "witnessKey", "valueString": key} for key in witness_keys]
    return {"resourceType": "Parameters", "parameter": found}


def _patient(parameters: Parameters, base_url: str) -> PatientLink:
    renamed = [
        ("patient.identifier" if name == "entity.identifier" else name, value) for name, value in parameters.pairs
    ]
    return read_patient_parameter(Parameters([pair for pair in renamed if pair[0] in PATIENT_NAMES]), base_url)


def _actions(parameters: Parameters) -> list[str]:
    """The actions of the platform that `action` and `subtype` allow; a name that is none matches nothing."""
    letters = [text.rpartition("|")[2] for text in parameters.alternatives("action")]
    subtypes = [text.rpartition("|")[2] for text in parameters.alternatives("subtype")]
    if not letters and not subtypes:
        return []
    if not set(letters) <= set(_PROFILES):
        raise invalid("action", "code", "C, R, U, D or E")
    chosen = [
        name
        for name in sorted(AUDIT_ACTIONS)
        if (not letters or action_of(name) in letters)
        and (not subtypes or name in subtypes or _TRANSACTIONS.get(name) in subtypes)
    ]
    return chosen[:64] or ["none"]


def _subtypes(event: AuditEvent) -> list[JsonObject]:
    found: list[JsonObject] = []
    transaction = _TRANSACTIONS.get(event.action)
    if transaction:
        found.append({"system": _IHE, "code": transaction})
    if event.HasField("reported") and event.reported.subtype:
        found.append({"system": _IHE, "code": event.reported.subtype})
    return [*found, {"system": _ACTIONS, "code": event.action}]


def _agent(actor: context_pb2.ActingContext, basis: int) -> JsonObject:
    """Who acted, and by `policy` why it was allowed."""
    system = IDNST if actor.actor_kind in _STRUCTURES else IDNPS
    who: JsonObject = {"display": actor.subject_name} if actor.subject_name else {}
    if actor.actor_kind in _PEOPLE:
        who = {"display": context_pb2.ActorKind.Name(actor.actor_kind).removeprefix("ACTOR_KIND_").lower()}
    else:
        who = {"identifier": {"system": domain_uri(system), "value": actor.subject}, **who}
    agent: JsonObject = {
        "type": {"coding": [{"system": _DCM, "code": "110153", "display": "Source Role ID"}]},
        "who": who,
        "requestor": True,
    }
    if basis:
        name = audit_pb2.AccessBasis.Name(basis).removeprefix("ACCESS_BASIS_")  # type: ignore[arg-type]
        agent["policy"] = [f"{_BASES}{name.lower().replace('_', '-')}"]
    if actor.structure and actor.actor_kind not in _STRUCTURES:
        agent["extension"] = [{"url": f"{_BALP}/ihe-otherId", "valueIdentifier": _structure(actor)}]
    return agent


def _structure(actor: context_pb2.ActingContext) -> JsonObject:
    identifier: JsonObject = {"system": domain_uri(IDNST), "value": actor.structure}
    if actor.structure_name:
        identifier["assigner"] = {"display": actor.structure_name}
    return identifier


def _software(actor: context_pb2.ActingContext, address: str) -> JsonObject:
    """What was used, and from which network address."""
    software = actor.software
    name = " ".join(part for part in (software.name or actor.client_id or "dmp", software.version) if part)
    kind = {"coding": [{"system": _DCM, "code": "110150", "display": "Application"}]}
    agent: JsonObject = {"type": kind, "who": {"display": name}, "requestor": False}
    if address:
        agent["network"] = {"address": address, "type": _IP_ADDRESS}
    return agent


def _source(event: AuditEvent) -> JsonObject:
    reported = event.reported.source if event.HasField("reported") else ""
    return {"observer": {"display": reported or f"dmp {event.producer}".strip()}}


def _entities(event: AuditEvent, links: Links) -> list[JsonObject]:
    entities: list[JsonObject] = [
        {
            "what": {"reference": f"Patient/{links.patient_id(event.health_id)}"},
            "type": {"system": _ENTITY, "code": "1", "display": "Person"},
            "role": {"system": _ROLE, "code": "1", "display": "Patient"},
        }
    ]
    for name in event.objects:
        reference = _reference(name, links)
        if reference:
            entities.append(
                {
                    "what": {"reference": reference},
                    "type": {"system": _ENTITY, "code": "2", "display": "System Object"},
                    "role": {"system": _ROLE, "code": "3", "display": "Report"},
                }
            )
    if event.request_id:
        entities.append(
            {
                "what": {"identifier": {"value": event.request_id}},
                "type": {"system": _BALP_ENTITY, "code": "XrequestId"},
            }
        )
    return entities


def _reference(name: str, links: Links) -> str:
    """The reference to a document or a submission set; '' for what has no resource."""
    collection = name.split("/")[2] if name.count("/") == 3 else ""
    if collection == "documents":
        return f"DocumentReference/{links.document_id(name)}"
    if collection == "submissionSets":
        return f"List/{links.list_id(name)}"
    return ""


def _is_patient(entity: Node) -> bool:
    return entity.child("role").token(name="code") == "1"


def _named(reference: Node) -> list[str]:
    """What a Reference is called, for the trail: its identifier, its reference, or its display."""
    if not reference.present:
        return []
    identifier = reference.child("identifier")
    if identifier.present:
        return [identifier.child("value").required().token(LONGEST_CODE)]
    text = reference.token(LONGEST_URI, "reference") or reference.text(LONGEST_CODE, "display")
    return [text[:128]] if text else []
