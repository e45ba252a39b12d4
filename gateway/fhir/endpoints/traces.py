"""The trail as AuditEvents (BALP): ITI-81, ITI-20, receipts."""

from __future__ import annotations

from collections.abc import Mapping

from dmp.audit.v1.audit_pb2 import GetEventRequest, GetReceiptRequest
from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.fhir import negotiation, search, traces
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import translate
from gateway.fhir.refusals import invalid
from gateway.fhir.tables import traces as table
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, event_name


class Traces(Endpoints):
    """The endpoints of the trail."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "trace-search": self.search,
            "trace-read": self.read,
            "trace-receipt": self.receipt,
            "trace-record": self.record,
        }

    async def search(self, exchange: Exchange) -> Answer:
        """ITI-81. The number of all events is not told: a page may hold fewer than asked for and have a next one."""
        parameters = await exchange.parameters(traces.NAMES)
        try:
            read = traces.read_search(parameters, self._links)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_DOCUMENT_NOT_FOUND:
                raise
            raise invalid("entity", "reference", "DocumentReference/{id} as given in answers") from None
        health_id = await self._health_id(exchange, read.patient)
        read.request.parent = dossier_name(health_id)
        try:
            call = self._backend.call(exchange.caller, table.LIST, read.request)
            response = await self._or_nobody(call, read.patient.field)
        except DmpError as error:
            raise translate(error, _field) from None
        events = [] if read.only_total else response.events
        found = [traces.write_event(each.name, each.event, self._links) for each in events]
        token = "" if read.only_total else response.next_page_token
        total = len(response.events) if not response.next_page_token and not read.request.page_token else None
        pairs = [("patient.identifier" if name == "entity.identifier" else name, value) for name, value in read.pairs]
        page = search.searchset(
            found, pairs, self._links, kind="AuditEvent", health_id=health_id, token=token, total=total
        )
        return Answer(page)

    async def read(self, exchange: Exchange) -> Answer:
        """One event."""
        request = GetEventRequest(name=event_name(*await self._read_id(exchange, "AuditEvent")))
        found = (await self._backend.call(exchange.caller, table.GET, request)).event
        return Answer(traces.write_event(found.name, found.event, self._links))

    async def receipt(self, exchange: Exchange) -> Answer:
        """Its proof, in a form that anybody checks without the platform."""
        request = GetReceiptRequest(name=event_name(*await self._read_id(exchange, "AuditEvent")))
        found = await self._backend.call(exchange.caller, table.RECEIPT, request)
        return Answer(traces.write_receipt(found.proof, found.log_key, found.witness_keys))

    async def record(self, exchange: Exchange) -> Answer:
        """ITI-20."""
        key = negotiation.idempotency_key(exchange.request.headers)
        resource = await exchange.resource("AuditEvent")
        request, link = traces.read_event(resource, self._links.base_url)
        request.parent = dossier_name(await self._health_id(exchange, link))
        request.request_id = key
        try:
            call = self._backend.call(exchange.caller, table.RECORD, request)
            found = (await self._or_nobody(call, link.field)).event
        except DmpError as error:
            raise translate(error, lambda field: f"AuditEvent.{field}") from None
        written = traces.write_event(found.name, found.event, self._links)
        return Answer(written, 201, {"Location": self._links.url("AuditEvent", written["id"])})


def _field(field: str) -> str:
    names = {"page_token": "_page", "page_size": "_count", "filter.actor": "agent", "filter.object": "entity"}
    return names.get(field, field.removeprefix("filter."))
