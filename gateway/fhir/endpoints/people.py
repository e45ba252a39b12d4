"""People: TD0.2 and ITI-78 (one path), ITI-119, ITI-83, and the feed ITI-104."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.consent.v1.consent_pb2 import GetDossierRequest
from dmp.identity.v1.identity_pb2 import (
    SEX_UNKNOWN,
    AddIdentifierRequest,
    CreatePersonRequest,
    GetPersonRequest,
    LinkPeopleRequest,
    Person,
    UpdatePersonRequest,
)
from gateway.fhir import dossier, negotiation, people_search
from gateway.fhir.endpoints.common import NOBODY, Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import translate
from gateway.fhir.identifiers import PatientLink, parse_token, patient_identifier, read_patient
from gateway.fhir.node import LONGEST_URI, Node
from gateway.fhir.parameters import Parameters
from gateway.fhir.person_out import read_person, write_person
from gateway.fhir.refusals import ProtocolRefusal, invalid, metadata
from gateway.fhir.search import searchset
from gateway.fhir.tables import people as table
from gateway.fhir.tables.dossiers import GET_DOSSIER
from gateway.fhir.versions import etag, version_of
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, person_name

_WHY: Final = "ITI-104"
_FIELDS: Final = {
    "identifier": "identifier",
    "birth_date": "birthdate",
    "family_name": "family",
    "given_name": "given",
    "sex": "gender",
    "postcode": "address-postalcode",
    "city": "address-city",
    "page_token": "_page",
}
_TRAITS: Final = {
    "birth_name": "name.family",
    "birth_given_names": "name.given",
    "first_birth_given_name": "name.given",
    "sex": "gender",
    "birth_date": "birthDate",
    "birth_place": "extension('http://hl7.org/fhir/StructureDefinition/patient-birthPlace')",
    "identifiers": "identifier",
    "added_identifiers": "identifier",
    "further_identifiers": "identifier",
    "merged": "link",
}


class People(Endpoints):
    """The endpoints of people."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "patient-search": self.search,
            "patient-read": self.read,
            "patient-feed": self.feed,
            "patient-match": self.match,
            "patient-pix": self.cross_reference,
        }

    async def search(self, exchange: Exchange) -> Answer:
        """TD0.2 or ITI-78, by what is asked."""
        parameters = await exchange.parameters(people_search.NAMES)
        if people_search.wants_traits(parameters, exchange.caller.scopes):
            await self._require(exchange, "ITI-78", table.SEARCH)
            return await self._search_people(exchange, parameters)
        await self._require(exchange, "TD0.2", GET_DOSSIER)
        return await self._search_dossier(exchange, parameters)

    async def read(self, exchange: Exchange) -> Answer:
        """The person for those who may ask who it is; else the dossier."""
        health_id = await self._read_patient_id(exchange, exchange.request.path_params["id"], "id")
        if "ITI-78" in exchange.caller.scopes:
            request = GetPersonRequest(name=person_name(health_id))
            answer = await self._or_nobody(self._backend.call(exchange.caller, table.GET, request), "id")
            written = write_person(answer.person, self._links, answer.linked)
            return Answer(written, headers={"ETag": etag(answer.person.version)})
        dossier_request = GetDossierRequest(name=dossier_name(health_id))
        found = await self._or_nobody(self._backend.call(exchange.caller, GET_DOSSIER, dossier_request), "id")
        return Answer(dossier.write_dossier(found, health_id, self._links, None))

    async def match(self, exchange: Exchange) -> Answer:
        """ITI-119."""
        request = people_search.read_match(await exchange.resource("Parameters"))
        try:
            response = await self._backend.call(exchange.caller, table.MATCH, request)
        except DmpError as error:
            raise translate(error, _match_field) from None
        return Answer(people_search.write_matches(response, self._links))

    async def cross_reference(self, exchange: Exchange) -> Answer:
        """ITI-83. The statuses of unknown domains are those of PIXm."""
        if exchange.request.method == "POST":
            parameters = _pix_parameters(await exchange.resource("Parameters"))
            exchange.wants(parameters.values("_format"))
        else:
            parameters = await exchange.query(people_search.PIX_NAMES)
        request = people_search.read_cross_reference(parameters)
        try:
            response = await self._backend.call(exchange.caller, table.CROSS_REFERENCE, request)
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_UNKNOWN_DOMAIN:
                raise ProtocolRefusal(400, "sourceIdentifier", error.message, reason=error.reason) from None
            if error.reason == reasons.ERROR_REASON_UNKNOWN_TARGET_DOMAIN:
                raise ProtocolRefusal(403, "targetSystem", error.message, reason=error.reason) from None
            raise
        return Answer(people_search.write_cross_reference(response, request.target_systems, self._links))

    async def feed(self, exchange: Exchange) -> Answer:
        """ITI-104: 201 for a person who was not known, 200 for a change or a merge."""
        parameters = await exchange.query(frozenset({"identifier"}))
        text = parameters.single("identifier")
        if not text:
            raise invalid("identifier", "required", "the person is named: identifier=system|value")
        criterion = patient_identifier(*parse_token(text, "identifier"), "identifier")
        expected = version_of(exchange.request.headers.get("if-match", ""), "If-Match")
        patient = await exchange.resource("Patient")
        person = read_person(patient)
        if criterion not in [(each.system, each.value) for each in person.identifiers]:
            person.identifiers.append(Identifier(system=criterion[0], value=criterion[1]))
        key = _feed_key(exchange, criterion, person)
        known = await self._backend.resolve(exchange.caller, criterion)
        survivor = _survivor(patient, self._links.base_url)
        try:
            if survivor is not None:
                return await self._merge(exchange, (known, person, expected), survivor, key)
            if known is None:
                if expected:
                    raise ProtocolRefusal(412, "If-Match", "nobody has this identifier")
                return await self._create(exchange, person, key)
            return await self._update(exchange, known, person, expected, key)
        except DmpError as error:
            raise translate(error, _trait_field) if not isinstance(error, ProtocolRefusal) else error from None

    async def _search_dossier(self, exchange: Exchange, parameters: Parameters) -> Answer:
        link = dossier.read_patient_search(parameters)
        patients = []
        try:
            health_id = await self._health_id(exchange, link)
            request = GetDossierRequest(name=dossier_name(health_id))
            found = await self._backend.call(exchange.caller, GET_DOSSIER, request)
            patients.append(dossier.write_dossier(found, health_id, self._links, link.identifier))
        except DmpError as error:
            if error.reason not in NOBODY:
                raise
        return Answer(dossier.write_patient_searchset(patients, parameters.pairs, self._links))

    async def _search_people(self, exchange: Exchange, parameters: Parameters) -> Answer:
        id_ = parameters.single("_id")
        if id_:
            people = await self._by_id(exchange, id_)
            token = ""
        else:
            request = people_search.read_search(parameters)
            try:
                response = await self._backend.call(exchange.caller, table.SEARCH, request)
            except DmpError as error:
                if error.reason == reasons.ERROR_REASON_UNKNOWN_DOMAIN:  # PDQm's own status
                    raise ProtocolRefusal(404, "identifier", error.message, reason=error.reason) from None
                raise translate(error, lambda field: _FIELDS.get(field.partition(".")[0], field)) from None
            people, token = list(response.people), response.next_page_token
        resources = [write_person(person, self._links) for person in people_search.shown(parameters, people)]
        total = len(resources) if not token and not parameters.single("_page") else None
        return Answer(searchset(resources, parameters.pairs, self._links, kind="Patient", token=token, total=total))

    async def _by_id(self, exchange: Exchange, id_: str) -> list[Person]:
        try:
            name = person_name(self._ids.read("Patient", id_)[0])
            answer = await self._backend.call(exchange.caller, table.GET, GetPersonRequest(name=name))
        except DmpError as error:
            if error.reason in NOBODY or error.reason == reasons.ERROR_REASON_DOCUMENT_NOT_FOUND:
                return []
            raise
        return [answer.person]

    async def _create(self, exchange: Exchange, person: Person, key: str) -> Answer:
        request = CreatePersonRequest(person=person, request_id=key)
        answer = await self._backend.call(exchange.caller, table.CREATE, request)
        written = write_person(answer.person, self._links)
        headers = {"Location": self._links.url("Patient", written["id"]), "ETag": etag(answer.person.version)}
        return Answer(written, 200 if answer.existed else 201, headers)

    async def _update(self, exchange: Exchange, health_id: int, person: Person, expected: int, key: str) -> Answer:
        name = person_name(health_id)
        current = (await self._backend.call(exchange.caller, table.GET, GetPersonRequest(name=name))).person
        if expected and expected != current.version:
            raise ProtocolRefusal(412, "If-Match", "the person has another version")
        request = UpdatePersonRequest(name=name, reason=_WHY, request_id=key, expected_version=expected)
        if person.traits.birth_name and _differing(person, current):
            request.traits.CopyFrom(person.traits)
        if person.HasField("contact") and person.contact != current.contact:
            request.contact.CopyFrom(person.contact)
        held = {(each.system, each.value) for each in current.identifiers}
        fresh = [each for each in person.identifiers if (each.system, each.value) not in held]
        if request.HasField("traits") or request.HasField("contact"):
            request.added_identifiers.extend(fresh)
            current = (await self._backend.call(exchange.caller, table.UPDATE, request)).person
        elif fresh:
            adding = AddIdentifierRequest(name=name, identifier=fresh[0], reason=_WHY, request_id=key)
            adding.further_identifiers.extend(fresh[1:])
            current = (await self._backend.call(exchange.caller, table.ADD_IDENTIFIER, adding)).person
        return Answer(write_person(current, self._links), 200, {"ETag": etag(current.version)})

    async def _merge(
        self, exchange: Exchange, merging: tuple[int | None, Person, int], survivor: PatientLink, key: str
    ) -> Answer:
        """A merge. PIXm puts it as an update of the person who is merged: what the Patient says that is new is first
        written there, as any feed is, and is the survivor's to find. Nothing is written if the survivor is not known;
        if the merge is refused for another reason, what was written stands, as a version of its own."""
        merged, person, expected = merging
        if merged is None:
            raise DmpError(reasons.ERROR_REASON_UNKNOWN_PATIENT)
        health_id = await self._health_id(exchange, survivor)
        before = GetPersonRequest(name=person_name(merged))
        current = (await self._backend.call(exchange.caller, table.GET, before)).person
        if not current.merged_into:
            await self._update(exchange, merged, _completed(person, current), expected, key)
        request = LinkPeopleRequest(
            name=person_name(health_id), merged=person_name(merged), reason=_WHY, request_id=key
        )
        await self._backend.call(exchange.caller, table.LINK, request)
        answer = await self._backend.call(exchange.caller, table.GET, GetPersonRequest(name=request.merged))
        return Answer(write_person(answer.person, self._links), 200, {"ETag": etag(answer.person.version)})


def _survivor(patient: Node, base_url: str) -> PatientLink | None:
    """Whom this person was merged into, by identifier (as PIXm has it) or by reference; None when the Patient says
    nothing of it."""
    for link in patient.children("link", 8):
        if link.token(name="type") == "replaced-by":
            if patient.boolean("active"):
                raise metadata(f"{patient.path}.active", "code", "a Patient that was replaced is not active")
            return read_patient(link.child("other"), base_url)
    return None


def _completed(person: Person, current: Person) -> Person:
    """What a Patient that is merged says, with what is known where it says nothing: it may be no more than a link."""
    whole = Person()
    whole.CopyFrom(person)
    whole.traits.CopyFrom(current.traits)
    for name in _differing(person, current):
        if name != "sex" or person.traits.sex != SEX_UNKNOWN:  # as one is read that states none
            setattr(whole.traits, name, getattr(person.traits, name))
    return whole


def _feed_key(exchange: Exchange, criterion: tuple[str, str], person: Person) -> str:
    """The request id: the caller's, else one that the same feed always gets, so that many at once are one."""
    if "idempotency-key" in exchange.request.headers:
        return negotiation.idempotency_key(exchange.request.headers)
    said = "|".join((*criterion, exchange.request.headers.get("if-match", ""))).encode()
    digest = hashlib.sha256(said + b"|" + person.SerializeToString(deterministic=True)).hexdigest()
    return f"iti-104-{digest}"


def _differing(person: Person, current: Person) -> list[str]:
    """The traits that are stated and are not what is known."""
    said, known = person.traits, current.traits
    names = said.DESCRIPTOR.fields_by_name
    return [name for name in names if getattr(said, name) and getattr(said, name) != getattr(known, name)]


def _pix_parameters(parameters: Node) -> Parameters:
    pairs = []
    for item in parameters.child("parameter").required().array(16):
        name = item.token(name="name")
        if name == "sourceIdentifier" and item.child("valueString").present:
            pairs.append((name, item.token(LONGEST_URI, "valueString")))
        elif name == "sourceIdentifier":
            identifier = item.child("valueIdentifier").required()
            system, value = identifier.uri("system"), identifier.token(name="value")
            pairs.append((name, f"{system}|{value}"))
        elif name == "targetSystem":
            pairs.append((name, item.uri("valueUri") or item.uri("valueString")))
        elif name == "_format":
            pairs.append((name, item.token(name="valueString")))
    return Parameters(pairs)


def _match_field(field: str) -> str:
    head, _, rest = field.partition(".")
    return f"Parameters.parameter.resource.{_TRAITS.get(rest if head == 'traits' else head, rest or head)}"


def _trait_field(field: str) -> str:
    parts = [part.partition("[")[0] for part in field.split(".")]
    return f"Patient.{next((_TRAITS[part] for part in parts if part in _TRAITS), parts[-1])}"
