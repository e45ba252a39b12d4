"""The whole platform as one value: `async with Stack(state) as stack:`. What starts when, and how to break it on
purpose. How each thing is started is in the other modules of this package.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ops.local.databases import database_name, provision, write_dsn
from ops.local.environment import Settings, Surroundings, endpoints, process_environment
from ops.local.envoy import Terminator
from ops.local.keys import ClientKey, TokenKeys, ensure_client_key, ensure_keyring, ensure_token_keys
from ops.local.pki import CertificateAuthority, Identity
from ops.local.postgres import SUPERUSER, Postgres, end_former_server
from ops.local.postgres_install import place
from ops.local.readiness import accepts_tcp, serves_grpc, serves_grpc_at_socket
from ops.local.redis import Redis
from ops.local.state import OPENID, POSTGRES, REDIS, SERVICES, Endpoint, Ports, ServiceName, State
from ops.local.supervisor import ChildFailed, ProcessSpec, Supervisor
from ops.local.witness import WITNESS, LocalWitness
from services.runtime.settings import Transport

Migrate = Callable[[ServiceName, str], Awaitable[object]]
"""Brings the database of a service, given its DSN, to its newest schema."""

Command = Callable[[ServiceName], Sequence[str]]
"""Program and arguments that run a service."""

ROOT: Final = Path(__file__).resolve().parents[2]
WATCHER: Final = "local-stack"
"""The operator whose certificate asks for health."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedWhileStarting(Exception):
    """A stop signal came before the stack was up. All that had been started is stopped."""


def python_module(service: ServiceName) -> Sequence[str]:
    """A service as `python -m services.<name>`, the gateway as `python -m gateway`."""
    return (sys.executable, "-m", service if service == "gateway" else f"services.{service}")


def process_name(service: ServiceName, replica: int = 0) -> str:
    """Name of a service process in logs and messages: `document`, `document-1`."""
    return service if replica == 0 else f"{service}-{replica}"


def terminator_name(service: ServiceName, replica: int = 0) -> str:
    """Name of the terminator in front of a native replica: `envoy-document`."""
    return f"envoy-{process_name(service, replica)}"


class Stack:
    """A local platform: databases, keys, service processes. Enter it once, in the thread that lives as long as it does.

    services: what to run; none gives databases, Redis and keys alone. The database of each is made in any case.
    replicas: processes for a service, where not one.
    migrate: called once for each service to run, before it starts.
    overrides: further variables for all services, by full name (`DMP_LOG_LEVEL`).
    own: the same for single services.
    openid: whether the local OpenID provider runs too.
    transport: what serves gRPC: `grpcio`, or `native` behind an Envoy for each replica, which has the address.
    witness: whether a witness cosigns the checkpoints of the audit log.
    signals: whether SIGINT, SIGTERM and SIGHUP stop the stack (`wait` then returns); a second one stops it at once.
    """

    def __init__(
        self,
        state: State,
        services: Sequence[ServiceName] = SERVICES,
        *,
        replicas: Mapping[ServiceName, int] | None = None,
        migrate: Migrate | None = None,
        command: Command = python_module,
        overrides: Mapping[str, str] | None = None,
        own: Mapping[ServiceName, Mapping[str, str]] | None = None,
        preferred_ports: Mapping[Endpoint, int] | None = None,
        transport: Transport = "grpcio",
        openid: bool = False,
        signals: bool = False,
        witness: bool = False,
    ) -> None:
        self.state = state
        self.services = tuple(service for service in SERVICES if service in services)
        self._replicas = {service: (replicas or {}).get(service, 1) for service in SERVICES}
        self._migrate = migrate
        self._command = command
        self._overrides = dict(overrides or {})
        self._own = dict(own or {})
        self._preferred_ports = preferred_ports
        self._transport: Transport = transport
        self._openid = openid
        self._signals = signals
        self._with_witness = witness
        self._resources = ExitStack()
        self._supervisor = Supervisor(state)
        self._stopping = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Stack:
        self._starting = asyncio.current_task()
        try:
            self._resources.enter_context(self.state.locked())
            self._listen_to_signals()
            await self._start()
        except BaseException as reason:
            await self._stop()
            if isinstance(reason, asyncio.CancelledError) and self._stopping.is_set():
                if self._starting is not None:
                    self._starting.uncancel()
                raise StoppedWhileStarting("stopped while starting") from None
            raise
        finally:
            self._starting = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    # --- what is where ---

    @property
    def ports(self) -> Ports:
        return self._surroundings.ports

    @property
    def tokens(self) -> TokenKeys:
        return self._surroundings.tokens

    @property
    def redis_url(self) -> str:
        return self._redis.url

    def dsn(self, service: ServiceName) -> str:
        """DSN of a service's database, as its own role."""
        return self._postgres.dsn(database_name(service), database_name(service))

    def superuser_dsn(self, database: str = "postgres") -> str:
        """For what looks at all databases from outside, as a test or the doctor does."""
        return self._postgres.dsn(database, SUPERUSER)

    def replicas(self, service: ServiceName) -> int:
        """How many processes a service has."""
        return self._replicas[service]

    def address(self, service: ServiceName, replica: int = 0) -> str:
        """`127.0.0.1:port` of one replica's gRPC."""
        return self.ports.address(Endpoint(service, replica))

    def socket(self, service: ServiceName, replica: int = 0) -> Path:
        """The Unix socket of a native replica, which its terminator alone is to use."""
        return self._surroundings.socket(service, replica)

    def target(self, service: ServiceName) -> str:
        """gRPC target of all replicas of a service."""
        return self._surroundings.target(service)

    def http_address(self, replica: int = 0) -> str:
        """`127.0.0.1:port` of the gateway's HTTP."""
        return self.ports.address(Endpoint("gateway", replica, "http"))

    def settings(self, service: ServiceName, replica: int = 0) -> Settings:
        return self._surroundings.settings(service, replica, self.authority.service(service))

    def env(self, service: ServiceName, replica: int = 0) -> dict[str, str]:
        """The whole environment of a service process."""
        overrides = {**self._overrides, **self._own.get(service, {})}
        return process_environment(self.settings(service, replica), overrides)

    def client_key(self, client_id: str) -> ClientKey:
        """Key of a demo partner, made at first use."""
        return ensure_client_key(self.state, client_id)

    def internal(self, name: str) -> Identity:
        """Certificate of an internal system, made at first use."""
        return self.authority.internal(name)

    def operator(self, name: str) -> Identity:
        """Certificate of an operator, made at first use."""
        return self.authority.operator(name)

    # --- life and faults ---

    async def wait(self) -> None:
        """Returns when a stop signal comes. Errors: ChildFailed when a process ends that was not told to."""
        stop = asyncio.ensure_future(self._stopping.wait())
        death = asyncio.ensure_future(self._supervisor.next_death())
        try:
            await asyncio.wait({stop, death}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                raise ChildFailed(str(death.result()))
        finally:
            stop.cancel()
            death.cancel()

    def alive(self, service: ServiceName, replica: int = 0) -> bool:
        return self._supervisor.alive(process_name(service, replica))

    def pid(self, service: ServiceName, replica: int = 0) -> int:
        return self._supervisor.pid(process_name(service, replica))

    async def kill(self, service: ServiceName, replica: int = 0, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to a replica as a fault would; returns after its end if it is SIGKILL, which its terminator
        gets too, as when their machine dies."""
        await self._supervisor.kill(process_name(service, replica), number)
        if number == signal.SIGKILL and self._transport == "native":
            await self._supervisor.kill(terminator_name(service, replica), number)

    async def stop(self, service: ServiceName, replica: int = 0) -> None:
        """Stops a replica cleanly."""
        if self._transport == "native":
            await self._terminator(service, replica).drain()
        await self._supervisor.stop(process_name(service, replica))
        await self._supervisor.stop(terminator_name(service, replica))

    async def restart(self, service: ServiceName, replica: int = 0) -> None:
        """Stops a replica if it runs, starts it with its settings of now, and waits until it is ready."""
        await self.stop(service, replica)
        await self._start_service(service, replica)

    async def stop_postgres(self) -> None:
        await self._postgres.stop()

    async def kill_postgres(self) -> None:
        """`kill -9`, as a crash of the database machine."""
        await self._postgres.kill()

    async def start_postgres(self) -> None:
        """Starts PostgreSQL again, on the same port."""
        await self._postgres.start()

    async def stop_redis(self) -> None:
        await self._redis.stop()

    async def kill_redis(self) -> None:
        """`kill -9` of Redis; all that it held is lost."""
        await self._redis.kill()

    async def start_redis(self) -> None:
        """Starts Redis again, on the same port, empty."""
        await self._redis.start()

    async def _start(self) -> None:
        await self._end_former()
        wanted = [POSTGRES, REDIS, *endpoints(self._replicas, SERVICES), *([WITNESS] if self._with_witness else [])]
        ports = self.state.ports(wanted, preferred=self._preferred_ports)
        self.authority = CertificateAuthority(self.state)
        witness = LocalWitness.prepare(self.state, ports.address(WITNESS)) if self._with_witness else None
        self._surroundings = Surroundings(
            self.state,
            ports,
            self._replicas,
            ensure_token_keys(self.state),
            self._transport,
            witness.policy if witness else None,
        )
        self._resources.enter_context(self._surroundings.sockets_made())
        self._postgres = Postgres(self.state, self._supervisor, ports[POSTGRES])
        self._redis = Redis(self.state, self._supervisor, ports[REDIS])
        for service in SERVICES:
            self.authority.service(service)
            ensure_keyring(self.state, service)
            write_dsn(self.state, service, self.dsn(service))
        await _together((self._start_databases(), self._redis.start()))
        if self._migrate is not None:
            await _together(self._run_migration(self._migrate, service) for service in self.services)
        if witness is not None:
            await self._supervisor.start(witness.spec(ROOT, lambda: accepts_tcp(witness.address)))
        await _together(
            self._start_service(service, replica)
            for service in self.services
            for replica in range(self._replicas[service])
        )
        if self._openid:
            await self._start_openid()

    async def _start_openid(self) -> None:
        await self._supervisor.start(
            ProcessSpec(
                name="openid",
                argv=(sys.executable, "-m", "ops.openid"),
                environ=process_environment(None, {"DMP_STATE": str(self.state.root)}),
                cwd=ROOT,
                ready=lambda: accepts_tcp(self.ports.address(OPENID)),
                stop_seconds=5.0,
            )
        )

    async def _start_databases(self) -> None:
        await self._postgres.start()
        await provision(self.superuser_dsn(), self.state, SERVICES)

    async def _run_migration(self, migrate: Migrate, service: ServiceName) -> None:
        await migrate(service, self.dsn(service))

    async def _start_service(self, service: ServiceName, replica: int) -> None:
        argv = tuple(self._command(service))
        await self._supervisor.start(
            ProcessSpec(
                name=process_name(service, replica),
                argv=argv,
                environ=self.env(service, replica),
                cwd=ROOT,
                ready=lambda: self._serves(service, replica),
                order=1 + SERVICES.index(service),
            )
        )
        if self._transport == "native":
            terminator, watcher = self._terminator(service, replica), self.operator(WATCHER)
            # It ends after its service, whose last answers pass through it.
            await self._supervisor.start(
                terminator.spec(order=0, ready=lambda: serves_grpc(terminator.address, watcher))
            )

    async def _serves(self, service: ServiceName, replica: int) -> None:
        if self._transport == "native":
            await serves_grpc_at_socket(self.socket(service, replica))
        else:
            await serves_grpc(self.address(service, replica), self.operator(WATCHER))
        if service == "gateway":
            await accepts_tcp(self.http_address(replica))

    def _terminator(self, service: ServiceName, replica: int) -> Terminator:
        """As grpcio, the gateway's relay asks for no certificate: its callers are known by their tokens."""
        name = terminator_name(service, replica)
        return Terminator(
            name=name,
            address=self.address(service, replica),
            socket=self.socket(service, replica),
            identity=self.authority.service(service),
            directory=self.state.root / "envoy" / name,
            client_certificate=service != "gateway",
        )

    async def _end_former(self) -> None:
        """Ends what a killed stack on this state has left: PostgreSQL first, and cleanly."""
        await end_former_server(place(self.state))
        await self._supervisor.end_former()

    def _listen_to_signals(self) -> None:
        if self._signals:
            loop = asyncio.get_running_loop()
            for number in _STOP_SIGNALS:
                loop.add_signal_handler(number, self._on_signal)
                self._resources.callback(loop.remove_signal_handler, number)

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._supervisor.hurry()
        self._stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    async def _stop(self) -> None:
        try:
            await self._supervisor.stop_all()
        finally:
            self._resources.close()


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all at once; the first error cancels the rest and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
