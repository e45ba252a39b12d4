"""`$import`: dossiers of another platform, as NDJSON: begun with 202, fed file by file, told of line by line.

A file is read into the request's own budget and its lines are requests like any other: the same handlers, rights,
scopes, refusals and traces. Nothing of it is kept but how far it is and which lines were refused. A file that breaks,
or takes longer than one request may, goes on at its line when it is sent again; a line that was taken and not counted
before a crash finds its own effect by its key, and makes none twice.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1.document_pb2 import DOCUMENT_CHANGE_ARCHIVE, ChangeDocumentRequest
from gateway.external_ids import ExternalIds
from gateway.fhir import negotiation
from gateway.fhir.backend import Backend
from gateway.fhir.bodies import KnownBody
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.endpoints.taking_in import TakingIn
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.imported import INTERACTIONS, Line, read_line
from gateway.fhir.interaction import Interaction
from gateway.fhir.json_body import parse_json
from gateway.fhir.ledger import FileProgress, ImportLedger, LineRefusal
from gateway.fhir.negotiation import NDJSON
from gateway.fhir.outcome import outcome, status_of
from gateway.fhir.parameters import encode
from gateway.fhir.refusals import ProtocolRefusal, invalid
from gateway.fhir.tables import consents, documents, people
from gateway.fhir.tables.documents import CHANGE
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name

_FILE: Final = re.compile(r"[A-Za-z0-9-]{1,40}")
_SECONDS: Final = 20.0
_AT_A_TIME: Final = 20
_REFUSALS_A_PAGE: Final = 500
_JOBS: Final = uuid.UUID("5b0e4f53-9c7a-4c0e-8f5a-6d0a6a2f4c11")
_BY_NAME: Final[Mapping[str, Interaction]] = {
    each.name: each for each in (*people.TABLE, *consents.TABLE, *documents.TABLE)
}
_ALREADY: Final = frozenset({reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS})
_LATER: Final = frozenset({429, 500, 503, 504})


class Imports(Endpoints):
    """The endpoints of `$import`."""

    def __init__(
        self,
        backend: Backend,
        ids: ExternalIds,
        base_url: str,
        ledger: ImportLedger,
        handlers: Mapping[str, Handler],
    ) -> None:
        """`handlers` are those of single requests, by the name of the interaction."""
        super().__init__(backend, ids, base_url)
        self._taking_in = TakingIn(backend, ids, base_url)
        self._ledger = ledger
        self._single = handlers

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "import": self.begin,
            "import-status": self.status,
            "import-file": self.file,
            "import-errors": self.errors,
        }

    async def begin(self, exchange: Exchange) -> Response:
        """202: a job of this client. The same Idempotency-Key is the same job."""
        client_id = exchange.caller.actor.client_id
        key = negotiation.idempotency_key(exchange.request.headers)
        job = uuid.uuid5(_JOBS, f"{client_id}|{key}")
        await self._ledger.begin(job, client_id)
        location = f"{self._links.base_url}/$import-status/{job}"
        return Response(status_code=202, headers={"Content-Location": location, "Cache-Control": "no-store"})

    async def status(self, exchange: Exchange) -> Response:
        """200 when every file that has come is finished, else 202; how far each is either way."""
        job = await self._job(exchange)
        files = await self._ledger.files(job)
        done = bool(files) and all(each.finished for each in files)
        refused = sum(each.refused for each in files)
        url = f"{self._links.base_url}/$import-errors/{job}"
        manifest = {
            "input": f"{self._links.base_url}/$import-file/{job}?file=",
            "requiresAccessToken": True,
            "output": [_told(each) for each in files],
            "error": [{"type": "OperationOutcome", "url": url, "count": refused}] if refused else [],
        }
        finished = sum(each.finished for each in files)
        headers = {} if done else {"X-Progress": f"{finished} of {len(files)} files", "Retry-After": "5"}
        return _json(manifest, 200 if done else 202, headers)

    async def file(self, exchange: Exchange) -> Response:
        """Take lines of a file: 200 when it is finished, 202 when it is to be sent again and goes on."""
        parameters = await exchange.query(frozenset({"file"}))
        job, name = await self._job(exchange), parameters.single("file")
        if not _FILE.fullmatch(name):
            raise invalid("file", "pattern", "a name of 1 to 40 letters, digits and hyphens")
        negotiation.check_content_type(exchange.request.headers, NDJSON, "application/ndjson", "application/x-ndjson")
        lines = (await exchange.body.read()).rstrip().split(b"\n")
        progress = await self._ledger.progress(job, name)
        batch = replace(exchange, caller=replace(exchange.caller, lowered=True))
        deadline = time.monotonic() + _SECONDS
        while not progress.finished and time.monotonic() < deadline:
            progress = await self._some(batch, job, progress, lines)
        if progress.finished:
            return _json(_told(progress), 200, {})
        return _json(_told(progress), 202, {"Retry-After": "1"})

    async def errors(self, exchange: Exchange) -> Response:
        """The refused lines, one OperationOutcome each, its id the file and the line; further pages by `Link`."""
        parameters = await exchange.query(frozenset({"_page"}))
        job = await self._job(exchange)
        file, _, line = parameters.single("_page").rpartition(".")
        if line and not (line.isascii() and line.isdigit() and len(line) < 19 and _FILE.fullmatch(file)):
            raise invalid("_page", "pattern", "a page as the Link header says")
        found = await self._ledger.refusals(job, (file, int(line or 0)), _REFUSALS_A_PAGE)
        body = b"".join(orjson.dumps({**each.outcome, "id": f"{each.file}.{each.line}"}) + b"\n" for each in found)
        headers = {"Cache-Control": "no-store"}
        if len(found) == _REFUSALS_A_PAGE:
            query = encode([("_page", f"{found[-1].file}.{found[-1].line}")])
            headers["Link"] = f'<{self._links.base_url}/$import-errors/{job}?{query}>; rel="next"'
        return Response(body, media_type=NDJSON, headers=headers)

    async def _job(self, exchange: Exchange) -> uuid.UUID:
        try:
            job = uuid.UUID(exchange.request.path_params["id"])
        except ValueError:
            job = uuid.UUID(int=0)
        if not await self._ledger.belongs(job, exchange.caller.actor.client_id):
            unknown = ProtocolRefusal(404, "id", "no such import", reason=reasons.ERROR_REASON_METHOD_NOT_FOUND)
            await self._refuse(exchange, unknown)
        return job

    async def _some(self, exchange: Exchange, job: uuid.UUID, before: FileProgress, lines: list[bytes]) -> FileProgress:
        """Take the next lines and note what became of them; those before a failure of the platform are noted too."""
        after, refusals, failure = before, list[LineRefusal](), None
        for number in range(before.lines, min(before.lines + _AT_A_TIME, len(lines))):
            try:
                created = await self._line(exchange, job, before.file, number, lines[number])
                after = replace(
                    after,
                    lines=number + 1,
                    created=after.created + (1 if created else 0),
                    existed=after.existed + (0 if created else 1),
                )
            except DmpError as error:
                if status_of(error) in _LATER:
                    failure = error
                    break
                refusals.append(LineRefusal(before.file, number + 1, outcome(error)))
                after = replace(after, refused=after.refused + 1, lines=number + 1)
        after = replace(after, finished=failure is None and after.lines >= len(lines))
        if not await self._ledger.advance(job, before, after, refusals):
            raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
        if failure is not None:
            raise failure
        return after

    async def _line(self, exchange: Exchange, job: uuid.UUID, file: str, number: int, text: bytes) -> bool:
        """Whether the line made something; False if it was there already. Raises its refusal."""
        whole_host = bool(exchange.caller.actor.takes_over_host)
        line = read_line(parse_json(text), whole_sets=whole_host)
        key = f"import-{uuid.uuid5(job, f'{file}|{number}')}"
        if whole_host and line.kind != "DocumentReference":
            return await self._taking_in.line(exchange, line, key)
        interaction = _BY_NAME[INTERACTIONS[line.kind]]
        access = interaction.access
        await self._backend.require_scope(exchange.caller, interaction.scopes, access.audit_action, access.transaction)
        single = _request(exchange, interaction, line, key)
        if line.kind == "Patient" and await self._is_known(exchange, line):
            return False
        try:
            answer = await self._single[interaction.name](single)
        except DmpError as error:
            if error.reason in _ALREADY:
                return False
            raise
        if line.archived:
            await self._archive(exchange, answer, key)
        status = answer.status if isinstance(answer, Answer) else answer.status_code
        return status == 201 or line.kind == "Parameters"

    async def _is_known(self, exchange: Exchange, line: Line) -> bool:
        """Whether somebody has the identifier. Who a known person is does not change by an import."""
        for _, criterion in line.query:
            system, _, value = criterion.partition("|")
            if await self._backend.resolve(exchange.caller, (system.removeprefix("urn:oid:"), value)) is not None:
                return True
        return False

    async def _archive(self, exchange: Exchange, answer: Answer | Response, key: str) -> None:
        id_ = answer.headers["Location"].rpartition("/")[2]
        name = document_name(*self._ids.read("DocumentReference", id_))
        request = ChangeDocumentRequest(name=name, change=DOCUMENT_CHANGE_ARCHIVE, request_id=f"{key}-archive")
        try:
            await self._backend.call(exchange.caller, CHANGE, request)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE:
                raise


def _request(exchange: Exchange, interaction: Interaction, line: Line, key: str) -> Exchange:
    """The exchange of one line: a request of its own, of the same caller."""
    headers = [(b"content-type", b"application/fhir+json"), (b"idempotency-key", key.encode()), *line.headers]
    scope: dict[str, Any] = {
        **exchange.request.scope,
        "method": interaction.method,
        "headers": headers,
        "query_string": encode(list(line.query)).encode(),
        "path_params": {},
    }
    request = Request(scope)
    return Exchange(request, exchange.caller, KnownBody(request, line.body), interaction)


def _told(progress: FileProgress) -> dict[str, Any]:
    return {
        "file": progress.file,
        "lines": progress.lines,
        "created": progress.created,
        "existed": progress.existed,
        "refused": progress.refused,
        "finished": progress.finished,
    }


def _json(content: dict[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    return Response(
        orjson.dumps(content), status, media_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )
