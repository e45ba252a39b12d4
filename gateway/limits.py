"""What an HTTP request may be like before anybody looks at what it says: its address, its headers, the time it takes.

Around everything else, so that no endpoint needs to think of it. Bodies have limits of their own by what they hold
(`gateway.fhir.bodies`, the OAuth forms); here is only how *slowly* one may come and an answer be taken.

- An address of more than 8 KiB is 414; more than 64 headers, or more than 16 KiB of them, 431; none or several that
  name the host, 400 (RFC 9112, 3.2).
- A body that ends too early, or whose parts are not framed as HTTP wants, is 400, and its connection is closed.
- A body's next part must come within ten seconds, and the whole at 16 KiB/s after a first ten seconds: else the
  connection is closed, with 408 if nothing was answered yet. While it comes it holds no place under the limit.
- An answer's next part must be taken within thirty seconds, else the connection is closed (`gateway.answers`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.answers import LARGEST_PART, Answers, TooSlow

_log = structlog.get_logger("gateway.limits")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes, numbers, seconds, bytes a second."""

    longest_address: int = 8 << 10
    most_headers: int = 64
    largest_headers: int = 16 << 10
    pause: float = 10.0
    slowest: float = 16 << 10
    slowest_reader: float = 30.0


Refusal = tuple[int, bytes, bytes, bytes]
"""Status, FHIR's code of the issue, text, and what it is about."""

_TOO_SLOW: Final = (408, b"timeout", b"The body comes too slowly.", b"http.body")
_NOT_WHOLE: Final = (400, b"structure", b"The body ends too early, or is not framed as HTTP wants.", b"http.body")

_OUTCOME: Final = (
    b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"%s",'
    b'"details":{"text":"%s"},"diagnostics":"%s"}]}'
)


class HttpLimits:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, bounds: Bounds | None = None) -> None:
        self._app = app
        self._bounds = bounds or Bounds()
        self._answers = Answers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is within the limits; answer the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        watched = _Watched(receive, send, self._bounds, self._answers)
        try:
            await self._app(scope, watched.receive, watched.send)
        except TooSlow:
            pass
        finally:
            if watched.ended is not None and not watched.answered:
                _log.info("cut_off", status=watched.ended[0], seconds=round(watched.seconds, 1))
                await _answer(send, *watched.ended)

    def _refusal(self, scope: Scope) -> Refusal | None:
        bounds, headers = self._bounds, scope["headers"]
        if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > bounds.longest_address:
            return 414, b"too-long", b"The address is longer than the limit.", b"http.url"
        if len(headers) > bounds.most_headers:
            return 431, b"too-long", b"There are more headers than the limit.", b"http.headers"
        if sum(len(name) + len(value) for name, value in headers) > bounds.largest_headers:
            return 431, b"too-long", b"The headers are longer than the limit.", b"http.headers"
        if (
            scope.get("http_version") == "1.1"
            and len([name for name, value in headers if name == b"host" and value]) != 1
        ):
            return 400, b"structure", b"A request names its host once.", b"http.host"
        return None


class _Watched:
    """One request with a clock at both ends."""

    __slots__ = ("_answers", "_began", "_bounds", "_receive", "_received", "_send", "answered", "ended")

    def __init__(self, receive: Receive, send: Send, bounds: Bounds, answers: Answers) -> None:
        self._receive = receive
        self._send = send
        self._bounds = bounds
        self._answers = answers
        self._began = 0.0
        self._received = 0
        self.answered = False
        self.ended: Refusal | None = None
        """Why nothing more is taken from the other side, or given to it."""

    @property
    def seconds(self) -> float:
        """Since the body was first asked for."""
        return time.monotonic() - self._began if self._began else 0.0

    async def receive(self) -> Message:
        """The next part of the body, in time; else that the client has gone, which it soon has."""
        if not self._began:
            self._began = time.monotonic()
        if self.answered:  # whoever listens now waits for the other side to leave
            return await self._receive()
        left = self._bounds.pause + self._received / self._bounds.slowest - self.seconds
        try:
            async with asyncio.timeout(max(0.0, min(self._bounds.pause, left))):
                message = await self._receive()
        except TimeoutError:
            self.ended = _TOO_SLOW
            return {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":  # gone, or what came cannot be read on: the server says no more
            self.ended = _NOT_WHOLE
        self._received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, if it is taken in time."""
        if self.ended is not None:
            raise TooSlow
        if message["type"] == "http.response.start":
            self.answered = True
            await self._send(message)
            return
        body = message.get("body", b"")
        if len(body) <= LARGEST_PART and not message.get("more_body", False):
            await self._send(message)  # the server has room for it
            return
        try:
            await self._send_in_parts(body, more=message.get("more_body", False))
        except TooSlow:
            _log.info("slow_reader", bytes=len(body))
            self.ended = _TOO_SLOW
            raise

    async def _send_in_parts(self, body: bytes, *, more: bool) -> None:
        async with self._answers.hold(len(body), self._bounds.slowest_reader) as held:
            for place in range(0, max(1, len(body)), LARGEST_PART):
                further = more or place + LARGEST_PART < len(body)
                part = body[place : place + LARGEST_PART]
                await self._send({"type": "http.response.body", "body": part, "more_body": further})
                held.took()


async def _answer(send: Send, status: int, code: bytes, text: bytes, where: bytes) -> None:
    body = _OUTCOME % (code, text, where)
    headers = [
        (b"content-type", b"application/fhir+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
