"""What the HTTP port takes: addresses, headers and bodies within bounds, and no client that is slow on purpose."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.limits import Bounds, HttpLimits
from ops.local.pki import CertificateAuthority
from tests.oauth_software import Software
from tests.platform_fixture import Platform

SHORT = Bounds(pause=0.3, slowest=100, slowest_reader=0.3)


async def through(
    app: Any, messages: list[tuple[float, Message]], *, bounds: Bounds = SHORT, slow_send: float = 0.0, **scope: Any
) -> list[Message]:
    """What is sent when `messages` come, each after a pause in seconds."""
    sent: list[Message] = []
    coming = iter(messages)

    async def receive() -> Message:
        pause, message = next(coming, (60.0, {"type": "http.disconnect"}))
        await asyncio.sleep(pause)
        return message

    async def send(message: Message) -> None:
        await asyncio.sleep(slow_send)
        sent.append(message)

    whole = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], **scope}
    async with asyncio.timeout(20):
        await HttpLimits(app, bounds)(whole, receive, send)
    return sent


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the body and answers with its length; nothing when the client has gone."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def status(sent: list[Message]) -> int:
    return int(next(message["status"] for message in sent if message["type"] == "http.response.start"))


async def test_a_body_in_time_is_read_whole() -> None:
    sent = await through(reads_all, [(0.1, part(b"a" * 50)), (0.1, part(b"b" * 50, more=False))])
    assert status(sent) == 200
    assert sent[-1]["body"] == b"100"


async def test_a_body_that_stops_is_cut_off() -> None:
    assert status(await through(reads_all, [(0, part(b"a")), (5, part(b"b"))])) == 408


async def test_a_body_that_trickles_is_cut_off_though_each_part_is_in_time() -> None:
    began = time.monotonic()
    sent = await through(reads_all, [(0.05, part(b"a")) for _ in range(1000)])
    assert status(sent) == 408
    assert time.monotonic() - began < 10


async def test_an_answer_that_is_not_taken_ends() -> None:
    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    assert len(await through(answers, [], slow_send=2.0)) < 3


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"path": "/" + "a" * 9000}, 414),
        ({"query_string": b"a" * 9000}, 414),
        ({"headers": [(b"x", b"y")] * 65}, 431),
        ({"headers": [(b"x", b"y" * 17_000)]}, 431),
        ({"headers": [(b"x", b"y")] * 64, "path": "/" + "a" * 8000}, 200),
    ],
)
async def test_addresses_and_headers_have_bounds(scope: dict[str, Any], expected: int) -> None:
    assert status(await through(reads_all, [(0, part(b"", more=False))], **scope)) == expected


# --- the running gateway ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def connection(platform: Platform) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the HTTPS port, byte by byte."""
    host, _, port = platform.session.endpoints.http.removeprefix("https://").rpartition(":")
    trust = ssl.create_default_context(cafile=str(CertificateAuthority(platform.state).certificate_path))
    trust.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trust)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """What comes until the gateway closes the connection."""
    async with asyncio.timeout(seconds):
        try:
            return await reader.read(1 << 20)
        except (ConnectionError, ssl.SSLError):
            return b""


@pytest.mark.asyncio(loop_scope="session")
async def test_the_gateway_cuts_off_who_sends_a_header_or_a_body_too_slowly(platform: Platform) -> None:
    software = await Software.registered(platform)
    token = await software.token()
    head = f"POST /DocumentReference HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    body = "Content-Type: application/fhir+json\r\nContent-Length: 1000\r\n\r\n{"
    async with connection(platform) as (headers_reader, headers), connection(platform) as (body_reader, slow_body):
        headers.write(head.encode())
        slow_body.write((head + body).encode())
        await asyncio.gather(headers.drain(), slow_body.drain())
        unfinished, answered = await asyncio.gather(ended(headers_reader, 60), ended(body_reader, 60))
    assert not unfinished.startswith(b"HTTP/1.1 2")
    assert answered.startswith(b"HTTP/1.1 408")
    answer = await software.http.get(f"{software.base}/metadata")
    assert answer.status_code == 200
    await software.close()


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (b"400", b"414", b"431")),
        (b"GET /metadata?" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (b"414",)),
        (b"GET /metadata HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", (b"431",)),
        (b"GET /metadata HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 90 + b"\r\n", (b"431",)),
        (b"\x16\x03\x01 nonsense\r\n\r\n", (b"400",)),
    ],
)
async def test_the_gateway_answers_what_is_too_long_with_a_4xx(
    platform: Platform, request_: bytes, statuses: tuple[bytes, ...]
) -> None:
    async with connection(platform) as (reader, writer):
        writer.write(request_)
        await writer.drain()
        async with asyncio.timeout(30):
            line = await reader.readline()
    assert line.split(b" ")[1] in statuses, line


SEARCH = b"POST /Patient/_search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
NEXT = b"GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS = {
    "two ways to tell the length": b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "the same the other way round": CHUNKED + b"Content-Length: 50\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 0\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a length that is no number": b"Content-Length: 0x0\r\n\r\n",
    "a length beyond all bounds": b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a space before the colon": b"Content-Length : 0\r\n\r\n",
    "a coding that is not known": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, and then another": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a folded header": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a length": CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk of more than there is": CHUNKED + b"\r\nffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + b"\r\n3\r\nabcde\r\n0\r\n\r\n",
    "an endless extension of a chunk": CHUNKED + b"\r\n3;" + b"a" * 20_000 + b"\r\nabc\r\n0\r\n\r\n",
    "a thousand trailers": CHUNKED + b"\r\n3\r\na=b\r\n0\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
    "two hosts": b"Host: y\r\nContent-Length: 0\r\n\r\n",
}


async def answers_to(platform: Platform, sent: bytes) -> list[bytes]:
    """The statuses of all answers on one connection, until it is closed or nothing comes for a while."""
    received = b""
    async with connection(platform) as (reader, writer):
        writer.write(sent)
        try:
            async with asyncio.timeout(10):
                while part := await reader.read(1 << 16):
                    received += part
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass
    return re.findall(rb"HTTP/1\.1 (\d\d\d)", received)


@pytest.mark.asyncio(loop_scope="session")
async def test_what_can_be_read_in_two_ways_is_read_in_none_and_nothing_after_it(platform: Platform) -> None:
    """No request hides in another (RFC 9112, 11.2), and no 5xx."""
    software = await Software.registered(platform)
    head = SEARCH % (await software.token()).encode() + FORM
    found = await asyncio.gather(*(answers_to(platform, head + rest + NEXT) for rest in AMBIGUOUS.values()))
    assert dict(zip(AMBIGUOUS, found, strict=True)) == {each: [b"400"] for each in AMBIGUOUS}
    await software.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_a_host_is_named_once_and_nobody_is_sent_to_it(platform: Platform) -> None:
    assert await answers_to(platform, b"GET /metadata HTTP/1.1\r\nConnection: close\r\n\r\n") == [b"400"]
    for path in (b"/metadata/", b"//evil.example/", b"/Patient/_search/"):
        sent = b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert await answers_to(platform, sent) == [b"404"]


@pytest.mark.asyncio(loop_scope="session")
async def test_http_2_is_not_offered(platform: Platform) -> None:
    """One connection has one answer under way: what its reader leaves is that one (docs/decisions/0043)."""
    host, _, port = platform.session.endpoints.http.removeprefix("https://").rpartition(":")
    trust = ssl.create_default_context(cafile=str(CertificateAuthority(platform.state).certificate_path))
    trust.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=trust)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.transport.abort()
