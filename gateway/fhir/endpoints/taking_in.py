"""The lines of an `$import` by who takes over a home host: people, their dossiers, their submission sets (domain §6).

A line is one act of one service, with the key of the line: taken twice it is taken once. What is here already stays as
it is. A dossier comes whole with one line, before its documents; the documents come in the order in which they came to
the other host, each set with its uniqueId and its date.
"""

from __future__ import annotations

from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1.consent_pb2 import TakeInDossierRequest
from dmp.document.v1.document_pb2 import DOCUMENT_CHANGE_ARCHIVE, ChangeDocumentRequest
from dmp.identity.v1.identity_pb2 import CreatePersonRequest
from gateway.external_ids import ExternalIds
from gateway.fhir import submission, taken_in
from gateway.fhir.backend import Backend
from gateway.fhir.endpoints.common import NOBODY, Endpoints
from gateway.fhir.exchange import Exchange
from gateway.fhir.field_paths import submission_field, translate
from gateway.fhir.identifiers import PatientLink
from gateway.fhir.imported import Line
from gateway.fhir.json_body import parse_json
from gateway.fhir.node import Node
from gateway.fhir.person_out import read_person
from gateway.fhir.refusals import unsupported
from gateway.fhir.submission import SubmissionKey
from gateway.fhir.tables.documents import CHANGE, SUBMIT
from gateway.fhir.tables.hosts import TAKE_IN
from gateway.fhir.tables.people import CREATE
from gateway.fhir.times import timestamp
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, person_name

KINDS: Final = ("Patient", "Parameters", "Bundle")
_REASON: Final = "host.import"


class TakingIn(Endpoints):
    """Takes lines."""

    def __init__(self, backend: Backend, ids: ExternalIds, base_url: str) -> None:
        super().__init__(backend, ids, base_url)

    async def line(self, exchange: Exchange, line: Line, key: str) -> bool:
        """Whether the line made something; False if it was there already. Raises its refusal."""
        resource = Node(line.kind, parse_json(line.body))
        if line.kind == "Patient":
            return await self._person(exchange, resource, key)
        if line.kind == "Parameters":
            return await self._dossier(exchange, resource, key)
        if line.kind == "Bundle":
            return await self._set(exchange, resource, line, key)
        raise unsupported("resourceType", f"who takes over a host sends {', '.join(KINDS)}")

    async def _person(self, exchange: Exchange, patient: Node, key: str) -> bool:
        """Registered unless known. Who a known person is does not change, and nobody becomes one with somebody else:
        near matches go to the work list of those who decide."""
        person = read_person(patient)
        for each in person.identifiers:
            if await self._backend.resolve(exchange.caller, (each.system, each.value)) is not None:
                return False
        request = CreatePersonRequest(person=person, request_id=key, reason=_REASON)
        try:
            return not (await self._backend.call(exchange.caller, CREATE, request)).existed
        except DmpError as error:
            raise translate(error, lambda field: f"Patient.{field.removeprefix('person.')}") from None

    async def _dossier(self, exchange: Exchange, parameters: Node, key: str) -> bool:
        taken = taken_in.read_taken(parameters, self._links.base_url)
        health_id = await self._health_id(exchange, taken.patient)
        request = TakeInDossierRequest(name=dossier_name(health_id), taken=taken.host, request_id=key)
        unknown = []
        del request.taken.representatives[:]
        for index, (link, said) in enumerate(zip(taken.representatives, taken.host.representatives, strict=True)):
            person = await self._known(exchange, link)
            if person is None:
                unknown.append(index)
            else:
                request.taken.representatives.append(said)
                request.taken.representatives[-1].person = person_name(person)
        if taken.giver is not None and (giver := await self._known(exchange, taken.giver)) is not None:
            request.taken.consent.representative = person_name(giver)
        if taken.survivor is not None and (survivor := await self._known(exchange, taken.survivor)) is not None:
            request.taken.dossier.merged_into = dossier_name(survivor)
        try:
            answer = await self._backend.call(exchange.caller, TAKE_IN, request)
        except DmpError as error:
            raise translate(error, taken_in.said_field) from None
        if unknown and not answer.existed:
            raise taken_in.unknown_people(unknown)
        return not answer.existed

    async def _set(self, exchange: Exchange, bundle: Node, line: Line, key: str) -> bool:
        own_key = SubmissionKey(exchange.caller.actor.client_id, key)
        read = submission.read_bundle(bundle, self._links, own_key, taken_over=True)
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        moment = timestamp(Node(f"{read.set_path}.date", line.submitted))
        if moment is not None:
            read.request.submission_set.submit_time.CopyFrom(moment)
        try:
            found = await self._or_nobody(self._backend.call(exchange.caller, SUBMIT, read.request), read.patient.field)
        except DmpError as error:
            whole = any(each.field == "submission_set.unique_id" for each in error.fields)
            if error.reason == reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID and whole:
                return False
            raise translate(error, submission_field(read)) from None
        for index in line.archived_documents:
            await self._archive(exchange, found.documents[index].name, f"{key}-{index}")
        return True

    async def _archive(self, exchange: Exchange, name: str, key: str) -> None:
        request = ChangeDocumentRequest(name=name, change=DOCUMENT_CHANGE_ARCHIVE, request_id=key)
        try:
            await self._backend.call(exchange.caller, CHANGE, request)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE:
                raise

    async def _known(self, exchange: Exchange, link: PatientLink) -> int | None:
        """Who a link names here: by identifier, else by an id that this platform gave out; None for nobody."""
        try:
            if link.identifier is not None:
                return await self._backend.resolve(exchange.caller, link.identifier)
            return self._ids.read("Patient", link.patient_id)[0]
        except DmpError as error:
            if error.reason in NOBODY or error.reason == reasons.ERROR_REASON_DOCUMENT_NOT_FOUND:
                return None
            raise
