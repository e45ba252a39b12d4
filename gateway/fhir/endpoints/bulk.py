"""`$export` of one dossier: 202, a status that lists the files, and the files, each a page of the dossier as NDJSON.

Nothing is prepared and nothing kept: a file is made while it is fetched, with the rights that its caller has then, and
every search and reading in it is in the trail. So an export can be resumed at any file, at any gateway, for as long as
the page tokens live, and a revocation ends it at the next file.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import orjson
from starlette.responses import Response

from dmp.document.v1.document_pb2 import Document
from gateway.external_ids import ExternalIds
from gateway.fhir.backend import Backend
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.endpoints.export_files import DOCUMENTS_A_FILE, DocumentFiles
from gateway.fhir.exchange import Exchange, Handler
from gateway.fhir.parameters import Parameters, encode
from gateway.fhir.refusals import invalid
from gateway.fhir.tables.bulk import TYPES

_KIND: Final = "Export"
_WHOLE: Final = uuid.UUID(int=0)
INLINE: Final[Mapping[bool, list[tuple[str, str]]]] = {True: [("_contents", "inline")], False: []}
"""How a URL says that contents go with their DocumentReferences."""


class Bulk(Endpoints):
    """The endpoints of `$export` of a dossier."""

    def __init__(self, backend: Backend, ids: ExternalIds, base_url: str) -> None:
        super().__init__(backend, ids, base_url)
        self._files = DocumentFiles(backend, self._links)

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
        await self._or_nobody(self._files.page(exchange.caller, health_id, "", 1), "id")
        job = self._ids.write(_KIND, health_id, _WHOLE)
        query = encode([("_type", ",".join(wanted)), *INLINE[inline]])
        location = f"{self._links.base_url}/$export-status/{job}?{query}"
        return Response(status_code=202, headers={"Content-Location": location, "Cache-Control": "no-store"})

    async def status(self, exchange: Exchange) -> Response:
        """The files: found by going through the pages once. All of them, or the refusal that came in between."""
        wanted, inline = await _wanted(exchange)
        health_id, _ = await self._read_id(exchange, _KIND)
        job, output = exchange.request.path_params["id"], []
        for token, count in await self._or_nobody(self._files.pages(exchange.caller, health_id), "id"):
            for kind in wanted:
                pairs = [*([("_page", token)] if token else []), *INLINE[inline]]
                url = f"{self._links.base_url}/$export-file/{kind}/{job}{f'?{encode(pairs)}' if pairs else ''}"
                output.append({"type": kind, "url": url, "count": count})
        manifest = {
            "transactionTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": f"{self._links.base_url}/Patient/{self._links.patient_id(health_id)}/$export",
            "requiresAccessToken": True,
            "output": output,
            "error": [],
        }
        return Response(orjson.dumps(manifest), media_type="application/json", headers={"Cache-Control": "no-store"})

    async def references(self, exchange: Exchange) -> Response:
        """A file of DocumentReferences; with `_contents=inline` their contents go with them."""
        documents, inline = await self._documents(exchange)
        return self._files.references(exchange.caller, documents, inline=inline)

    async def contents(self, exchange: Exchange) -> Response:
        """A file of Binaries."""
        documents, _ = await self._documents(exchange)
        return self._files.contents(exchange.caller, documents)

    async def _documents(self, exchange: Exchange) -> tuple[list[Document], bool]:
        """The documents of a file, and whether their contents go with them."""
        parameters = await exchange.query(frozenset({"_page", "_contents"}))
        health_id, _ = await self._read_id(exchange, _KIND)
        token = page_of(parameters)
        page = await self._or_nobody(self._files.page(exchange.caller, health_id, token, DOCUMENTS_A_FILE), "id")
        return list(page.documents), is_inline(parameters)


async def _wanted(exchange: Exchange) -> tuple[list[str], bool]:
    """The types of files, and whether contents are inline."""
    parameters = await exchange.query(frozenset({"_type", "_contents"}))
    return types_of(parameters, TYPES), is_inline(parameters)


def types_of(parameters: Parameters, known: tuple[str, ...], usual: tuple[str, ...] = ()) -> list[str]:
    """The types of files that are wanted, in the order of `known`; `usual` ones (else all) when none is named.

    Contents that are inline have no files of Binaries, and are nowhere without their references.
    """
    wanted = parameters.alternatives("_type") or list(usual or known)
    if set(wanted) - set(known):
        raise invalid("_type", "code", f"some of {', '.join(known)}")
    if is_inline(parameters):
        wanted = ["DocumentReference" if each == "Binary" else each for each in wanted]
    return [each for each in known if each in wanted]


def page_of(parameters: Parameters) -> str:
    """The page token of a file, '' for the first."""
    token = parameters.single("_page")
    if len(token) > 512:
        raise invalid("_page", "max_length", "a page token that this platform made")
    return token


def is_inline(parameters: Parameters) -> bool:
    """Whether contents go with their DocumentReferences."""
    said = parameters.single("_contents")
    if said not in ("", "inline"):
        raise invalid("_contents", "code", "inline, or left out")
    return bool(said)
