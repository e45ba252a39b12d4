"""What the documents of a dossier say, listed for one caller: authorised as reading (TD3.2), bounded by the same view
as the documents themselves inside the one statement (`clinical_store`), recorded before it is answered.

Here live the criteria, the page tokens, what an entry's source is, and the record of what left. Each list begins by
reading what waits in the dossier (`projecting`), so that none is behind the documents.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from google.protobuf.message import Message as AnyMessage

from dmp.common.v1 import coding_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from services.document.clinical_envelope import Digests, opened
from services.document.clinical_sources import DocumentKey, Documents, View, translated
from services.document.clinical_store import ClinicalStore, Place, ProjectionRow
from services.document.gate import Gate
from services.document.linked import as_asked, elsewhere
from services.document.projecting import Projector
from services.document.reading.model import Message
from services.document.times import EPOCH, instant, is_valid
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.paging import PageTokens, page_scope
from services.runtime.sealing import DossierKey
from services.runtime.text import control_characters
from services.runtime.validation import validate

MOST_UNREAD: Final = 200
_MICROSECOND: Final = timedelta(microseconds=1)
_PLACE_BYTES: Final = 8 + 16 + 8


class Span(NamedTuple):
    """From `start`, included, to `end`, excluded; None for no bound."""

    start: datetime | None = None
    end: datetime | None = None


class Item(NamedTuple):
    """A projection that the caller may read, opened; `message` is None for an unread document. `reference_ids` are the
    document's."""

    source: clinical_pb2.Source
    message: Message | None
    row: ProjectionRow
    reference_ids: Sequence[coding_pb2.Identifier] = ()


class _Known(NamedTuple):
    """A document that the caller may know of, as a source, its reference ids, and its dossier's key."""

    source: clinical_pb2.Source
    reference_ids: Sequence[coding_pb2.Identifier]
    key: DossierKey


class Asked(NamedTuple):
    """A listing that consent allows: what the caller may know of, and where it goes on."""

    call: Call
    decision: consent_pb2.Decision
    view: View
    scope: bytes
    size: int
    after: bytes
    """The position in the page token; empty at the beginning."""
    dossiers: tuple[int, ...]
    """The dossier asked for, and the others of the person."""
    owners: dict[str, DocumentKey]
    """Where those of the documents shown lie that are of another dossier, by their names in the one asked for."""


class Listings:
    """What the lists of `clinical_lists` have in common."""

    def __init__(
        self,
        store: ClinicalStore,
        documents: Documents,
        projector: Projector,
        gate: Gate,
        digests: Digests,
        tokens: PageTokens,
    ) -> None:
        self.store = store
        self._digests = digests
        self._documents = documents
        self._projector = projector
        self._gate = gate
        self._tokens = tokens

    async def enter(self, call: Call) -> consent_pb2.Decision:
        """Consent's yes to reading content; those whose rights end at metadata are refused."""
        decision = await self._gate.enter(call, consent_pb2.ACTION_READ)
        if not decision.filter.content_readable:
            raise await self._gate.denied(call, decision, DmpError(reasons.ERROR_REASON_RIGHT_DENIED))
        return decision

    async def asked(self, call: Call, decision: consent_pb2.Decision, request: AnyMessage, default_size: int) -> Asked:
        """The listing that a request asks for, once all that waits in the dossier has been read."""
        validate(request)
        for path in control_characters(request):
            raise invalid(path, "no_control_characters", "control characters are not accepted")
        token: str = request.page_token  # type: ignore[attr-defined]  # every request of ClinicalService pages
        size: int = request.page_size  # type: ignore[attr-defined]
        scope = _scope(request, call)
        after = self._tokens.read(token, scope) if token else b""
        dossiers = dossiers_read(call.health_id, decision)
        for health_id in dossiers:
            await self._projector.catch_up(health_id)
        view = self._documents.view(decision, call)
        return Asked(call, decision, view, scope, size or default_size, after, dossiers, {})

    def wanted(self, asked: Asked, codes: Sequence[str]) -> list[bytes] | None:
        """The digests of codes in each of the dossiers; None for any code."""
        return [one for health_id in asked.dossiers for one in self._digests.wanted(health_id, codes)] or None

    async def items(self, asked: Asked, rows: Sequence[ProjectionRow]) -> list[Item]:
        """The rows opened, each with its source; one that has just been hidden is left out."""
        found = await self._sources(asked, {DocumentKey(row.health_id, row.document_id) for row in rows})
        return [
            Item(found[key].source, opened(found[key].key, row), row, found[key].reference_ids)
            for row in rows
            if (key := DocumentKey(row.health_id, row.document_id)) in found
        ]

    async def sources(self, asked: Asked, documents: Iterable[DocumentKey]) -> list[clinical_pb2.Source]:
        """The documents themselves, in order."""
        wanted = list(documents)
        found = await self._sources(asked, set(wanted))
        return [found[key].source for key in wanted if key in found]

    async def pending(self, asked: Asked) -> int:
        """How many documents that the caller may know of wait to be read."""
        return await self.store.pending(asked.dossiers, asked.view)

    def next_token(self, asked: Asked, position: bytes) -> str:
        """The token that continues after a position."""
        return self._tokens.issue(asked.scope, position)

    async def served(self, asked: Asked, sources: Iterable[clinical_pb2.Source], count: int) -> None:
        """Record what is about to leave: the documents that it is of."""
        names = list(dict.fromkeys(source.document for source in sources))
        lies = (asked.owners[name] for name in names if name in asked.owners)
        others = elsewhere(asked.decision, asked.call.health_id, lies)
        await self._gate.served(asked.call, asked.decision, names, count, others)

    async def rejected(self, call: Call, decision: consent_pb2.Decision, error: DmpError) -> DmpError:
        """Record that the request was wrong; gives what to raise."""
        return await self._gate.rejected(call, decision, error)

    async def _sources(self, asked: Asked, documents: set[DocumentKey]) -> dict[DocumentKey, _Known]:
        """Those of these documents that the caller may know of."""
        if not documents:
            return {}
        wanted, health_id = sorted(documents), asked.call.health_id
        found = await self._documents.stored(wanted)
        with translated():
            left_out = await self.store.left_out(asked.dossiers, [key.id for key in wanted])
        sources: dict[DocumentKey, _Known] = {}
        for stored in found:
            if self._documents.may_know(stored, asked.view):
                row = stored.row
                shown = as_asked(stored.document, row.health_id, health_id)
                if row.health_id != health_id:
                    asked.owners[shown.name] = DocumentKey(row.health_id, row.document_id)
                source = _source(shown, left_out.get(row.document_id, 0))
                key = DocumentKey(row.health_id, row.document_id)
                sources[key] = _Known(source, stored.document.reference_ids, stored.key)
        return sources


def span_of(given: document_pb2.TimeRange, field: str = "time") -> Span:
    """The bounds of a TimeRange; INVALID_FIELD for what is no time, or ends before it begins."""
    bounds: list[datetime | None] = []
    for name in ("start_time", "end_time"):
        stated = getattr(given, name)
        if not given.HasField(name):
            bounds.append(None)
        elif is_valid(stated):
            bounds.append(instant(stated))
        else:
            raise invalid(f"{field}.{name}", "timestamp", "a time between the years 1 and 9999")
    start, end = bounds
    if start is not None and end is not None and end < start:
        raise invalid(f"{field}.end_time", "order", "the end is not before the start")
    return Span(start, end)


def place_bytes(place: Place) -> bytes:
    """A place in a list as a page token holds it."""
    since = (place.occurred_at - EPOCH) // _MICROSECOND
    return b"".join(
        (since.to_bytes(8, "big", signed=True), place.document_id.bytes, place.place.to_bytes(8, "big", signed=True))
    )


def place_of(position: bytes) -> Place | None:
    """The place in a page token; None for an empty one. INVALID_PAGE_TOKEN for a position of another form."""
    if not position:
        return None
    if len(position) != _PLACE_BYTES:
        raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
    since = int.from_bytes(position[:8], "big", signed=True)
    place = int.from_bytes(position[24:], "big", signed=True)
    return Place(EPOCH + since * _MICROSECOND, uuid.UUID(bytes=position[8:24]), place)


def _scope(request: AnyMessage, call: Call) -> bytes:
    """Dossier, criteria, caller and mode: a token continues this very listing. The page size may change."""
    criteria = type(request)()
    criteria.CopyFrom(request)
    criteria.ClearField("page_token")
    criteria.ClearField("page_size")
    actor = call.actor
    caller = f"{call.client_id}|{actor.actor_kind}|{actor.subject}|{actor.structure}|{actor.access_mode}"
    return page_scope(call.method.path.encode(), criteria.SerializeToString(deterministic=True), caller.encode())


def _source(document: document_pb2.Document, left_out: int) -> clinical_pb2.Source:
    source = clinical_pb2.Source(
        document=document.name,
        logical_id=document.logical_id,
        status=document.status,
        title=document.title,
        authors=document.authors,
        left_out=left_out,
        mime_type=document.mime_type,
    )
    source.type_code.CopyFrom(document.type_code)
    source.create_time.CopyFrom(document.create_time)
    source.service_start_time.CopyFrom(document.service_start_time)
    return source
