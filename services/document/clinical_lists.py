"""The lists of ClinicalService, one method for each: which projections, in which order, in which message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import clinical_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.clinical import MOST_UNREAD, Asked, Item, Listings, Span, place_bytes, place_of, span_of
from services.document.clinical_linked import Joins
from services.document.clinical_sources import translated
from services.document.clinical_store import Place, ProjectionRow, Rows, Same
from services.document.reading.model import Kind
from services.document.reading.results import unit_of
from services.runtime.context import Call
from services.runtime.errors import DmpError

_DEFAULT: Final = 50
_DEFAULT_RESULTS: Final = 100
_DEFAULT_IMAGING: Final = 20
_DEFAULT_SUMMARIES: Final = 10
_SERIES_BYTES: Final = 16
_MOST_REFERENCES: Final = 1_000

Plain: TypeAlias = (
    clinical_pb2.ListMedicationsResponse
    | clinical_pb2.GetVaccinationRecordResponse
    | clinical_pb2.ListSummariesResponse
    | clinical_pb2.GetPathwayResponse
)
Paged: TypeAlias = Plain | clinical_pb2.ListImagingResponse | clinical_pb2.ListResultsResponse
Request: TypeAlias = (
    clinical_pb2.ListMedicationsRequest
    | clinical_pb2.GetVaccinationRecordRequest
    | clinical_pb2.ListSummariesRequest
    | clinical_pb2.GetPathwayRequest
    | clinical_pb2.ListImagingRequest
    | clinical_pb2.ListResultsRequest
)


class Criteria(NamedTuple):
    """Which projections a list by time holds; empty subkinds and codes are any."""

    kind: Kind
    span: Span = Span()
    subkinds: Sequence[int] = ()
    codes: Sequence[str] = ()


class Shown(NamedTuple):
    """What an answer shows: of which documents, and how many entries."""

    sources: Sequence[clinical_pb2.Source]
    entries: int


Fill: TypeAlias = Callable[[Asked], Awaitable[Shown]]


class ClinicalLists:
    """Gives the lists."""

    def __init__(self, listings: Listings, joins: Joins) -> None:
        self._listings = listings
        self._joins = joins

    async def medications(
        self, request: clinical_pb2.ListMedicationsRequest, call: Call
    ) -> clinical_pb2.ListMedicationsResponse:
        """Medicines, newest first."""
        response = clinical_pb2.ListMedicationsResponse()

        def criteria() -> Criteria:
            return Criteria(Kind.MEDICATION, span_of(request.time), request.kinds, request.codes)

        await self._plain(call, request, _DEFAULT, response, criteria, "medication")
        return response

    async def vaccinations(
        self, request: clinical_pb2.GetVaccinationRecordRequest, call: Call
    ) -> clinical_pb2.GetVaccinationRecordResponse:
        """Vaccinations, newest first."""
        response = clinical_pb2.GetVaccinationRecordResponse()
        await self._plain(call, request, _DEFAULT, response, lambda: Criteria(Kind.VACCINATION), "vaccination")
        return response

    async def summaries(
        self, request: clinical_pb2.ListSummariesRequest, call: Call
    ) -> clinical_pb2.ListSummariesResponse:
        """Summaries and letters, newest first."""
        response = clinical_pb2.ListSummariesResponse()

        def criteria() -> Criteria:
            return Criteria(Kind.SUMMARY, span_of(request.time), request.kinds)

        await self._plain(call, request, _DEFAULT_SUMMARIES, response, criteria, "summary")
        return response

    async def pathway(self, request: clinical_pb2.GetPathwayRequest, call: Call) -> clinical_pb2.GetPathwayResponse:
        """Events of all kinds, newest first."""
        response = clinical_pb2.GetPathwayResponse()

        def criteria() -> Criteria:
            return Criteria(Kind.EVENT, span_of(request.time), request.categories)

        await self._plain(call, request, _DEFAULT, response, criteria, "event")
        return response

    async def imaging(self, request: clinical_pb2.ListImagingRequest, call: Call) -> clinical_pb2.ListImagingResponse:
        """Reports with their references, and references without a report, newest first."""
        response = clinical_pb2.ListImagingResponse()

        async def fill(asked: Asked) -> Shown:
            kinds, span = (int(Kind.IMAGING_REPORT), int(Kind.IMAGING_REFERENCE)), span_of(request.time)
            after, limit = place_of(asked.after), asked.size + 1
            same = await self._joins.images(asked)
            with translated():
                page = await self._listings.store.imaging(
                    asked.dossiers, asked.view, kinds, span=span, after=after, limit=limit, same=same
                )
            items = await self._items(asked, page, response)
            linked = await self._linked(asked, items, same)
            for item in items:
                _imaging_entry(response.entries.add(source=item.source), item, linked)
            sources = [entry.source for entry in response.entries]
            sources += [reference.source for entry in response.entries for reference in entry.references]
            return Shown(sources, len(response.entries))

        await self._listing(call, request, _DEFAULT_IMAGING, fill)
        return response

    async def results(self, request: clinical_pb2.ListResultsRequest, call: Call) -> clinical_pb2.ListResultsResponse:
        """Results, series by series."""
        response = clinical_pb2.ListResultsResponse()

        async def fill(asked: Asked) -> Shown:
            codes = self._listings.wanted(asked, request.codes)
            span, after, limit = span_of(request.time), _series_place(asked.after), asked.size + 1
            same = await self._joins.series(asked)
            with translated():
                page = await self._listings.store.series(
                    asked.dossiers,
                    asked.view,
                    int(Kind.RESULT),
                    codes=codes,
                    span=span,
                    after=after,
                    limit=limit,
                    same=same,
                )
            items = await self._items(asked, page, response, lambda row: row.series_digest)
            _series(response, items)
            if after is None:
                response.unread.extend(await self._unread_results(asked))
            return Shown([*(item.source for item in items), *response.unread], len(items))

        await self._listing(call, request, _DEFAULT_RESULTS, fill)
        return response

    async def _listing(self, call: Call, request: Request, size: int, fill: Fill) -> None:
        """One listing from consent's yes to its record in the trail; `fill` makes the answer."""
        decision = await self._listings.enter(call)
        try:
            asked = await self._listings.asked(call, decision, request, size)
            shown = await fill(asked)
        except DmpError as error:
            raise await self._listings.rejected(call, decision, error) from error.__cause__
        await self._listings.served(asked, shown.sources, shown.entries)

    async def _plain(
        self, call: Call, request: Request, size: int, response: Plain, criteria: Callable[[], Criteria], content: str
    ) -> None:
        """A list by time, each entry with its source, what the document says in the field `content`, or why not."""

        async def fill(asked: Asked) -> Shown:
            items = await self._by_time(asked, response, criteria())
            for item in items:
                entry = response.entries.add(source=item.source)
                if item.message is not None:
                    getattr(entry, content).CopyFrom(item.message)
                if item.row.unread:
                    entry.unread.CopyFrom(_unread(item.row))
            return Shown([item.source for item in items], len(items))

        await self._listing(call, request, size, fill)

    async def _by_time(self, asked: Asked, response: Paged, criteria: Criteria) -> list[Item]:
        after = place_of(asked.after)
        codes = self._listings.wanted(asked, criteria.codes)
        with translated():
            page = await self._listings.store.listed(
                asked.dossiers,
                asked.view,
                int(criteria.kind),
                subkinds=[int(subkind) for subkind in criteria.subkinds] or None,
                codes=codes,
                span=criteria.span,
                after=after,
                limit=asked.size + 1,
            )
        return await self._items(asked, page, response)

    async def _items(
        self,
        asked: Asked,
        page: Rows,
        response: Paged,
        before_place: Callable[[ProjectionRow], bytes] = lambda _: b"",
    ) -> list[Item]:
        """The items of a page, and in the response where it goes on."""
        shown = page.rows[: asked.size]
        response.total_size = page.total
        if len(page.rows) > asked.size:
            position = before_place(shown[-1]) + place_bytes(shown[-1].position)
            response.next_page_token = self._listings.next_token(asked, position)
        with translated():
            response.pending = await self._listings.pending(asked)
        return await self._listings.items(asked, shown)

    async def _linked(self, asked: Asked, items: Sequence[Item], same: Same) -> list[Item]:
        """The references that any of these reports is linked to."""
        links = {link for item in items if item.row.kind == Kind.IMAGING_REPORT for link in item.row.link_digests}
        if not links:
            return []
        with translated():
            rows = await self._listings.store.linked(
                asked.dossiers, asked.view, int(Kind.IMAGING_REFERENCE), links, _MOST_REFERENCES, same
            )
        return await self._listings.items(asked, rows)

    async def _unread_results(self, asked: Asked) -> list[clinical_pb2.Source]:
        with translated():
            found = await self._listings.store.unread(asked.dossiers, asked.view, int(Kind.RESULT), MOST_UNREAD)
        return await self._listings.sources(asked, found)


def _unread(row: ProjectionRow) -> clinical_pb2.Unread:
    return clinical_pb2.Unread(reason=row.unread)  # type: ignore[arg-type]  # a number of that enumeration, as stored


def _imaging_entry(entry: clinical_pb2.ImagingEntry, item: Item, linked: Sequence[Item]) -> None:
    if isinstance(item.message, values.ImagingReport):
        entry.report.CopyFrom(item.message)
    elif isinstance(item.message, values.ImagingReference):
        entry.references.add(source=item.source, reference=item.message)
    else:
        entry.unread.CopyFrom(_unread(item.row))
    if item.row.kind != Kind.IMAGING_REPORT:
        return
    own = set(item.row.link_digests)
    for other in linked:
        if own & set(other.row.link_digests) and isinstance(other.message, values.ImagingReference):
            entry.references.add(source=other.source, reference=other.message)


def _series(response: clinical_pb2.ListResultsResponse, items: Sequence[Item]) -> None:
    """Neighbours of one series together."""
    before: bytes | None = None
    for item in items:
        if not isinstance(item.message, values.Result):
            continue
        if item.row.series_digest != before:
            response.series.add(code=item.message.code, unit=unit_of(item.message))
            before = item.row.series_digest
        response.series[-1].results.add(source=item.source, result=item.message)


def _series_place(position: bytes) -> tuple[bytes, Place] | None:
    if not position:
        return None
    place = place_of(position[_SERIES_BYTES:])
    if place is None:
        raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
    return position[:_SERIES_BYTES], place
