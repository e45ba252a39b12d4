"""The whole platform, started once for the run: five processes, PostgreSQL, Redis; what takes its telemetry and mails.

Lives here: the fixture `platform` and what the tests of the running platform ask of it. It lives in the event loop of
the session: its tests say `pytestmark = pytest.mark.asyncio(loop_scope="session")`. Who breaks a process takes the
other one (`breakable_platform`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

import asyncpg
import grpc
import httpx
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.identity.v1 import identity_pb2
from ops.acts import Acts
from ops.demo.cda_document import DocumentKind, cda_document
from ops.demo.people import DemoPerson
from ops.demo_platform import person_message
from ops.endpoints import publish
from ops.local import postgres_install
from ops.local.databases import database_name
from ops.local.registrations import INTERNAL
from ops.local.stack import Command, Stack, python_module
from ops.local.state import ServiceName, State
from ops.migrations import migrate
from ops.session import Session, Statement
from services.audit.leaf import EventPlace, open_clear
from services.runtime.access import MethodAccess, methods_of
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.keyring import Keyring
from services.runtime.settings import Transport
from tests.mailbox import Mailbox
from tests.platform_people import Caregiver, caregivers, unmistakable_people

T = TypeVar("T")

METHODS: Final[Mapping[str, MethodAccess]] = methods_of(
    file.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]
    for name, file in (
        ("identity", identity_pb2),
        ("consent", consent_pb2),
        ("rights", rights_pb2),
        ("document", document_pb2),
        ("clinical", clinical_pb2),
        ("audit", audit_pb2),
    )
)
"""Every method of the platform by its path."""

TRANSPORT: Final = cast(Transport, os.environ.get("TEST_TRANSPORT", "grpcio"))
"""What the platforms of this run are served by: `TEST_TRANSPORT=native make test` tries the other."""

_EVENTS: Final = """
SELECT log_id, leaf_index, health_id, event_id, sealed FROM event WHERE leaf_index >= $1 ORDER BY log_id, leaf_index
"""


def method(name: str) -> MethodAccess:
    """A method by its own name."""
    return next(each for path, each in METHODS.items() if path.endswith(f"/{name}"))


def service_of(access: MethodAccess) -> ServiceName:
    """The service that a method belongs to."""
    names: dict[str, ServiceName] = {
        "identity": "identity",
        "consent": "consent",
        "document": "document",
        "audit": "audit",
    }
    return names[access.path.split(".")[1]]


@dataclass(frozen=True, slots=True)
class Patient:
    """A registered person, and the physician who opened the dossier and is authorised on it."""

    health_id: int
    person: DemoPerson
    caregiver: Caregiver
    acts: Acts

    @property
    def dossier(self) -> str:
        """The resource name of the dossier."""
        return dossier_name(self.health_id)

    @property
    def identifier(self) -> str:
        """The INS as a FHIR search parameter."""
        return f"urn:oid:{self.person.nir_oid}|{self.person.nir}"

    def cda(self, kind: DocumentKind = DocumentKind.CONSULTATION, seed: int = 1, **more: int) -> bytes:
        """A CDA about this patient, written by the physician."""
        professional, structure = self.caregiver
        return cda_document(self.person, professional, structure, kind, seed, **more)  # type: ignore[arg-type]


@dataclass(slots=True)
class Collector:
    """Takes what the services export (OTLP over gRPC), as bytes."""

    spans: list[bytes] = field(default_factory=list)
    metrics: list[bytes] = field(default_factory=list)
    port: int = 0
    _server: grpc.Server | None = None

    def start(self) -> None:
        """Listen on a free port, on threads of its own."""
        self._server = grpc.server(ThreadPoolExecutor(4))
        for kind, kept in (("trace.v1.Trace", self.spans), ("metrics.v1.Metrics", self.metrics)):
            handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_keep_in(kept))
            name = f"opentelemetry.proto.collector.{kind}Service"
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.stop(grace=1).wait()


def _keep_in(kept: list[bytes]) -> Callable[[bytes, object], bytes]:
    def export(data: bytes, _: object) -> bytes:
        kept.append(data)
        return b""

    return export


class Platform:
    """A running platform, a client of it, and the people whom its tests have registered."""

    def __init__(self, stack: Stack, session: Session, collector: Collector, mailbox: Mailbox) -> None:
        self.stack = stack
        self.session = session
        self.collector = collector
        self.mailbox = mailbox
        self.people: list[DemoPerson] = []
        self._people = unmistakable_people()
        self._caregivers = caregivers()
        self._numbers = itertools.count(1)

    @property
    def state(self) -> State:
        """Where its keys, logs and endpoints are."""
        return self.stack.state

    # --- who acts ---

    def caregiver(self) -> Caregiver:
        """A physician whom no other test knows."""
        return next(self._caregivers)

    def person(self) -> DemoPerson:
        """A person whom no other test knows; not registered yet."""
        person = next(self._people)
        self.people.append(person)
        return person

    def acts(self, statement: Statement) -> Acts:
        """What someone may do through the commands' own code."""
        return Acts(self.session, statement)

    async def registered(self) -> Patient:
        """A registered person without a dossier."""
        person, caregiver = self.person(), self.caregiver()
        acts = self.acts(caregiver.statement())
        return Patient(await acts.register(person_message(person)), person, caregiver, acts)

    async def patient(self, *, authorised: bool = True) -> Patient:
        """A registered person with an open dossier."""
        patient = await self.registered()
        await patient.acts.open(patient.health_id)
        if authorised:
            await patient.acts.authorise(patient.health_id)
        return patient

    async def patient_with_document(self) -> tuple[Patient, document_pb2.Document]:
        """A patient with one document."""
        patient = await self.patient()
        return patient, await patient.acts.submit(patient.health_id, patient.cda(), "consultation.xml")

    async def block(self, health_id: int, caregiver: Caregiver) -> None:
        """The patient shuts a physician out; returns once that is acknowledged."""
        request = consent_pb2.BlockProfessionalRequest(
            parent=dossier_name(health_id), grantee=grantee_of(caregiver), request_id=self.request_id()
        )
        who = Statement.patient(health_id)
        await self.session.call("consent", "BlockProfessional", request, consent_pb2.BlockProfessionalResponse, who)

    # --- ways in ---

    def channel(self, way: str, access: MethodAccess, client_id: str = INTERNAL) -> grpc.aio.Channel:
        """A channel to a method: `relay`, or `direct` with the certificate of an internal client."""
        return self.session.channel("relay" if way == "relay" else service_of(access), client_id)

    async def token(self, way: str, statement: Statement, scope: str = "") -> str:
        """A token of a statement at the software that uses this way."""
        own = statement if way == "relay" else Statement(INTERNAL, statement.fields)
        return await self.session.token(own, scope)

    async def get(self, path: str, statement: Statement, **parameters: str) -> httpx.Response:
        """An HTTP GET at the gateway with a token of `statement`."""
        headers = {"authorization": f"Bearer {await self.session.token(statement)}"}
        return await self.session.http.get(path, params=parameters or None, headers=headers)

    # --- what is in the databases ---

    @asynccontextmanager
    async def database(self, service: ServiceName) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """The database of a service, seen from outside."""
        connection = await asyncpg.connect(self.stack.superuser_dsn(database_name(service)))
        try:
            yield connection
        finally:
            await connection.close()

    async def log_size(self) -> int:
        """How many events the audit log holds."""
        async with self.database("audit") as connection:
            return int(await connection.fetchval("SELECT coalesce(max(leaf_index) + 1, 0) FROM event"))

    async def log_since(self, place: int) -> list[audit_pb2.AuditEvent]:
        """The events from a place on, opened with the keys of the audit service."""
        keys = DossierKeys(Keyring.from_directory(self.state.keyring("audit")), "audit")
        async with self.database("audit") as connection:
            rows = await connection.fetch(_EVENTS, place)
            opened = await keys.for_read(connection, [row["health_id"] for row in rows])
        events = []
        for row in rows:
            where = EventPlace(row["health_id"], row["event_id"].bytes, row["log_id"])
            clear = open_clear(opened[row["health_id"]], row["sealed"], where).clear
            events.append(audit_pb2.AuditEvent.FromString(clear))
        return events

    async def trail(self, health_id: int, *actions: str) -> list[audit_pb2.AuditEvent]:
        """The whole trail of a dossier as its patient sees it, once it can be read and holds every one of `actions`."""
        return await eventually(
            lambda: until_acknowledged(lambda: self._trail(health_id)),
            lambda events: set(actions) <= {event.action for event in events},
        )

    async def _trail(self, health_id: int) -> list[audit_pb2.AuditEvent]:
        acts, events, page = self.acts(Statement.patient(health_id)), [], ""
        while True:
            answer = await acts.trail(health_id, page)
            events += [item.event for item in answer.events]
            page = answer.next_page_token
            if not page:
                return events

    def request_id(self) -> str:
        """A request id that no other call has."""
        return f"test-request-{next(self._numbers):08d}"


def grantee_of(caregiver: Caregiver) -> consent_pb2.Grantee:
    """The physician, as one who is authorised or shut out."""
    return consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=caregiver.professional.idnps)


async def eventually(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, seconds: float = 5.0, every: float = 0.05
) -> T:
    """What `look` sees as soon as it is good; the last of it, for the caller to fail on, when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if good(seen) or time.monotonic() > deadline:
            return seen
        await asyncio.sleep(every)


async def until_acknowledged(call: Callable[[], Awaitable[T]], *, seconds: float = 20.0) -> T:
    """Call again, as the outermost caller does: what is UNAVAILABLE, or not known to have happened, with the same
    request id. Raises what the last call raised when time is up, and anything else at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except DmpError as error:
            transient = error.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
            if not transient or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.02)


@asynccontextmanager
async def running_platform(
    overrides: Mapping[str, str] | None = None, *, command: Command = python_module
) -> AsyncIterator[Platform]:
    """A platform in a state directory of its own; gone with its data afterwards."""
    root = Path(tempfile.mkdtemp(prefix="dmp-platform-"))
    root.chmod(0o755)  # the user of PostgreSQL passes through; each part protects its own files
    state = State.open(root / "state")
    collector = Collector()
    collector.start()
    mailbox = Mailbox()
    mailbox.start()
    exporting = {"DMP_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "DMP_TRACE_RATIO": "1"}
    by_mail = {
        "DMP_AUDIT_SMTP_HOST": "127.0.0.1",
        "DMP_AUDIT_SMTP_PORT": str(mailbox.port),
        "DMP_AUDIT_SMTP_START_TLS": "false",
        "DMP_AUDIT_NOTICE_SENDER": "avis@dmp.test",
    }
    try:
        async with (
            Stack(
                state,
                migrate=migrate,
                transport=TRANSPORT,
                openid=True,
                command=command,
                overrides={**exporting, **(overrides or {})},
                own={"audit": by_mail},
            ) as stack,
            Session(state, publish(stack)) as session,
        ):
            yield Platform(stack, session, collector, mailbox)
    finally:
        collector.stop()
        mailbox.stop()
        postgres_install.remove(state)
        shutil.rmtree(root)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def platform() -> AsyncIterator[Platform]:
    """The platform of this run. Nobody stops any of its parts; test_platform_privacy, which is last, looks into it."""
    async with running_platform() as running:
        yield running


def lines_of(state: State) -> Iterator[tuple[str, bytes]]:
    """Every line of every log file of a state, with the file's name."""
    for path in sorted((state.root / "log").glob("*.log")):
        for line in path.read_bytes().splitlines():
            yield path.name, line
