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
from dmp.document.v1.document_pb2 import Document, ReadDocumentRequest, SearchDocumentsRequest, SearchDocumentsResponse
from gateway.fhir.document_out import write_document
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Exchange, Handler
from gateway.fhir.negotiation import NDJSON
from gateway.fhir.outcome import outcome
from gateway.fhir.parameters import encode
from gateway.fhir.refusals import invalid
from gateway.fhir.tables.bulk import TYPES
from gateway.fhir.tables.documents import READ, SEARCH
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name

_KIND: Final = "Export"
_WHOLE: Final = uuid.UUID(int=0)
_DOCUMENTS_A_FILE: Final = 50
_MOST_FILES: Final = 400
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
        wanted = await _types(exchange)
        health_id = await self._read_patient_id(exchange, exchange.request.path_params["id"], "id")
        await self._or_nobody(self._page(exchange, health_id, "", 1), "id")
        job = self._ids.write(_KIND, health_id, _WHOLE)
        query = encode([("_type", ",".join(wanted))])
        location = f"{self._links.base_url}/$export-status/{job}?{query}"
        return Response(status_code=202, headers={"Content-Location": location, "Cache-Control": "no-store"})

    async def status(self, exchange: Exchange) -> Response:
        """The files: found by going through the pages once."""
        wanted = await _types(exchange)
        health_id, _ = await self._read_id(exchange, _KIND)
        job, output, token = exchange.request.path_params["id"], [], ""
        for _ in range(_MOST_FILES):
            page = await self._or_nobody(self._page(exchange, health_id, token, _DOCUMENTS_A_FILE), "id")
            for kind in wanted if page.documents else ():
                query = f"?{encode([('_page', token)])}" if token else ""
                url = f"{self._links.base_url}/$export-file/{kind}/{job}{query}"
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
        """A file of DocumentReferences."""
        documents = await self._documents(exchange)
        lines = [orjson.dumps(write_document(each, self._links)) + b"\n" for each in documents]
        return Response(b"".join(lines), media_type=NDJSON, headers={"Cache-Control": "no-store"})

    async def contents(self, exchange: Exchange) -> Response:
        """A file of Binaries, one content in memory at a time."""
        documents = await self._documents(exchange)
        lines = self._binaries(exchange, documents)
        return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-store"})

    async def _binaries(self, exchange: Exchange, documents: list[Document]) -> AsyncIterator[bytes]:
        for document in documents:
            yield orjson.dumps(await self._binary(exchange, document)) + b"\n"

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

    async def _documents(self, exchange: Exchange) -> list[Document]:
        parameters = await exchange.query(frozenset({"_page"}))
        health_id, _ = await self._read_id(exchange, _KIND)
        token = parameters.single("_page")
        if len(token) > 512:
            raise invalid("_page", "max_length", "a page token that this platform made")
        page = await self._or_nobody(self._page(exchange, health_id, token, _DOCUMENTS_A_FILE), "id")
        return list(page.documents)

    async def _page(self, exchange: Exchange, health_id: int, token: str, size: int) -> SearchDocumentsResponse:
        request = SearchDocumentsRequest(
            parent=dossier_name(health_id),
            statuses=_STATUSES,
            order=document_pb2.DOCUMENT_ORDER_SUBMIT_TIME,
            page_size=size,
            page_token=token,
        )
        return await self._backend.call(exchange.caller, SEARCH, request)


async def _types(exchange: Exchange) -> list[str]:
    parameters = await exchange.query(frozenset({"_type"}))
    wanted = parameters.alternatives("_type") or list(TYPES)
    if set(wanted) - set(TYPES):
        raise invalid("_type", "code", f"some of {', '.join(TYPES)}")
    return wanted
