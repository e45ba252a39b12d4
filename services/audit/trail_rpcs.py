"""The RPCs by which a dossier's trail is asked, exported, proved and added to: authorise, call the use case, record."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.audit.append import AuditLog
from services.audit.entry import EntryDigests
from services.audit.filters import period
from services.audit.french import group_key, summarize
from services.audit.listing import DEFAULT_PAGE, Place, Reader, TrailReader, place_after
from services.audit.logs import Logs
from services.audit.notice_list import NoticeList
from services.audit.rules import PRODUCER, TrailFilter, trail_filter
from services.runtime.checks import AccessChecks, refusal
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import child_of, event_name
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

T = TypeVar("T")
_SUMMARIZED: Final = 1000
"""Events that one page of summaries is made of, about."""
_BY_DEFAULT: Final = timedelta(days=90)
_SUMMARIES: Final = b"audit.SummarizeAccess"
_TRACES: Final = consent_pb2.ACTION_READ_TRACES


class TrailRpcs:
    """What partners, patients and internal systems may ask of one dossier's trail."""

    _log: AuditLog
    _reader: TrailReader
    _checks: AccessChecks
    _trail: Trail
    _digests: EntryDigests
    _logs: Logs
    _notices: NoticeList

    async def ListEvents(self, request: audit_pb2.ListEventsRequest, call: Call) -> audit_pb2.ListEventsResponse:
        """A page of a dossier's trail, as far as consent lets the caller see; recorded before it is answered."""

        async def page(visible: TrailFilter) -> tuple[audit_pb2.ListEventsResponse, int]:
            validate(request)
            reader = _reader(call, visible, request.filter)
            before = self._reader.position(request.page_token, reader)
            response = await self._reader.page(reader, before, request.page_size)
            return response, len(response.events)

        return await self._answer(call, page)

    async def GetEvent(self, request: audit_pb2.GetEventRequest, call: Call) -> audit_pb2.GetEventResponse:
        """One event of a dossier's trail."""

        async def one(visible: TrailFilter) -> tuple[audit_pb2.GetEventResponse, int]:
            validate(request)
            _, event_id = child_of(request.name, "events", "name")
            found = await self._reader.event(_reader(call, visible), event_id)
            return audit_pb2.GetEventResponse(event=found.event), 1

        return await self._answer(call, one, objects=(request.name,))

    async def SummarizeAccess(
        self, request: audit_pb2.SummarizeAccessRequest, call: Call
    ) -> audit_pb2.SummarizeAccessResponse:
        """Who entered, when, from where, what they did and why they could, in French."""

        async def summaries(visible: TrailFilter) -> tuple[audit_pb2.SummarizeAccessResponse, int]:
            validate(request)
            asked = audit_pb2.EventFilter()
            asked.CopyFrom(request.filter)
            reader = _reader(call, visible, asked)
            before = self._reader.position(request.page_token, reader, _SUMMARIES)
            period(asked)
            if not asked.HasField("start_time") and not asked.HasField("end_time"):
                narrowed = audit_pb2.EventFilter()
                narrowed.CopyFrom(asked)
                narrowed.start_time.FromDatetime(datetime.now(UTC) - _BY_DEFAULT)
                response = await self._summarize(_reader(call, visible, narrowed), reader, before, request.page_size)
            else:
                response = await self._summarize(reader, reader, before, request.page_size)
            return response, len(response.summaries)

        return await self._answer(call, summaries)

    async def ExportEvents(
        self, request: audit_pb2.ExportEventsRequest, call: Call
    ) -> AsyncIterator[audit_pb2.ExportEventsResponse]:
        """The whole trail, oldest first; that it is exported is in it before the first event leaves."""

        async def begin(visible: TrailFilter) -> tuple[Reader, int]:
            validate(request)
            period(request.filter)
            return _reader(call, visible, request.filter), 0

        reader = await self._answer(call, begin)
        async for event in self._reader.whole(reader):
            yield audit_pb2.ExportEventsResponse(event=event)

    async def RecordEvent(self, request: audit_pb2.RecordEventRequest, call: Call) -> audit_pb2.RecordEventResponse:
        """Add a partner's own event, once for each request id; whoever may feed the dossier may."""
        decision = await self._checks.check(call, call.health_id, consent_pb2.ACTION_SUBMIT)
        try:
            if not decision.permitted:
                raise refusal(decision)
            validate(request)
            event = self._reported(request, call)
            [receipt] = await self._log.append(
                PRODUCER, audit_pb2.BatchAppendEventsRequest(events=[event]), call.remaining()
            )
            if isinstance(receipt, DmpError):
                conflict = receipt.reason == reasons.ERROR_REASON_EVENT_CONFLICT
                raise DmpError(reasons.ERROR_REASON_REQUEST_ID_REUSED) if conflict else receipt
        except DmpError as error:
            await self._trail.refuse(call, error, epoch=decision.epoch)
            raise
        name = event_name(call.health_id, uuid.UUID(bytes=event.event_id))
        return audit_pb2.RecordEventResponse(event=audit_pb2.TrailEvent(name=name, receipt=receipt, event=event))

    async def GetReceipt(self, request: audit_pb2.GetReceiptRequest, call: Call) -> audit_pb2.GetReceiptResponse:
        """The proof of one event, for whoever may see it."""

        async def receipt(visible: TrailFilter) -> tuple[audit_pb2.GetReceiptResponse, int]:
            validate(request)
            _, event_id = child_of(request.name, "events", "name")
            found = await self._reader.event(_reader(call, visible), event_id)
            place = found.event.receipt
            tree = self._logs.trees[place.log_id]
            extra = event_id.bytes + found.part.salt + found.part.clear
            proof = await tree.proof(place.leaf_index, extra)
            if proof is None:
                raise DmpError(reasons.ERROR_REASON_RECEIPT_NOT_READY)
            witnesses = [witness.key.text() for witness in tree.policy.witnesses.values()]
            return audit_pb2.GetReceiptResponse(
                proof=proof.encode().decode(),
                log_key=tree.signer.verifier.text(),
                witness_keys=witnesses,
                receipt=place,
            ), 1

        return await self._answer(call, receipt, objects=(request.name,))

    async def ListNotices(self, request: notice_pb2.ListNoticesRequest, call: Call) -> notice_pb2.ListNoticesResponse:
        """What the patient, or the attending physician, was told about a dossier."""

        async def page(visible: TrailFilter) -> tuple[notice_pb2.ListNoticesResponse, int]:
            validate(request)
            response = await self._notices.page(call, visible, request)
            return response, len(response.notices)

        return await self._answer(call, page)

    async def _answer(
        self, call: Call, make: Callable[[TrailFilter], Awaitable[tuple[T, int]]], objects: tuple[str, ...] = ()
    ) -> T:
        """What `make` makes of what the caller may see, recorded with its number of results before it is returned."""
        decision = await self._checks.check(call, call.health_id, _TRACES)
        visible = trail_filter(decision.filter.traces, decision.linked) if decision.permitted else None
        try:
            if visible is None:
                raise refusal(decision)
            response, count = await make(visible)
        except DmpError as error:
            outcome = audit_pb2.OUTCOME_DENIED if visible is None else audit_pb2.OUTCOME_REJECTED
            await self._trail.refuse(call, error, outcome=outcome, epoch=decision.epoch, objects=_short(objects))
            raise
        for health_id in (call.health_id, *visible.linked):  # a trail that is read with another says so itself
            event = build_event(
                call,
                outcome=audit_pb2.OUTCOME_SUCCESS,
                health_id=health_id,
                epoch=decision.epoch if health_id == call.health_id else 0,
                basis=decision.basis,
                result_count=count,
                objects=_short(objects),
            )
            await self._trail.record(event, call.remaining())
        return response

    async def _summarize(
        self, reader: Reader, scope: Reader, before: Place, page_size: int
    ) -> audit_pb2.SummarizeAccessResponse:
        """One page: whole groups as far as the events of the page go."""
        page = await self._reader.collect(reader, before, _SUMMARIZED)
        events, next_before, size = page.events, page.next_before, page_size or DEFAULT_PAGE
        seen = set()
        for number, event in enumerate(events):
            seen.add(group_key(event.event))
            if len(seen) > size:
                events, next_before = events[:number], place_after(before, events[:number])
                break
        return audit_pb2.SummarizeAccessResponse(
            summaries=summarize(events), next_page_token=self._reader.token(next_before, scope, _SUMMARIES)
        )

    def _reported(self, request: audit_pb2.RecordEventRequest, call: Call) -> audit_pb2.AuditEvent:
        event = build_event(call, outcome=request.outcome, objects=request.objects)
        value = f"{call.client_id}\0{call.health_id}\0{request.request_id}".encode()
        event.event_id = self._digests.event_id("reported", value)
        event.event_time.CopyFrom(request.event_time)
        event.reported.CopyFrom(request.reported)
        event.trace_id, event.producer = "", PRODUCER
        return event


def _reader(call: Call, visible: TrailFilter, asked: audit_pb2.EventFilter | None = None) -> Reader:
    return Reader(call.health_id, call.actor.subject, visible, asked or audit_pb2.EventFilter())


def _short(objects: tuple[str, ...]) -> tuple[str, ...]:
    """Names that fit an event: what is longer was no name, and was refused for it."""
    return tuple(name for name in objects if len(name) <= 256)
