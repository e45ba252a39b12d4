"""`$export` of a home host: its dossiers one after another, whole, for who takes them over (domain §6).

The manifest is read page by page, each with the files of some of the dossiers, as consent lists them at that moment. As
with a single dossier nothing is prepared: a file is made while it is fetched, with the rights that its caller has then,
everything in it recorded in the trail of its dossier. So any file can be fetched again, at any gateway, and one who may
no longer take over the host gets nothing from the next file on. All that is kept is the job: whose it is, until when.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import orjson
from starlette.responses import Response, StreamingResponse

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.consent.v1.consent_pb2 import HostDossier, ListHostDossiersRequest, ListHostDossiersResponse
from dmp.document.v1.document_pb2 import (
    Document,
    ListFoldersRequest,
    ListSubmissionSetsRequest,
)
from dmp.identity.v1.identity_pb2 import GetPersonRequest, Person
from gateway.external_ids import ExternalIds
from gateway.fhir import handed_over, lists
from gateway.fhir.backend import Backend, Caller
from gateway.fhir.endpoints.bulk import INLINE, is_inline, page_of, types_of
from gateway.fhir.endpoints.common import NOBODY, Endpoints
from gateway.fhir.endpoints.export_files import DOCUMENTS_A_FILE, DocumentFiles, ndjson
from gateway.fhir.endpoints.export_sets import SetFiles
from gateway.fhir.exchange import Exchange, Handler
from gateway.fhir.ledger import ExportJob, ExportJobs
from gateway.fhir.negotiation import NDJSON
from gateway.fhir.node import JsonObject
from gateway.fhir.outcome import outcome
from gateway.fhir.parameters import Parameters, encode
from gateway.fhir.person_out import write_person
from gateway.fhir.refusals import ProtocolRefusal, invalid
from gateway.fhir.tables.documents import LIST_FOLDERS, LIST_SETS
from gateway.fhir.tables.hosts import KNOWN, LIST_HOST, TYPES, WHOLE_SETS
from gateway.fhir.tables.people import GET
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, dossier_of, person_name

KEPT_FOR: Final = timedelta(days=7)
_DOSSIERS_A_PAGE: Final = 50
_AT_ONCE: Final = 8
_KIND: Final = "Export"
_WHOLE: Final = uuid.UUID(int=0)
_GONE: Final = NOBODY | {reasons.ERROR_REASON_DOSSIER_DESTROYED}
"""A dossier that was moved or destroyed since it was listed: it has no files."""
_OF_DOSSIERS: Final = ("Patient", "Parameters", "Consent")
_HEADERS: Final = {"Cache-Control": "no-store"}


class HostExports(Endpoints):
    """The endpoints of `$export` of a home host."""

    def __init__(self, backend: Backend, ids: ExternalIds, base_url: str, jobs: ExportJobs) -> None:
        super().__init__(backend, ids, base_url)
        self._jobs = jobs
        self._files = DocumentFiles(backend, self._links)
        self._sets = SetFiles(backend, self._links, self._files)

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "host-export": self.begin,
            "host-export-manifest": self.manifest,
            "host-export-cancel": self.cancel,
            "host-export-people": self.people,
            "host-export-openings": self.openings,
            "host-export-consents": self.consents,
            "host-export-lists": self.lists,
            "host-export-references": self.references,
            "host-export-contents": self.contents,
            "host-export-sets": self.sets,
        }

    async def begin(self, exchange: Exchange) -> Response:
        """202: the token takes over a host, and the rights of now allow it."""
        parameters = await exchange.query(frozenset({"_type", "_contents"}))
        wanted = types_of(parameters, KNOWN, TYPES)
        await self._page(exchange, "", 1)
        actor, now = exchange.caller.actor, datetime.now(UTC)
        made = ExportJob(uuid.uuid4(), actor.client_id, actor.takes_over_host, now, now + KEPT_FOR)
        await self._jobs.begin(made)
        query = encode([("_type", ",".join(wanted)), *INLINE[is_inline(parameters)]])
        headers = {"Content-Location": f"{self._url(made)}?{query}", **_until(made)}
        return Response(status_code=202, headers=headers)

    async def cancel(self, exchange: Exchange) -> Response:
        """202: from now on it is not there."""
        job = await self._job(exchange)
        await self._jobs.end(job.job)
        return Response(status_code=202, headers=_HEADERS)

    async def manifest(self, exchange: Exchange) -> Response:
        """The files of a page of dossiers, and where the next page is."""
        job = await self._job(exchange)
        parameters = await exchange.query(frozenset({"_type", "_contents", "_page"}))
        wanted, token = types_of(parameters, KNOWN, TYPES), page_of(parameters)
        page = await self._page(exchange, token)
        output: list[JsonObject] = [
            {"type": kind, "url": self._url(job, kind, [("_page", token)] if token else [])}
            for kind in _OF_DOSSIERS
            if kind in wanted and page.dossiers
        ]
        at_once = asyncio.Semaphore(_AT_ONCE)
        of_documents = [kind for kind in wanted if kind not in _OF_DOSSIERS]
        inline = is_inline(parameters)
        listed = await asyncio.gather(
            *(self._of_dossier(exchange, job, each, of_documents, inline, at_once) for each in page.dossiers)
        )
        output += [file for files in listed for file in files]
        manifest: JsonObject = {
            "transactionTime": job.began_at.isoformat(timespec="milliseconds"),
            "request": f"{self._links.base_url}/$export",
            "requiresAccessToken": True,
            "output": output,
            "error": [],
        }
        if page.next_page_token:
            pairs = [("_type", ",".join(wanted)), *INLINE[inline], ("_page", page.next_page_token)]
            manifest["link"] = [{"relation": "next", "url": f"{self._url(job)}?{encode(pairs)}"}]
        return Response(orjson.dumps(manifest), media_type="application/json", headers=_until(job))

    async def people(self, exchange: Exchange) -> Response:
        """The Patients of a page of dossiers."""
        _, people = await self._with_people(exchange)
        written = [
            write_person(each, self._links) if isinstance(each, Person) else outcome(each) for each in people.values()
        ]
        return ndjson(written)

    async def openings(self, exchange: Exchange) -> Response:
        """Their openings and what became of them."""
        dossiers, people = await self._with_people(exchange)
        named = {
            dossier_of(name, "person")
            for each in dossiers
            for name in (*(one.person for one in each.representatives), each.consent.representative)
            if name
        }
        asked = await self._people(exchange, [dossier_name(each) for each in sorted(named)])
        others: dict[int, Person] = {
            dossier_of(name, "name"): found for name, found in asked.items() if isinstance(found, Person)
        }
        written = [handed_over.write_opening(each, _known(people, each), self._links, others) for each in dossiers]
        return ndjson(written)

    async def consents(self, exchange: Exchange) -> Response:
        """Who may enter them, and who may not."""
        dossiers, people = await self._with_people(exchange)
        written = [handed_over.write_consents(each, _known(people, each), self._links) for each in dossiers]
        return ndjson([consent for consents in written for consent in consents])

    async def lists(self, exchange: Exchange) -> Response:
        """The submission sets of a dossier, then its folders."""
        _, health_id = await self._dossier(exchange, await exchange.query(frozenset({"_dossier"})))
        caller = _in_batch(exchange)
        parent = dossier_name(health_id)
        first = await self._backend.call(
            caller, LIST_SETS, ListSubmissionSetsRequest(parent=parent, page_size=lists.LARGEST_PAGE)
        )

        async def lines() -> AsyncIterator[bytes]:
            sets = first
            while True:
                for each in sets.submission_sets:
                    inside = await self._sets.members(caller, each.name, "submissionset", parent)
                    yield _line(lists.write_submission_set(each, inside, self._links))
                if not sets.next_page_token:
                    break
                further = ListSubmissionSetsRequest(
                    parent=parent, page_size=lists.LARGEST_PAGE, page_token=sets.next_page_token
                )
                sets = await self._backend.call(caller, LIST_SETS, further)
            token = ""
            while True:
                asked = ListFoldersRequest(parent=parent, page_size=lists.LARGEST_PAGE, page_token=token)
                folders = await self._backend.call(caller, LIST_FOLDERS, asked)
                for folder in folders.folders:
                    inside = await self._sets.members(caller, folder.name, "folder", parent)
                    yield _line(lists.write_folder(folder, inside, self._links))
                token = folders.next_page_token
                if not token:
                    break

        return StreamingResponse(lines(), media_type=NDJSON, headers=_HEADERS)

    async def references(self, exchange: Exchange) -> Response:
        """A page of the DocumentReferences of a dossier."""
        parameters = await exchange.query(frozenset({"_dossier", "_page", "_contents"}))
        documents = await self._documents(exchange, parameters)
        return self._files.references(_in_batch(exchange), documents, inline=is_inline(parameters))

    async def contents(self, exchange: Exchange) -> Response:
        """A page of its contents."""
        documents = await self._documents(exchange, await exchange.query(frozenset({"_dossier", "_page"})))
        return self._files.contents(_in_batch(exchange), documents)

    async def sets(self, exchange: Exchange) -> Response:
        """The submission sets whose first document is on a page of the DocumentReferences, each whole."""
        parameters = await exchange.query(frozenset({"_dossier", "_page"}))
        _, health_id = await self._dossier(exchange, parameters)
        documents = await self._documents(exchange, parameters)
        (person,) = (await self._people(exchange, [dossier_name(health_id)])).values()
        if isinstance(person, DmpError):
            raise person
        lines = self._sets.lines(_in_batch(exchange), health_id, documents, person)
        return StreamingResponse(lines, media_type=NDJSON, headers=_HEADERS)

    async def _documents(self, exchange: Exchange, parameters: Parameters) -> list[Document]:
        _, health_id = await self._dossier(exchange, parameters)
        found = self._files.page(_in_batch(exchange), health_id, page_of(parameters), DOCUMENTS_A_FILE)
        return list((await self._or_nobody(found, "_dossier")).documents)

    async def _of_dossier(
        self,
        exchange: Exchange,
        job: ExportJob,
        listed: HostDossier,
        wanted: list[str],
        inline: bool,
        at_once: asyncio.Semaphore,
    ) -> list[JsonObject]:
        """The files of what a dossier holds."""
        if not wanted or listed.dossier.state == consent_pb2.DOSSIER_STATE_OPPOSED:
            return []
        health_id = dossier_of(listed.dossier.name, "name")
        which = [("_dossier", self._ids.write(_KIND, health_id, _WHOLE))]
        try:
            async with at_once:
                pages = await self._files.pages(_in_batch(exchange), health_id)
        except DmpError as error:
            if error.reason not in _GONE:
                raise
            return []
        files: list[JsonObject] = []
        if "List" in wanted:
            files.append({"type": "List", "url": self._url(job, "List", which)})
        for token, count in pages:
            for kind in wanted:
                if kind != "List":
                    more = [*which, *([("_page", token)] if token else [])]
                    told = {} if kind == WHOLE_SETS else {"count": count}
                    more += [] if kind == WHOLE_SETS else INLINE[inline]
                    files.append({"type": kind, "url": self._url(job, kind, more), **told})
        return files

    async def _with_people(self, exchange: Exchange) -> tuple[list[HostDossier], dict[str, Person | DmpError]]:
        """The dossiers of a page, and whose they are, by the dossier's name."""
        await self._job(exchange)
        page = await self._page(exchange, page_of(await exchange.query(frozenset({"_page"}))))
        return list(page.dossiers), await self._people(exchange, [each.dossier.name for each in page.dossiers])

    async def _people(self, exchange: Exchange, names: Sequence[str]) -> dict[str, Person | DmpError]:
        """Who these dossiers are of, by the dossier's name."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def whose(name: str) -> Person | DmpError:
            request = GetPersonRequest(name=person_name(dossier_of(name, "name")))
            try:
                async with at_once:
                    return (await self._backend.call(_in_batch(exchange), GET, request)).person
            except DmpError as error:
                if error.reason not in _GONE:
                    raise
                return error

        people = await asyncio.gather(*(whose(each) for each in names))
        return dict(zip(names, people, strict=True))

    async def _page(self, exchange: Exchange, token: str, size: int = _DOSSIERS_A_PAGE) -> ListHostDossiersResponse:
        request = ListHostDossiersRequest(page_size=size, page_token=token)
        return await self._backend.call(_in_batch(exchange), LIST_HOST, request)

    async def _job(self, exchange: Exchange) -> ExportJob:
        """The job in the path, if it is this client's, of the host that its token takes over, and not over."""
        actor = exchange.caller.actor
        try:
            found = await self._jobs.find(uuid.UUID(exchange.request.path_params["id"]))
        except ValueError:
            found = None
        whose = (actor.client_id, actor.takes_over_host)
        if found is None or (found.client_id, found.host) != whose or found.expires_at <= datetime.now(UTC):
            unknown = ProtocolRefusal(404, "id", "no such export", reason=reasons.ERROR_REASON_METHOD_NOT_FOUND)
            await self._refuse(exchange, unknown)
        return found

    async def _dossier(self, exchange: Exchange, parameters: Parameters) -> tuple[ExportJob, int]:
        """The job, and which of the dossiers a file is of. Whether it is of the host is for consent to say."""
        job = await self._job(exchange)
        text = parameters.single("_dossier")
        if not text:
            raise invalid("_dossier", "required", "which dossier, as the manifest says")
        health_id, _ = await self._read_id(exchange, _KIND, text)
        return job, health_id

    def _url(self, job: ExportJob, kind: str = "", pairs: list[tuple[str, str]] | None = None) -> str:
        path = f"{self._links.base_url}/$export-job/{job.job}{f'/{kind}' if kind else ''}"
        return f"{path}?{encode(pairs)}" if pairs else path


def _known(people: Mapping[str, Person | DmpError], found: HostDossier) -> Person | None:
    person = people[found.dossier.name]
    return person if isinstance(person, Person) else None


def _in_batch(exchange: Exchange) -> Caller:
    """The caller, whose work makes way for that of care."""
    return replace(exchange.caller, lowered=True)


def _until(job: ExportJob) -> dict[str, str]:
    return {**_HEADERS, "Expires": format_datetime(job.expires_at.replace(microsecond=0), usegmt=True)}


def _line(resource: JsonObject) -> bytes:
    return orjson.dumps(resource) + b"\n"
