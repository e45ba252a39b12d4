"""`$export` of one dossier: 202, a status that lists the files, and the files, each a page of the dossier as NDJSON.

Nothing is prepared and nothing kept: a file is made while it is fetched, with the rights that its caller has then, and
every search and reading in it is in the trail. So an export can be resumed at any file, at any gateway, for as long as
the page tokens live, and a revocation ends it at the next file.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.responses import Response, StreamingResponse

from dmp.document.v1 import document_pb2
from dmp.document.v1.document_pb2 import (
    Document,
    GetDocumentRequest,
    ReadDocumentRequest,
    SearchDocumentsRequest,
    SearchDocumentsResponse,
)
from gateway.fhir.document_out import write_document
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Exchange, Handler
from gateway.fhir.negotiation import NDJSON
from gateway.fhir.outcome import outcome
from gateway.fhir.parameters import Parameters, encode
from gateway.fhir.refusals import invalid
from gateway.fhir.tables.bulk import TYPES
from gateway.fhir.tables.documents import GET, READ, SEARCH
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name

_KIND: Final = "Export"
_WHOLE: Final = uuid.UUID(int=0)
_DOCUMENTS_A_FILE: Final = 50
_INLINE: Final[Mapping[bool, list[tuple[str, str]]]] = {True: [("_contents", "inline")], False: []}
_STATUSES: Final = (
    document_pb2.DOCUMENT_STATUS_APPROVED,
    document_pb2.DOCUMENT_STATUS_DEPRECATED,
    document_pb2.DOCUMENT_STATUS_ARCHIVED,
)


class Bulk(Endpoints):
    """The endpoints of `$export`."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "export": self.begin,
            "export-status": self.status,
            "export-references": self.references,
            "export-contents": self.contents,
        }

    async def begin(self, exchange: Exchange) -> Response:
        """202: the dossier is there and may be searched by this caller."""
        wanted, inline = await _wanted(exchange)
        health_id = await self._read_patient_id(exchange, exchange.request.path_params["id"], "id")
        await self._or_nobody(self._page(exchange, health_id, "", 1), "id")
        job = self._ids.write(_KIND, health_id, _WHOLE)
        query = encode([("_type", ",".join(wanted)), *_INLINE[inline]])
        location = f"{self._links.base_url}/$export-status/{job}?{query}"
        return Response(status_code=202, headers={"Content-Location": location, "Cache-Control": "no-store"})

    async def status(self, exchange: Exchange) -> Response:
        """The files: found by going through the pages once. All of them, or the refusal that came in between."""
        wanted, inline = await _wanted(exchange)
        health_id, _ = await self._read_id(exchange, _KIND)
        job, output, token = exchange.request.path_params["id"], [], ""
        while True:
            page = await self._or_nobody(self._page(exchange, health_id, token, _DOCUMENTS_A_FILE), "id")
            for kind in wanted if page.documents else ():
                pairs = [*([("_page", token)] if token else []), *_INLINE[inline]]
                url = f"{self._links.base_url}/$export-file/{kind}/{job}{f'?{encode(pairs)}' if pairs else ''}"
                output.append({"type": kind, "url": url, "count": len(page.documents)})
            token = page.next_page_token
            if not token:
                break
        manifest = {
            "transactionTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": f"{self._links.base_url}/Patient/{self._links.patient_id(health_id)}/$export",
            "requiresAccessToken": True,
            "output": output,
            "error": [],
        }
        return Response(orjson.dumps(manifest), media_type="application/json", headers={"Cache-Control": "no-store"})

    async def references(self, exchange: Exchange) -> Response:
        """A file of DocumentReferences; with `_contents=inline` one content in memory at a time."""
        documents, inline = await self._documents(exchange)
        if inline:
            whole = self._inline(exchange, documents)
            return StreamingResponse(whole, media_type=NDJSON, headers={"Cache-Control": "no-store"})
        lines = [orjson.dumps(write_document(each, self._links)) + b"\n" for each in documents]
        return Response(b"".join(lines), media_type=NDJSON, headers={"Cache-Control": "no-store"})

    async def contents(self, exchange: Exchange) -> Response:
        """A file of Binaries, one content in memory at a time."""
        documents, _ = await self._documents(exchange)
        lines = self._binaries(exchange, documents)
        return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-store"})

    async def _binaries(self, exchange: Exchange, documents: list[Document]) -> AsyncIterator[bytes]:
        for document in documents:
            yield orjson.dumps(await self._binary(exchange, document)) + b"\n"

    async def _inline(self, exchange: Exchange, documents: list[Document]) -> AsyncIterator[bytes]:
        """Each as `$import` takes it: whole, and telling by uniqueId what it replaces."""
        for document in documents:
            binary = await self._binary(exchange, document)
            if binary["resourceType"] == "Binary":
                for relation in document.relationships:
                    relation.target_unique_id = await self._unique_id(exchange, relation.target)
                reference = write_document(document, self._links)
                reference["content"][0]["attachment"]["data"] = binary["data"]
                binary = reference
            yield orjson.dumps(binary) + b"\n"

    async def _unique_id(self, exchange: Exchange, name: str) -> str:
        """The uniqueId of a document; '' of one that the caller may not know of."""
        try:
            found = await self._backend.call(exchange.caller, GET, GetDocumentRequest(name=name))
        except DmpError as error:
            if error.spec.http >= 500:
                raise
            return ""
        return found.document.unique_id

    async def _binary(self, exchange: Exchange, document: Document) -> dict[str, Any]:
        content = bytearray()
        try:
            parts = self._backend.stream(exchange.caller, READ, ReadDocumentRequest(name=document.name))
            async for part in parts:
                content += part.chunk
        except DmpError as error:
            if error.spec.http >= 500:
                raise  # the file breaks off and is fetched again
            return outcome(error)
        return {
            "resourceType": "Binary",
            "id": self._links.binary_id(document.name),
            "contentType": document.mime_type,
            "data": base64.b64encode(content).decode(),
        }

    async def _documents(self, exchange: Exchange) -> tuple[list[Document], bool]:
        """The documents of a file, and whether their contents go with them."""
        parameters = await exchange.query(frozenset({"_page", "_contents"}))
        health_id, _ = await self._read_id(exchange, _KIND)
        token = parameters.single("_page")
        if len(token) > 512:
            raise invalid("_page", "max_length", "a page token that this platform made")
        page = await self._or_nobody(self._page(exchange, health_id, token, _DOCUMENTS_A_FILE), "id")
        return list(page.documents), _is_inline(parameters)

    async def _page(self, exchange: Exchange, health_id: int, token: str, size: int) -> SearchDocumentsResponse:
        request = SearchDocumentsRequest(
            parent=dossier_name(health_id),
            statuses=_STATUSES,
            order=document_pb2.DOCUMENT_ORDER_SUBMIT_TIME,
            page_size=size,
            page_token=token,
        )
        return await self._backend.call(exchange.caller, SEARCH, request)


async def _wanted(exchange: Exchange) -> tuple[list[str], bool]:
    """The types of files, and whether contents are inline: then there are no files of Binaries."""
    parameters = await exchange.query(frozenset({"_type", "_contents"}))
    inline = _is_inline(parameters)
    wanted = parameters.alternatives("_type") or list(TYPES)
    if set(wanted) - set(TYPES):
        raise invalid("_type", "code", f"some of {', '.join(TYPES)}")
    return ["DocumentReference"] if inline else wanted, inline


def _is_inline(parameters: Parameters) -> bool:
    said = parameters.single("_contents")
    if said not in ("", "inline"):
        raise invalid("_contents", "code", "inline, or left out")
    return bool(said)
