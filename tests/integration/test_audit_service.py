"""The audit service as a process of its own: mutual TLS, tokens, kill -9, refusals to start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from ops.local.keys import ensure_keyring, ensure_log_keys, ensure_token_keys
from ops.local.pki import CertificateAuthority, Identity
from ops.local.state import State
from services.runtime.channels import Peer
from services.runtime.checks import CHECK_ACCESS
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.server import APPEND
from services.runtime.settings import ServiceSettings
from services.runtime.tls import server_credentials
from services.runtime.tokens import TokenIssuer
from services.runtime.trail import receipts
from tests.audit_log import DOSSIER, PHYSICIAN, copy, empty, event, migrated, places
from tests.faults.forked import Fork, Process
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
LIST = "/dmp.audit.v1.AuditService/ListEvents"
SYSTEM = "records"


async def let_all_see(
    request: consent_pb2.BatchCheckAccessRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> consent_pb2.BatchCheckAccessResponse:
    """A consent service that lets everybody see every event."""
    allowed = consent_pb2.Filter(traces=consent_pb2.TRACE_VIEW_ALL)
    decision = consent_pb2.Decision(permitted=True, epoch=3, filter=allowed)
    result = consent_pb2.CheckAccessResult(decision=decision)
    return consent_pb2.BatchCheckAccessResponse(results=[result] * len(request.requests))


class Platform:
    """Certificates, keys, a database and a consent service for one audit service, and how to start it."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.state = State.open(directory / "state")
        self.authority = CertificateAuthority(self.state)
        self.tokens = ensure_token_keys(self.state)
        self.dsn = dsn
        self.dsn_file = directory / "dsn"
        self.dsn_file.write_text(dsn)
        self.address = f"127.0.0.1:{free_port()}"
        self.consent_address = ""
        self.extra: dict[str, str] = {}
        self.under: tuple[str, ...] = ()
        self.fork: Fork | None = None

    async def start_consent(self) -> grpc.aio.Server:
        identity = self.authority.service("consent")
        server = grpc.aio.server()
        check = grpc.unary_unary_rpc_method_handler(
            let_all_see,
            consent_pb2.BatchCheckAccessRequest.FromString,
            consent_pb2.BatchCheckAccessResponse.SerializeToString,
        )
        _, service, method = CHECK_ACCESS.split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: check}),))
        port = server.add_secure_port(
            "127.0.0.1:0", server_credentials(identity.certificate, identity.key, identity.authority)
        )
        self.consent_address = f"127.0.0.1:{port}"
        await server.start()
        return server

    async def spawn(self) -> Process:
        identity = self.authority.service("audit")
        settings = {
            "DMP_ENVIRONMENT": "test",
            "DMP_LISTEN": self.address,
            "DMP_TLS_CERT": str(identity.certificate),
            "DMP_TLS_KEY": str(identity.key),
            "DMP_TLS_CA": str(identity.authority),
            "DMP_DSN_FILE": str(self.dsn_file),
            "DMP_JWKS_FILE": str(self.tokens.key_set),
            "DMP_KEYRING_DIR": str(ensure_keyring(self.state, "audit")),
            "DMP_CONSENT_ADDRESS": self.consent_address,
            "DMP_IDENTITY_ADDRESS": "127.0.0.1:1",
            "DMP_AUDIT_LOG_KEYS_DIR": str(ensure_log_keys(self.state, "dmp.test/log", 4)),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "stubs"))),
            "PATH": os.environ["PATH"],
        }
        if self.fork is not None:
            return await self.fork("audit", settings | self.extra, self.dsn_file.with_name("log"))
        return await asyncio.create_subprocess_exec(
            *self.under,
            sys.executable,
            "-m",
            "services.audit",
            start_new_session=bool(self.under),
            cwd=ROOT,
            env=settings | self.extra,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

    @asynccontextmanager
    async def connected(self, identity: Identity) -> AsyncIterator[Peer]:
        settings = ServiceSettings(
            environment="test", tls_cert=identity.certificate, tls_key=identity.key, tls_ca=identity.authority
        )
        peer = Peer("audit", self.address, settings)
        try:
            yield peer
        finally:
            await peer.close()

    def token(self, *, scopes: tuple[str, ...] = ("ITI-81",)) -> tuple[tuple[str, str], ...]:
        claims = context_pb2.ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
            subject=PHYSICIAN,
            profession="10",
            authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
            client_id=SYSTEM,
            caller=access_pb2.CALLER_KIND_INTERNAL,
        )
        issuer = TokenIssuer(self.tokens.signing_key, self.tokens.kid, "https://dmp.local")
        return (("authorization", f"Bearer {issuer.issue(claims, 'dmp', 300, scopes=scopes)}"),)


@pytest.fixture(scope="module")
def audit_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@asynccontextmanager
async def alone(database: str, directory: Path) -> AsyncIterator[Platform]:
    """The audit service with an empty database, and the consent service that it asks."""
    await empty(database)
    made = Platform(directory, database)
    consent = await made.start_consent()
    yield made
    await consent.stop(None)


@pytest.fixture
async def platform(audit_database: str, tmp_path: Path) -> AsyncIterator[Platform]:
    async with alone(audit_database, tmp_path) as made:
        yield made


@asynccontextmanager
async def running(platform: Platform) -> AsyncIterator[Process]:
    """The service, until the block ends."""
    process = await platform.spawn()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def append(peer: Peer, events: list[audit_pb2.AuditEvent]) -> list[int]:
    """Sends the events until the service answers, as a relay does."""
    call = peer.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)
    give_up = time.monotonic() + 20
    while True:
        try:
            return places(receipts(await call(audit_pb2.BatchAppendEventsRequest(events=map(copy, events)), timeout=5)))
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE or time.monotonic() > give_up:
                raise
        await asyncio.sleep(0.02)


async def test_a_service_appends_and_an_authorised_caller_reads_over_mutual_tls(platform: Platform) -> None:
    async with running(platform) as process:
        sent = [event(action=f"document.{number}") for number in range(3)]
        async with platform.connected(platform.authority.service("document")) as document:
            assert await append(document, sent) == [0, 1, 2]
            assert await append(document, sent) == [0, 1, 2]
        async with platform.connected(platform.authority.internal(SYSTEM)) as system:
            list_events = system.unary(LIST, audit_pb2.ListEventsRequest, audit_pb2.ListEventsResponse)
            request = audit_pb2.ListEventsRequest(parent=dossier_name(DOSSIER))
            page = await list_events(request, metadata=platform.token())
            assert [(each.event.action, each.event.producer) for each in page.events] == [
                (f"document.{number}", "document") for number in (2, 1, 0)
            ]
            with pytest.raises(DmpError) as refused:
                await list_events(request, metadata=platform.token(scopes=("ITI-67",)))
            assert refused.value.reason == reasons.ERROR_REASON_SCOPE_MISSING
            page = await list_events(request, metadata=platform.token())
            assert [(each.event.action, each.event.producer) for each in page.events[-4:]] == [
                ("trace.read", "audit"), *((f"document.{number}", "document") for number in (2, 1, 0)),
            ]  # fmt: skip
        connection = await asyncpg.connect(platform.dsn)
        assert await connection.fetchval("SELECT count(*) FROM event WHERE producer = 'audit'") == 3
        await connection.close()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_only_services_append_and_nobody_reads_without_a_token(platform: Platform) -> None:
    async with running(platform):
        async with platform.connected(platform.authority.service("document")) as document:
            await append(document, [event()])
        async with platform.connected(platform.authority.internal(SYSTEM)) as system:
            add = system.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)
            forged = audit_pb2.BatchAppendEventsRequest(events=[event()])
            with pytest.raises(DmpError) as refused:
                await add(forged)
            assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(DmpError) as refused:
                await add(forged, metadata=platform.token())
            assert refused.value.reason == reasons.ERROR_REASON_ACTING_CONTEXT_NOT_ALLOWED
            list_events = system.unary(LIST, audit_pb2.ListEventsRequest, audit_pb2.ListEventsResponse)
            with pytest.raises(DmpError) as refused:
                await list_events(audit_pb2.ListEventsRequest(parent=dossier_name(DOSSIER)))
            assert refused.value.reason == reasons.ERROR_REASON_TOKEN_MISSING


async def test_what_was_acknowledged_is_there_once_after_kill_9_whatever_was_sent_again(platform: Platform) -> None:
    events = [event(DOSSIER + number % 7) for number in range(600)]
    acknowledged: dict[bytes, int] = {}

    async def sender(document: Peer, mine: list[audit_pb2.AuditEvent]) -> None:
        for start in range(0, len(mine), 10):
            bundle = mine[start : start + 10]
            for each, place in zip(bundle, await append(document, bundle), strict=True):
                acknowledged[each.event_id] = place

    async with platform.connected(platform.authority.service("document")) as document:
        async with running(platform) as process:
            await append(document, events[:1])
            senders = asyncio.gather(*(sender(document, events[first::12]) for first in range(12)))
            while len(acknowledged) < 150:
                await asyncio.sleep(0.001)
            process.kill()
            await process.wait()
            before = dict(acknowledged)
        async with running(platform):
            await senders
            assert await append(document, events[:1]) == [acknowledged[events[0].event_id]]
    assert len(before) < len(events) == len(acknowledged)
    connection = await asyncpg.connect(platform.dsn)
    rows = await connection.fetch("SELECT leaf_index, event_id FROM event ORDER BY leaf_index")
    await connection.close()
    assert [row["leaf_index"] for row in rows] == list(range(600))
    assert {row["event_id"].bytes: row["leaf_index"] for row in rows} == acknowledged
    assert before.items() <= acknowledged.items()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE log_head SET size = 5", "log 0 is damaged"),
        ("INSERT INTO log_head (log_id) VALUES (1)", "DMP_AUDIT_LOG_COUNT"),
    ],
)
async def test_it_refuses_to_start_on_a_damaged_log_with_one_clear_message(
    platform: Platform, damage: str, says: str
) -> None:
    connection = await asyncpg.connect(platform.dsn)
    await connection.execute("INSERT INTO log_head (log_id) VALUES (0)")
    await connection.execute(damage)
    await connection.close()
    async with running(platform) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert says in errors.decode()
        assert "Traceback" not in errors.decode()


async def test_it_refuses_to_start_without_its_migrations(platform: Platform, postgres_url: Callable[[], str]) -> None:
    platform.dsn_file.write_text(postgres_url())
    async with running(platform) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert "0001_log" in errors.decode()
