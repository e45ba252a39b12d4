"""The port where a client authenticates by its certificate (RFC 8705): the OAuth forms over HTTP/1.1 and mutual TLS.

It is separate because the HTTPS port must not ask every partner for a certificate, and because the server of that port
does not tell an application whose certificate it saw. h11 reads the protocol; one request a connection. What is served
are `OAuthForms`, with the URI names of a certificate that the platform's CA has signed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import h11
import structlog
from starlette.responses import JSONResponse, Response

from gateway.oauth.errors import OAuthError
from gateway.oauth.routes import LARGEST_FORM, Form, parse_form, refusal
from services.runtime.settings import SettingsError
from services.runtime.tls import Certificates, TlsFiles

_REQUEST_SECONDS: Final = 10.0
_MOST_CONNECTIONS: Final = 256
_CHUNK: Final = 64 << 10

_log = structlog.get_logger("mutual-tls")


@asynccontextmanager
async def mutual_tls_port(address: str | None, files: TlsFiles, forms: Mapping[str, Form]) -> AsyncIterator[None]:
    """Serve `forms` at `address` (host:port) during the body; without an address, do nothing. SettingsError."""
    if address is None:
        yield
        return
    serving = _Port(files, forms)
    host, _, port = address.rpartition(":")
    try:
        server = await asyncio.start_server(
            serving.connected,
            host.strip("[]"),
            int(port),
            ssl=serving.context,
            ssl_handshake_timeout=5,
            ssl_shutdown_timeout=1,
            limit=_CHUNK,
        )
    except OSError as error:
        raise SettingsError([f"DMP_MUTUAL_TLS_LISTEN: cannot listen on {address}"]) from error
    try:
        yield
    finally:
        server.close()
        await serving.drained()


class _Port:
    """The connections of the port."""

    def __init__(self, files: TlsFiles, forms: Mapping[str, Form]) -> None:
        self._files = files
        self._certificates = Certificates(files)
        self._material = self._certificates.material()
        self._forms = forms
        self._open: set[asyncio.Task[None]] = set()
        self.context: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(files.cert, files.key)
        self.context.load_verify_locations(files.ca)
        self.context.set_alpn_protocols(["http/1.1"])

    def _renew(self) -> None:
        """The connections after this one see a certificate that has changed."""
        material = self._certificates.material()
        if material is not self._material:
            self.context.load_cert_chain(self._files.cert, self._files.key)
            self._material = material

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served in a task")
        if len(self._open) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(task)
        self._renew()
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                await self._serve(reader, writer)
        except (TimeoutError, OSError, ssl.SSLError, h11.RemoteProtocolError):
            writer.transport.abort()
        finally:
            self._open.discard(task)
            writer.close()
            with suppress(Exception):  # whatever the other side did while it closed
                await writer.wait_closed()

    async def drained(self) -> None:
        """Return when no connection is served any more."""
        if self._open:
            await asyncio.wait(self._open, timeout=_REQUEST_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 << 10)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > LARGEST_FORM:
                    break
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return
        if request is None:
            return
        answer = await self._answer(request, bytes(body), _uri_names(writer))
        headers = [
            (name, value)
            for name, value in answer.raw_headers
            if name not in (b"connection", b"content-length", b"transfer-encoding")
        ]
        content = bytes(answer.body)
        head = h11.Response(
            status_code=answer.status_code,
            headers=[*headers, (b"content-length", str(len(content)).encode()), (b"connection", b"close")],
        )
        sent = (connection.send(head), connection.send(h11.Data(data=content)), connection.send(h11.EndOfMessage()))
        writer.write(b"".join(part or b"" for part in sent))
        await writer.drain()

    async def _answer(self, request: h11.Request, body: bytes, uris: tuple[str, ...]) -> Response:
        form = self._forms.get(request.target.decode("ascii", "replace"))
        if form is None:
            return JSONResponse({"error": "invalid_request", "error_description": "no such endpoint"}, 404)
        if request.method != b"POST":
            return JSONResponse({"error": "invalid_request", "error_description": "POST"}, 405, {"allow": "POST"})
        if len(body) > LARGEST_FORM:
            return refusal(OAuthError("invalid_request", "the body is too large", 413))
        content_type = next((value for name, value in request.headers if name == b"content-type"), b"")
        try:
            fields = parse_form(content_type.decode("latin-1"), body)
        except OAuthError as error:
            return refusal(error)
        try:
            return await form(fields, uris)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect is logged by type, never shown
            _log.error("defect", exc_info=error)
            return JSONResponse({"error": "server_error", "error_description": "a defect"}, 500)


def _uri_names(writer: asyncio.StreamWriter) -> tuple[str, ...]:
    """The URI names of the certificate that the other side has shown, and the platform's CA has signed."""
    certificate = writer.get_extra_info("peercert") or {}
    return tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")
