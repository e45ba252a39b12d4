"""What a channel promises, between real servers and clients with real certificates: fail fast, recover, never hang."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from grpc_health.v1.health_pb2 import HealthCheckRequest as Question
from grpc_health.v1.health_pb2 import HealthCheckResponse as Answer

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from ops.local.pki import CertificateAuthority, Identity
from ops.local.state import State
from services.runtime import channels
from services.runtime.access import MethodAccess
from services.runtime.channels import Peer
from services.runtime.context import Call, enter
from services.runtime.errors import DmpError, invalid, trailing_metadata
from services.runtime.settings import ServiceSettings
from services.runtime.tls import server_credentials
from tests.ports import free_port

UNAVAILABLE = reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
ASK, WATCH = "/test.Echo/Ask", "/test.Echo/Watch"


class Echo:
    """A service of the test: what it does depends on the question."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = 0
        self.cancelled = 0
        self.clients: set[int] = set()

    async def ask(self, question: Question, context: grpc.aio.ServicerContext[Any, Any]) -> Answer:
        self.asked += 1
        (pem,) = context.auth_context()["x509_pem_cert"]
        self.clients.add(x509.load_pem_x509_certificate(pem).serial_number)
        verb, _, argument = question.service.partition(":")
        if verb == "sleep":
            try:
                await asyncio.sleep(float(argument))
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if verb == "refuse":
            error = invalid("page_size", "gte", "must not be negative")
            await context.abort(error.code, error.message, trailing_metadata(error))
        if verb == "break":
            raise RuntimeError("a defect")
        return Answer(status=self.number)

    async def watch(self, question: Question, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Answer]:
        try:
            for number in range(300):
                yield Answer(status=number % 4)
                if question.service == "break":
                    raise RuntimeError("a defect")
                await asyncio.sleep(0.001)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


@asynccontextmanager
async def serving(echo: Echo, identity: Identity, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    ask: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
        echo.ask, Question.FromString, Answer.SerializeToString
    )
    watch: grpc.RpcMethodHandler[Any, Any] = grpc.unary_stream_rpc_method_handler(
        echo.watch, Question.FromString, Answer.SerializeToString
    )
    handler = grpc.method_handlers_generic_handler("test.Echo", {"Ask": ask, "Watch": watch})
    server.add_generic_rpc_handlers((handler,))
    credentials = server_credentials(identity.certificate, identity.key, identity.authority)
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


class Client:
    """A workload that calls the echo service."""

    def __init__(self, authority: CertificateAuthority, address: str, **settings: Any) -> None:
        self.identity = authority.service("consent")
        self.observed: list[tuple[str, str]] = []
        self.peer = Peer(
            "echo",
            address,
            ServiceSettings(
                tls_cert=self.identity.certificate,
                tls_key=self.identity.key,
                tls_ca=self.identity.authority,
                drain_seconds=settings.pop("drain_seconds", 2),
                **settings,
            ),
            observe=lambda peer, code, seconds: self.observed.append((peer, code)),
        )
        self.call = self.peer.unary(ASK, Question, Answer)
        self.stream = self.peer.stream(WATCH, Question, Answer)

    async def ask(self, text: str = "", timeout: float | None = 5) -> int:
        return (await self.call(Question(service=text), timeout=timeout)).status

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.peer.close()


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(State.open(tmp_path / "state"))


async def failure(calling: Awaitable[object]) -> DmpError:
    with pytest.raises(DmpError) as failed:
        await calling
    return failed.value


async def outcome(calling: Awaitable[int]) -> int:
    """The answer, or minus the reason of the error."""
    try:
        return await calling
    except DmpError as error:
        return -error.reason


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_call_is_answered_counted_and_may_be_relayed_as_bytes(authority: CertificateAuthority) -> None:
    async with (
        serving(Echo(1), authority.service("document")) as port,
        Client(authority, f"localhost:{port}") as client,
    ):
        assert await client.ask() == 1
        relayed = await client.peer.unary_bytes(ASK)(Question().SerializeToString(), timeout=5)
        assert Answer.FromString(relayed).status == 1
        parts = [part async for part in client.peer.stream_bytes(WATCH)(b"", timeout=10)]
        assert len(parts) == 300
        assert client.observed == [("echo", "OK")] * 3


async def test_the_peers_own_error_arrives_whole(authority: CertificateAuthority) -> None:
    async with (
        serving(Echo(1), authority.service("document")) as port,
        Client(authority, f"localhost:{port}") as client,
    ):
        error = await failure(client.ask("refuse"))
        assert error.reason == reasons.ERROR_REASON_INVALID_FIELD
        assert [violation.field for violation in error.fields] == ["page_size"]
        assert client.observed == [("echo", "INVALID_ARGUMENT")]


async def test_a_peer_with_a_defect_is_unavailable_and_named(authority: CertificateAuthority) -> None:
    """Undecided is no (promise 3): what is not an answer of ours never passes for one."""
    async with (
        serving(Echo(1), authority.service("document")) as port,
        Client(authority, f"localhost:{port}") as client,
    ):
        error = await failure(client.ask("break"))
        assert (error.reason, error.metadata) == (UNAVAILABLE, {"dependency": "echo"})


async def test_an_unreachable_peer_is_refused_at_once(authority: CertificateAuthority) -> None:
    async with Client(authority, f"localhost:{free_port()}") as client:
        for _ in range(3):
            started = time.monotonic()
            error = await failure(client.ask())
            assert (error.reason, error.metadata) == (UNAVAILABLE, {"dependency": "echo"})
            assert time.monotonic() - started < 1


async def test_an_address_that_never_answers_is_given_up_after_a_second(authority: CertificateAuthority) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts, and says nothing
        async with Client(authority, f"localhost:{silent.getsockname()[1]}") as client:
            started = time.monotonic()
            assert (await failure(client.ask(timeout=8))).reason == UNAVAILABLE
            assert time.monotonic() - started < 3


async def test_a_restarted_peer_is_found_again_within_a_second(authority: CertificateAuthority) -> None:
    identity, port = authority.service("document"), free_port()
    async with Client(authority, f"localhost:{port}") as client:
        async with serving(Echo(1), identity, port):
            assert await client.ask() == 1
        for _ in range(20):
            await failure(client.ask())
            await asyncio.sleep(0.05)
        async with serving(Echo(2), identity, port):
            started = time.monotonic()
            while await outcome(client.ask()) != 2:
                await asyncio.sleep(0.02)
            assert time.monotonic() - started < 1


async def test_calls_go_round_all_replicas_and_round_the_one_that_died(authority: CertificateAuthority) -> None:
    identity, one, two = authority.service("document"), Echo(1), Echo(2)
    async with serving(one, identity) as first:
        async with serving(two, identity) as second:
            client = Client(authority, f"127.0.0.1:{first},127.0.0.1:{second}")
            await client.ask()
            await asyncio.sleep(0.2)
            for _ in range(20):
                await client.ask()
            assert min(one.asked, two.asked) >= 8
        await asyncio.sleep(0.1)
        assert [await client.ask() for _ in range(10)] == [1] * 10
        await client.peer.close()


async def test_a_rotated_certificate_is_used_without_failing_a_call(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_LOOK_AT_FILES_EVERY", 0.0)
    echo = Echo(1)
    async with (
        serving(echo, authority.service("document")) as port,
        Client(authority, f"localhost:{port}") as client,
    ):
        await client.ask()
        long_one = asyncio.create_task(client.ask("sleep:0.5"))
        await eventually(lambda: echo.asked == 2)
        authority.renew("service", "consent")
        assert await client.ask() == 1
        assert len(echo.clients) == 2, "the new connection shows the new certificate"
        assert await long_one == 1, "the old one drains"
        serial = x509.load_pem_x509_certificate(client.identity.certificate.read_bytes()).serial_number
        assert serial in echo.clients


async def test_nobody_is_believed_to_be_the_peer_without_our_authoritys_certificate(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    elsewhere = CertificateAuthority(State.open(tmp_path / "elsewhere"))
    echo = Echo(1)
    async with serving(echo, elsewhere.service("document")) as port, Client(authority, f"localhost:{port}") as client:
        assert (await failure(client.ask())).reason == UNAVAILABLE
        assert echo.asked == 0


def call_with(remaining: float | None) -> Call:
    method = MethodAccess(
        path="/test/Test",
        callers=frozenset(),
        transaction="",
        scopes=frozenset(),
        audit_action="",
        dossier_field="",
        traffic=0,
        mutation=False,
        states_actor=False,
        server_streaming=False,
        request=Question,
        response=Answer,
    )
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(ActingContext(), 0, "", "", "", deadline, "", method)


async def test_a_call_takes_no_longer_than_remains_of_the_call_being_served(authority: CertificateAuthority) -> None:
    echo = Echo(1)
    async with serving(echo, authority.service("document")) as port, Client(authority, f"localhost:{port}") as client:
        await client.ask()
        enter(call_with(0.3))
        started = time.monotonic()
        error = await failure(client.ask("sleep:5", timeout=None))
        assert error.reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED
        assert 0.2 < time.monotonic() - started < 1
        await eventually(lambda: echo.cancelled == 1)
        assert (await failure(client.ask())).reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED
        assert echo.asked == 2, "no call begins when nothing remains"
        enter(call_with(None))
        assert await client.ask(timeout=None) == 1


async def test_who_stops_waiting_cancels_the_call(authority: CertificateAuthority) -> None:
    echo = Echo(1)
    async with serving(echo, authority.service("document")) as port, Client(authority, f"localhost:{port}") as client:
        waiting = asyncio.create_task(client.ask("sleep:5"))
        await eventually(lambda: echo.asked == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await eventually(lambda: echo.cancelled == 1)
        assert client.observed == [("echo", "CANCELLED")]


async def test_a_closing_peer_finishes_what_is_under_way_and_refuses_the_rest(
    authority: CertificateAuthority,
) -> None:
    echo = Echo(1)
    async with serving(echo, authority.service("document")) as port:
        client = Client(authority, f"localhost:{port}", drain_seconds=0.6)
        short, long = asyncio.create_task(client.ask("sleep:0.2")), asyncio.create_task(client.ask("sleep:5"))
        await eventually(lambda: echo.asked == 2)
        closing = asyncio.create_task(client.peer.close())
        await asyncio.sleep(0)
        assert (await failure(client.ask())).reason == UNAVAILABLE
        assert await short == 1
        assert (await failure(long)).reason == UNAVAILABLE, "not cancelled: its task goes on"
        await closing


async def test_a_stream_left_early_is_cancelled_and_a_broken_one_is_an_error(authority: CertificateAuthority) -> None:
    echo = Echo(1)
    async with serving(echo, authority.service("document")) as port, Client(authority, f"localhost:{port}") as client:
        seen = 0
        stream = client.stream(Question(), timeout=5)
        async for _ in stream:
            seen += 1
            if seen == 3:
                break
        await stream.aclose()
        await eventually(lambda: echo.cancelled == 1)

        async def read_all() -> None:
            async for _ in client.stream(Question(service="break"), timeout=5):
                pass

        assert (await failure(read_all())).reason == UNAVAILABLE


async def test_a_message_beyond_the_limit_is_refused(authority: CertificateAuthority) -> None:
    limits = {"max_message_bytes": 64 << 10, "max_document_bytes": 32 << 10}
    async with (
        serving(Echo(1), authority.service("document")) as port,
        Client(authority, f"localhost:{port}", **limits) as client,
    ):
        error = await failure(client.ask("x" * (70 << 10)))
        assert error.reason == reasons.ERROR_REASON_REQUEST_TOO_LARGE
