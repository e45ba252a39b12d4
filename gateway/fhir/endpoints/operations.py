"""The operations of a dossier: open, reopen, close, authorise, revoke, block, preferences (TD0.3, 0.4, 1.1 to 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from dmp.consent.v1 import consent_pb2
from dmp.consent.v1.consent_pb2 import ConsentRecord, Dossier, GetDossierResponse, Grantee
from dmp.document.v1 import document_pb2
from gateway.fhir import consents, dossier, negotiation
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import translate
from gateway.fhir.identifiers import PatientLink, patient_identifier, read_patient
from gateway.fhir.node import LONGEST_CODE, LONGEST_URI, JsonObject, Node
from gateway.fhir.parameters import Parameters
from gateway.fhir.refusals import invalid
from gateway.fhir.search import read_page, searchset
from gateway.fhir.tables import consents as table
from gateway.fhir.times import since, timestamp
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name

_METHODS: Final = {
    "oral": consent_pb2.CONSENT_METHOD_ORAL,
    "written": consent_pb2.CONSENT_METHOD_WRITTEN,
    "electronic": consent_pb2.CONSENT_METHOD_ELECTRONIC,
}
_GIVERS: Final = {
    "patient": consent_pb2.CONSENT_GIVER_PATIENT,
    "representative": consent_pb2.CONSENT_GIVER_REPRESENTATIVE,
}
_REASONS: Final = {
    "PATIENT_REQUEST": consent_pb2.CLOSE_REASON_PATIENT_REQUEST,
    "DEATH": consent_pb2.CLOSE_REASON_DEATH,
    "ERROR": consent_pb2.CLOSE_REASON_ERROR,
}
_FIELDS: Final = {
    "name": "patient",
    "parent": "patient",
    "consent": "consentMethod",
    "grantee": "grantee",
    "reason": "reason",
    "request_id": "Idempotency-Key",
}


class Operations(Endpoints):
    """The endpoints of a dossier's operations."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "dossier-open": self.open,
            "dossier-reopen": self.reopen,
            "dossier-close": self.close,
            "dossier-authorise": self.authorise,
            "dossier-revoke": self.revoke,
            "dossier-stop-attending": self.stop_attending,
            "dossier-block": self.block,
            "dossier-unblock": self.unblock,
            "dossier-preferences": self.preferences,
            "dossier-accessible": self.accessible,
        }

    async def open(self, exchange: Exchange) -> Answer:
        """TD1.1."""
        said = await self._said(exchange)
        request = consent_pb2.OpenDossierRequest(
            name=dossier_name(said.health_id),
            consent=said.consent(),
            break_glass_opposed=said.boolean("breakGlassOpposed") or False,
            regulation_opposed=said.boolean("regulationOpposed") or False,
            masked_shown_in_emergency=said.boolean("maskedShownInEmergency") or False,
            request_id=said.key,
        )
        found = (await self._call(exchange, table.OPEN, request)).dossier
        return Answer(self._dossier(found, said), 201)

    async def reopen(self, exchange: Exchange) -> Answer:
        """TD1.2."""
        said = await self._said(exchange)
        request = consent_pb2.ReopenDossierRequest(
            name=dossier_name(said.health_id), consent=said.consent(), request_id=said.key
        )
        return Answer(self._dossier((await self._call(exchange, table.REOPEN, request)).dossier, said))

    async def close(self, exchange: Exchange) -> Answer:
        """TD1.4."""
        said = await self._said(exchange)
        reason = said.code("reason", _REASONS, "PATIENT_REQUEST")
        request = consent_pb2.CloseDossierRequest(name=dossier_name(said.health_id), reason=reason, request_id=said.key)
        return Answer(self._dossier((await self._call(exchange, table.CLOSE, request)).dossier, said))

    async def authorise(self, exchange: Exchange) -> Answer:
        """TD0.3: the Consent of the authorisation."""
        said = await self._said(exchange)
        visit = said.boolean("visit")
        request = consent_pb2.GrantAuthorizationRequest(
            parent=dossier_name(said.health_id),
            grantee=said.grantee(),
            attending_physician=said.boolean("attendingPhysician") or False,
            patient_consented=said.boolean("patientConsented") or False,
            care_team=said.boolean("careTeam") or False,
            term=consent_pb2.AUTHORIZATION_TERM_VISIT if visit else consent_pb2.AUTHORIZATION_TERM_YEAR,
            request_id=said.key,
        )
        answer = await self._call(exchange, table.GRANT, request)
        standing = consent_pb2.GranteeStanding(
            grantee=answer.authorization.grantee,
            state=consent_pb2.AUTHORIZATION_STATE_VALID,
            authorization=answer.authorization,
        )
        return Answer(consents.write_standing(standing, said.health_id, self._ids, answer.epoch))

    async def revoke(self, exchange: Exchange) -> Answer:
        """TD0.3."""
        said = await self._said(exchange)
        request = consent_pb2.RevokeAuthorizationRequest(
            parent=dossier_name(said.health_id), grantee=said.grantee(), request_id=said.key
        )
        return _epoch((await self._call(exchange, table.REVOKE, request)).epoch)

    async def stop_attending(self, exchange: Exchange) -> Answer:
        """TD0.3: no longer MT."""
        said = await self._said(exchange)
        request = consent_pb2.RemoveAttendingPhysicianRequest(
            parent=dossier_name(said.health_id), grantee=said.grantee(), request_id=said.key
        )
        return _epoch((await self._call(exchange, table.REMOVE_ATTENDING, request)).epoch)

    async def block(self, exchange: Exchange) -> Answer:
        """TD0.3, by the patient."""
        said = await self._said(exchange)
        request = consent_pb2.BlockProfessionalRequest(
            parent=dossier_name(said.health_id), grantee=said.grantee(), request_id=said.key
        )
        return _epoch((await self._call(exchange, table.BLOCK, request)).epoch)

    async def unblock(self, exchange: Exchange) -> Answer:
        """TD0.3, by the patient."""
        said = await self._said(exchange)
        request = consent_pb2.UnblockProfessionalRequest(
            parent=dossier_name(said.health_id), grantee=said.grantee(), request_id=said.key
        )
        return _epoch((await self._call(exchange, table.UNBLOCK, request)).epoch)

    async def preferences(self, exchange: Exchange) -> Answer:
        """TD1.3: what is not stated stays."""
        said = await self._said(exchange)
        request = consent_pb2.UpdatePreferencesRequest(
            name=dossier_name(said.health_id),
            break_glass_opposed=said.boolean("breakGlassOpposed"),
            regulation_opposed=said.boolean("regulationOpposed"),
            masked_shown_in_emergency=said.boolean("maskedShownInEmergency"),
            patient_consented=said.boolean("patientConsented") or False,
            request_id=said.key,
        )
        return Answer(self._dossier((await self._call(exchange, table.PREFERENCES, request)).dossier, said))

    async def accessible(self, exchange: Exchange) -> Answer:
        """TD0.4: a searchset of Patients, each with the caller's own standing, or the date of its last document."""
        parameters = await exchange.query(frozenset({"order", "since", "_count", "_page"}))
        order = parameters.single("order") or "authorization"
        if order not in ("authorization", "document"):
            raise invalid("order", "code", "authorization or document")
        if order == "document":
            recent = _paged(document_pb2.ListRecentDossiersRequest(), parameters)
            by_document = await self._backend.call(exchange.caller, table.RECENT, recent)
            found = [dossier.write_recent(each, self._links) for each in by_document.dossiers]
            token = by_document.next_page_token
        else:
            accessible = _paged(consent_pb2.ListAccessibleRequest(), parameters)
            by_grant = await self._backend.call(exchange.caller, table.ACCESSIBLE, accessible)
            found = [dossier.write_accessible(each, self._links) for each in by_grant.dossiers]
            token = by_grant.next_page_token
        kind = "Patient/$dossier-accessible"
        return Answer(searchset(found, _plain(parameters), self._links, kind=kind, token=token))

    async def _said(self, exchange: Exchange) -> _Said:
        """The parameters of an operation, and the dossier that they name."""
        key = negotiation.idempotency_key(exchange.request.headers)
        parameters = await exchange.resource("Parameters")
        by_name: dict[str, Node] = {}
        for item in parameters.child("parameter").required().array(32):
            name = item.child("name").required().token()
            if name in by_name:
                raise invalid(item.path, "repeated", "this parameter is given once")
            by_name[name] = item
        if "patient" not in by_name:
            raise invalid("Parameters.parameter", "required", "patient: valueIdentifier, or valueReference")
        link = _patient_link(by_name["patient"], self._links.base_url)
        return _Said(await self._health_id(exchange, link), link, by_name, key)

    async def _call(self, exchange: Exchange, rpc: Any, request: Any) -> Any:
        try:
            return await self._or_nobody(self._backend.call(exchange.caller, rpc, request), "patient")
        except DmpError as error:
            raise translate(error, lambda field: _FIELDS.get(field.partition(".")[0], field)) from None

    def _dossier(self, found: Dossier, said: _Said) -> JsonObject:
        return dossier.write_dossier(
            GetDossierResponse(dossier=found), said.health_id, self._links, said.link.identifier, standing=False
        )


class _Said:
    """The parameters of one operation."""

    def __init__(self, health_id: int, link: PatientLink, by_name: Mapping[str, Node], key: str) -> None:
        self.health_id = health_id
        self.link = link
        self.key = key
        self._by_name = by_name

    def boolean(self, name: str) -> bool | None:
        """A boolean; None when it is left out."""
        return self._by_name[name].boolean("valueBoolean") if name in self._by_name else None

    def code(self, name: str, words: Mapping[str, Any], default: str) -> Any:
        """A code as the enum value that it stands for."""
        if name not in self._by_name:
            return words[default]
        node = self._by_name[name]
        text = node.token(name="valueCode") or node.token(name="valueString")
        if text not in words:
            raise invalid(node.path, "code", f"one of {', '.join(words)}")
        return words[text]

    def grantee(self) -> Grantee | None:
        """Who is meant; None for the caller."""
        if "grantee" not in self._by_name:
            return None
        node = self._by_name["grantee"]
        if node.child("valueIdentifier").present:
            wrapped = Node(node.path, {"identifier": node.child("valueIdentifier").value})
            return consents.read_grantee(wrapped)
        return consents.read_grantee(node.child("valueReference").required())

    def consent(self) -> ConsentRecord:
        """The consent given: by default now, by word of mouth, by the patient."""
        giver = self.code("consentGivenBy", _GIVERS, "patient")
        record = ConsentRecord(method=self.code("consentMethod", _METHODS, "oral"), given_by=giver)
        date = self._by_name.get("consentDate")
        given = timestamp(date.child("valueDateTime")) if date is not None else None
        if given is not None:
            record.collect_time.CopyFrom(given)
        else:
            record.collect_time.GetCurrentTime()
        return record


def _patient_link(node: Node, base_url: str) -> PatientLink:
    identifier = node.child("valueIdentifier")
    if identifier.present:
        system = identifier.child("system").required().token(LONGEST_URI)
        value = identifier.child("value").required().token(LONGEST_CODE)
        return PatientLink(patient_identifier(system, value, identifier.path), field=identifier.path)
    return read_patient(node.child("valueReference"), base_url)


_LARGEST_PAGE: Final = 200

_Listing = TypeVar("_Listing", consent_pb2.ListAccessibleRequest, document_pb2.ListRecentDossiersRequest)


def _paged(request: _Listing, parameters: Parameters) -> _Listing:
    """The request with the date and the page that are asked for."""
    page = read_page(parameters, _LARGEST_PAGE)
    if page.only_total:
        raise invalid("_count", "gte", "1 or more: this list has no total")
    request.page_token, request.page_size = page.token, page.size
    if parameters.single("since"):
        request.since.CopyFrom(since(parameters.single("since"), "since"))
    return request


def _epoch(epoch: int) -> Answer:
    """The confirmation: no request that begins now is served by the former state."""
    parameter = {"name": "epoch", "valueInteger": epoch}
    return Answer({"resourceType": "Parameters", "parameter": [parameter]})


def _plain(parameters: Parameters) -> list[tuple[str, str]]:
    return [pair for pair in parameters.pairs if pair[0] != "_page"]
