"""What every service does at start, while it serves, and at its end. No business rule, no RPC of any service.

settings → logs → database (migrations checked) → peers → listen → SERVING
SIGTERM  → NOT_SERVING → drain → stop background work → close trail, peers, database
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import structlog
import uvloop
from google.protobuf.descriptor import ServiceDescriptor

from dmp.audit.v1 import audit_pb2
from dmp.gateway.v1 import denial_pb2, relay_pb2
from services.runtime import faults, idempotency, limits, postgres, tls
from services.runtime.access import methods_of
from services.runtime.authentication import Authenticator
from services.runtime.channels import Peer
from services.runtime.coalescer import pending_items
from services.runtime.denials import DenialList, DenialServicer
from services.runtime.dispatcher import Dispatcher
from services.runtime.errors import DmpError
from services.runtime.health import health_port
from services.runtime.jobs import Job, Jobs, Lease
from services.runtime.keyring import Keyring, KeyringError
from services.runtime.names import LABEL_VALUES
from services.runtime.observation import Calls, SecurityLog
from services.runtime.outbox import Relay
from services.runtime.settings import ServiceSettings, SettingsError, load
from services.runtime.telemetry import Telemetry, setup
from services.runtime.tokens import TokenVerifier
from services.runtime.trail import AppendWritten, Trail, deliver_through, receipts
from services.runtime.transport import listen
from services.runtime.wire import embedded

S = TypeVar("S", bound=ServiceSettings)
Background = Callable[[], Awaitable[None]]

APPEND = "/dmp.audit.v1.AuditService/BatchAppendEvents"
_APPEND_TIMEOUT = 10.0
_COLLECTED_AFTER = (10_000, 20, 20)
"""Objects more than were freed since the last look at the youngest; then the looks at each generation's juniors."""
_RELAY = relay_pb2.DESCRIPTOR.services_by_name["RelayService"]
_DENIALS = denial_pb2.DESCRIPTOR.services_by_name["DenialService"]


class StartRefused(Exception):
    """The service cannot start; the message says which setting, key or migration is wrong."""


@dataclass
class Service(Generic[S]):
    """The opened resources of one service process."""

    name: str
    settings: S
    telemetry: Telemetry
    keyring: Keyring
    pool: postgres.Pool
    _peers: dict[str, Peer] = field(default_factory=dict)
    _trail: Trail | None = None

    def peer(self, name: str) -> Peer:
        """The channel to another service; its address is the setting `<name>_address`."""
        if name not in self._peers:
            address = getattr(self.settings, f"{name}_address")
            if address is None:
                raise StartRefused(f"DMP_{name.upper()}_ADDRESS: required")
            self._peers[name] = Peer(name, address, self.settings, observe=self._observe_peer)
        return self._peers[name]

    def _observe_peer(self, peer: str, code: str, seconds: float) -> None:
        metrics = self.telemetry.metrics
        metrics.counter("dmp_client_calls_total").add(1, peer, code)
        metrics.histogram("dmp_client_seconds").record(seconds, peer)

    def token_verifier(self) -> TokenVerifier:
        """The verifier of platform tokens; StartRefused without a key set."""
        settings, outcomes = self.settings, self.telemetry.metrics.counter("dmp_tokens_total")
        if settings.jwks_file is None:
            raise StartRefused("DMP_JWKS_FILE: required")
        return TokenVerifier(
            settings.jwks_file,
            settings.token_audience,
            settings.token_issuer,
            outcome=lambda outcome: outcomes.add(1, outcome),
        )

    @property
    def trail(self) -> Trail:
        """The trail, kept by the audit service."""
        if self._trail is None:
            audit = self.peer("audit")
            self._trail = Trail(append_through(audit), append_written_through(audit))
        return self._trail

    def outbox_relay(self) -> Relay:
        """What brings the events of this service's outbox to the audit log; run it in the background."""
        deliver = deliver_through(append_written_through(self.peer("audit")))
        return Relay(self.pool, deliver, lease=Lease(self.pool, "outbox"), metrics=self.telemetry.metrics)

    def housekeeping(self, more: Sequence[Job] = ()) -> Jobs:
        """The jobs of every service that changes state, and `more`; run them in the background."""

        async def forget_requests(_now: datetime) -> None:
            await idempotency.purge(self.pool)

        job = Job("purge-idempotency", timedelta(hours=1), forget_requests)
        return Jobs(self.pool, [job, *more], lease=Lease(self.pool, "jobs"), metrics=self.telemetry.metrics)

    async def serve(
        self,
        servicers: Sequence[tuple[ServiceDescriptor, object]],
        *,
        background: Sequence[Background] = (),
        trail: Trail | None = None,
    ) -> None:
        """Serve until SIGTERM or SIGINT; returns when everything under way has ended.

        What the gateway tells this process to refuse is served beside `servicers`.
        """
        denials = DenialList()
        servicers = [*servicers, (_DENIALS, DenialServicer(denials))]
        methods = methods_of([*(descriptor for descriptor, _ in servicers), _RELAY])
        dispatcher = Dispatcher(
            methods,
            {descriptor.full_name: servicer for descriptor, servicer in servicers},
            Authenticator(self.token_verifier(), denials),
            trail or self.trail,
            Calls(self.telemetry),
            SecurityLog(self.telemetry),
            limits.measured(limits.Bounds.of(self.settings), self.telemetry.metrics),
            slowest_message=self.settings.stream_stall_seconds,
        )
        stop = stop_on_signals()
        settle()
        server, health = await listen(self.settings, dispatcher, [d.full_name for d, _ in servicers])
        async with health_port(self.settings.health_listen, health), background_work(background, stop):
            structlog.get_logger(self.name).info("serving", address=self.settings.listen)
            await stop.wait()
            await health.enter_graceful_shutdown()
            await server.stop(self.settings.drain_seconds)
            await dispatcher.close()
        if trail is not None:
            await trail.close()

    async def close(self) -> None:
        """Close what was opened, in reverse."""
        if self._trail is not None:
            await self._trail.close()
        for peer in self._peers.values():
            await peer.close()
        await self.pool.close()
        self.telemetry.close()


@asynccontextmanager
async def open_service(name: str, settings_type: type[S], migrations: Path) -> AsyncIterator[Service[S]]:
    """Settings, logs, keyring, database; StartRefused or SettingsError when one of them is wrong."""
    settings = load(settings_type)
    try:
        faults.arm(settings.fault_points)
    except faults.FaultUnknown as error:
        raise StartRefused(f"DMP_FAULT_POINTS: {error}") from error
    telemetry = setup(name, settings)
    if settings.keyring_dir is None:
        raise StartRefused("DMP_KEYRING_DIR: required")
    try:
        keyring = Keyring.from_directory(settings.keyring_dir)
    except KeyringError as error:
        raise StartRefused(f"DMP_KEYRING_DIR: {error}") from error
    pool = await postgres.connect(settings.database_dsn(), max_size=settings.database_pool_size, name=f"dmp-{name}")
    try:
        await postgres.check_migrations(pool, migrations)
    except postgres.SchemaOutOfDate as error:
        await pool.close()
        raise StartRefused(str(error)) from error
    telemetry.metrics.gauge("dmp_database_connections_in_use", lambda: pool.get_size() - pool.get_idle_size())
    certificates = tls.Certificates(tls.TlsFiles(*settings.tls_files()))
    telemetry.metrics.gauge(
        "dmp_certificate_expires_seconds", lambda: certificates.material().expires_at.timestamp() - time.time()
    )
    for coalescer in LABEL_VALUES["coalescer"]:
        telemetry.metrics.gauge("dmp_coalescer_pending", partial(pending_items, coalescer), coalescer)
    service = Service(name, settings, telemetry, keyring, pool)
    try:
        yield service
    finally:
        await service.close()


def append_through(
    audit: Peer,
) -> Callable[[list[audit_pb2.AuditEvent]], Awaitable[list[audit_pb2.AppendReceipt | DmpError]]]:
    """How a trail appends when the log is another process."""
    call = audit.unary(APPEND, audit_pb2.BatchAppendEventsRequest, audit_pb2.BatchAppendEventsResponse)

    async def append(events: list[audit_pb2.AuditEvent]) -> list[audit_pb2.AppendReceipt | DmpError]:
        return receipts(await call(audit_pb2.BatchAppendEventsRequest(events=events), timeout=_APPEND_TIMEOUT))

    return append


def append_written_through(audit: Peer) -> AppendWritten:
    """As `append_through`, of serialized events."""
    call = audit.unary_written(APPEND, audit_pb2.BatchAppendEventsResponse)

    async def append(events: list[bytes]) -> list[audit_pb2.AppendReceipt | DmpError]:
        batch = b"".join([embedded(b"\x0a", event) for event in events])
        return receipts(await call(batch, timeout=_APPEND_TIMEOUT))

    return append


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@asynccontextmanager
async def background_work(works: Iterable[Background], stop: asyncio.Event) -> AsyncIterator[None]:
    """Run `works` beside the body; one that ends by an error sets `stop`, so that the process restarts whole."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger("background").error("background_work_failed", exc_info=task.exception())
            stop.set()

    tasks = [asyncio.ensure_future(work()) for work in works]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def settle() -> None:
    """What a process has made until now stays: the collector looks at younger things alone, and less often.

    By default it goes through some thousand objects every 700, which was a seventh of a read's CPU at 256 in flight
    (docs/explanation/hot-path.md). Call it once, before the first call is served.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)


def unsettle() -> None:
    """Collects what nobody holds, also of what `settle` has frozen: gRPC waits two seconds at exit for channels that it
    still finds, and cycles hold some."""
    gc.unfreeze()
    gc.collect()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a service's composition root on uvloop; a refusal to start is one clear message and exit code 2."""

    async def body() -> None:
        await main()

    try:
        uvloop.run(body())
    except (SettingsError, StartRefused) as error:
        print(error, file=sys.stderr)  # noqa: T201 (before or beyond the logs)
        raise SystemExit(2) from None
    unsettle()
