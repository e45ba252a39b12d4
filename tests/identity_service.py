"""An identity service in a database of its own, and made-up people: what the tests of identity share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1.coding_pb2 import Identifier
from dmp.common.v1.context_pb2 import ActingContext
from dmp.common.v1.links_pb2 import LinkedSet
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.insi import NationalIdentityService, NoNationalService
from services.identity.lookup import Lookups
from services.identity.nir import DEMO_NIR_OID, NIA_OID, NIR_OID, TEST_NIR_OID, nir_key
from services.identity.parts import IdentityParts, Surroundings
from services.identity.propagation import SERVICES
from services.identity.service import IdentityServicer
from services.runtime import postgres
from services.runtime.access import methods_of
from services.runtime.authentication import route
from services.runtime.context import Call
from services.runtime.errors import DmpError, from_status, unavailable
from services.runtime.identifiers import parse_health_id
from services.runtime.keyring import Keyring
from services.runtime.trail import Trail

__all__ = ["DEMO_NIR_OID", "NIA_OID", "NIR_OID", "TEST_NIR_OID", "Identifier"]

MIGRATIONS = Path("services/identity/migrations")
TABLES = (
    "person, person_history, identifier, match_block, registration_lock, rematch_due, dossier_key, idempotency, "
    "outbox, outbox_parked, link_set, link_ledger, link_delivery, possible_duplicate, identifier_domain, "
    "practitioner, structure, practitioner_role, directory_import, directory_finding"
)
METHODS = methods_of([pb.DESCRIPTOR.services_by_name["IdentityService"]])
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
LOCAL_OID = "1.2.250.1.999.1"
KEYRING = Keyring({1: bytes(range(32))}, current=1, digests=[1])
SOFTWARE = ActingContext(
    actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
    subject="899700245667",
    profession="10",
    authentication_mode=context_pb2.AUTHENTICATION_MODE_DIRECT,
)


def ins(number: str, system: str = TEST_NIR_OID) -> Identifier:
    """A national number of 13 characters, with its key."""
    return Identifier(system=system, value=f"{number}{nir_key(number):02d}")


def local(value: str, system: str = LOCAL_OID) -> Identifier:
    """A hospital's own number."""
    return Identifier(system=system, value=value)


def traits(
    birth_name: str = "Pat-Trois",
    first: str = "Dominique",
    *,
    given: str | None = None,
    sex: pb.Sex.ValueType = pb.SEX_FEMALE,
    birth_date: str = "1979-03-28",
    birth_place: str = "51215",
    used_name: str = "",
    used_given_name: str = "",
) -> pb.Traits:
    """Somebody."""
    return pb.Traits(
        birth_name=birth_name,
        birth_given_names=f"{first} Marie-Louise" if given is None else given,
        first_birth_given_name=first,
        sex=sex,
        birth_date=birth_date,
        birth_place=birth_place,
        used_name=used_name,
        used_given_name=used_given_name,
    )


DOMINIQUE = ins("2790351215189")
RUTH = ins("2770763220829")


_SERVICE = "/dmp.identity.v1.IdentityService"


class Clock:
    """The time of the service; `tick` moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float = 1.0) -> datetime:
        """The time before, as of which nothing later is known."""
        before = self.now
        self.now += timedelta(seconds=seconds)
        return before


class FakeConsent:
    """Answers every check with `answer`, but those about a dossier of `answers`; `actions` are those asked for."""

    def __init__(self) -> None:
        self.answer = consent_pb2.Decision(permitted=True)
        self.answers: dict[int, consent_pb2.Decision] = {}
        self.actions: list[int] = []

    async def check(self, call: Call, health_id: int, action: consent_pb2.Action.ValueType) -> consent_pb2.Decision:
        self.actions.append(action)
        return self.answers.get(health_id, self.answer)


class Sibling:
    """A service that is told of links; `down` makes it unreachable."""

    def __init__(self) -> None:
        self.sets: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.down = False

    async def tell(self, sets: Sequence[LinkedSet]) -> None:
        if self.down:
            raise unavailable("peer")
        for each in sets:
            for member in each.health_ids:
                if self.sets.get(member, (0, ()))[0] < each.revision:
                    self.sets[member] = (each.revision, tuple(each.health_ids))

    def members(self, health_id: int) -> tuple[int, ...]:
        """All who are one person with this one, the survivor first."""
        return self.sets.get(health_id, (0, (health_id,)))[1]


class Events:
    """The trail as a list; `down` makes it unreachable."""

    def __init__(self) -> None:
        self.recorded: list[audit_pb2.AuditEvent] = []
        self.down = False

    async def append(self, events: list[audit_pb2.AuditEvent]) -> Sequence[audit_pb2.AppendReceipt | DmpError]:
        if self.down:
            raise ConnectionError("the audit service is down")
        self.recorded += events
        return [audit_pb2.AppendReceipt(leaf_index=index) for index, _ in enumerate(events)]


@dataclass
class People:
    """The service, its trail, what it told the others of links, and calls to it."""

    pool: postgres.Pool
    parts: IdentityParts
    events: Events
    siblings: dict[str, Sibling]
    clock: Clock
    consent: FakeConsent
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def servicer(self) -> IdentityServicer:
        return self.parts.servicer

    @property
    def lookups(self) -> Lookups:
        return self.parts.lookups

    async def ask(
        self,
        method: str,
        request: Any,
        *,
        caller: int = access_pb2.CALLER_KIND_INTERNAL,
        actor: ActingContext = SOFTWARE,
        client: str = "software-1",
    ) -> Any:
        """Any call, routed as the dispatcher does: dossier and request id are read from the request."""
        if METHODS[f"{_SERVICE}/{method}"].mutation and not request.request_id:
            request.request_id = f"request-{next(self.numbers)}"
        call = self.call(method, actor, caller=caller)._replace(client_id=client)
        return await getattr(self.servicer, method)(request, route(call, request))

    def call(
        self,
        method: str,
        actor: ActingContext = SOFTWARE,
        request_id: str = "",
        caller: int = access_pb2.CALLER_KIND_PARTNER,
    ) -> Call:
        """A call as the dispatcher hands it over."""
        return Call(
            actor=actor,
            caller=caller,
            client_id="software-1",
            peer="gateway",
            request_id=request_id or f"request-{next(self.numbers)}",
            deadline=None,
            traceparent="",
            method=METHODS[f"{_SERVICE}/{method}"],
        )

    async def create(
        self,
        who: pb.Traits | None = None,
        *identifiers: Identifier,
        request_id: str = "",
        actor: ActingContext = SOFTWARE,
        status: pb.IdentityStatus.ValueType = pb.IDENTITY_STATUS_UNSPECIFIED,
        accept: bool = False,
    ) -> pb.CreatePersonResponse:
        call = self.call("CreatePerson", actor, request_id)
        person = pb.Person(traits=traits() if who is None else who, identifiers=identifiers, status=status)
        request = pb.CreatePersonRequest(person=person, request_id=call.request_id, accept_possible_duplicate=accept)
        return await self.servicer.CreatePerson(request, call)

    async def register(self, who: pb.Traits | None = None, *identifiers: Identifier) -> int:
        """The health id of a registration."""
        return health_id_of((await self.create(who, *identifiers)).person)

    async def resolve(
        self, *identifiers: Identifier, caller: int = access_pb2.CALLER_KIND_SERVICE, actor: ActingContext = SOFTWARE
    ) -> list[int | str]:
        """Health ids, or names of reasons."""
        call = self.call("BatchResolveIdentifiers", actor, caller=caller)
        request = pb.BatchResolveIdentifiersRequest(identifiers=identifiers)
        response = await self.servicer.BatchResolveIdentifiers(request, call)
        return [
            result.health_id if result.WhichOneof("outcome") == "health_id" else from_status(result.status).reason_name
            for result in response.results
        ]

    async def verify(self, *items: tuple[int, pb.PatientClaim]) -> list[str]:
        """`verified`, or names of reasons."""
        requests = [
            pb.VerifyPatientRequest(context=context_pb2.ItemContext(actor=SOFTWARE), health_id=health_id, claim=stated)
            for health_id, stated in items
        ]
        call = self.call("BatchVerifyPatients", ActingContext(), caller=access_pb2.CALLER_KIND_SERVICE)
        response = await self.servicer.BatchVerifyPatients(pb.BatchVerifyPatientsRequest(requests=requests), call)
        return [
            "verified" if result.WhichOneof("outcome") == "verified" else from_status(result.status).reason_name
            for result in response.results
        ]

    async def told(self) -> list[audit_pb2.AuditEvent]:
        """The events in the outbox, oldest first."""
        rows = await self.pool.fetch("SELECT payload FROM outbox ORDER BY created_at, event_id")
        return [audit_pb2.AuditEvent.FromString(row["payload"]) for row in rows]


def health_id_of(person: pb.Person) -> int:
    """The health id in a person's name."""
    return parse_health_id(person.name.removeprefix("people/"), "name")


def claim(
    *identifiers: Identifier,
    family: Sequence[str] = (),
    given: Sequence[str] = (),
    sex: pb.Sex.ValueType = pb.SEX_UNSPECIFIED,
    birth_date: str = "",
) -> pb.PatientClaim:
    """What a document says of its patient."""
    return pb.PatientClaim(
        identifiers=identifiers, family_names=family, given_names=given, sex=sex, birth_date=birth_date
    )


def migrated(dsn: str) -> str:
    """The DSN of a database once it has this service's migrations; for fixtures outside of an event loop."""
    asyncio.run(postgres.migrate(dsn, MIGRATIONS, service="identity"))
    return dsn


@asynccontextmanager
async def identity_service(dsn: str, insi: NationalIdentityService | None = None) -> AsyncIterator[People]:
    """The service on a migrated database, which is emptied first. The client of the tests feeds LOCAL_OID."""
    pool = await postgres.connect(dsn, max_size=6, name="test-identity")
    await pool.execute(f"TRUNCATE {TABLES}")
    await pool.execute("UPDATE key_rotation SET phase = 'idle', generation = 0, position = 0, people_done = 0")
    await pool.execute("INSERT INTO identifier_domain VALUES ($1, 'His', 'software-1')", LOCAL_OID)
    events, clock = Events(), Clock()
    siblings = {name: Sibling() for name in SERVICES}
    consent = FakeConsent()
    around = Surroundings(
        trail=Trail(events.append),
        tellers={name: sibling.tell for name, sibling in siblings.items()},
        checks=consent,
        insi=insi or NoNationalService(),
        clock=clock,
    )
    parts = IdentityParts(pool, Keyring({1: bytes(range(32))}, current=1, digests=[1]), around)
    try:
        yield People(pool, parts, events, siblings, clock, consent)
    finally:
        await parts.close()
        await pool.close()


@pytest.fixture(scope="module")
def identity_database(postgres_url: Callable[[], str]) -> str:
    """A database with the service's tables, for the tests of one module."""
    return migrated(postgres_url())


@pytest.fixture
async def people(identity_database: str) -> AsyncIterator[People]:
    """The service on that database, emptied."""
    async with identity_service(identity_database) as service:
        yield service


@contextmanager
def refused(reason: str, field: str = "", rule: str = "") -> Iterator[pytest.ExceptionInfo[DmpError]]:
    """The block is refused for this reason, naming this field and rule alone if they are given."""
    with pytest.raises(DmpError) as caught:
        yield caught
    assert caught.value.reason_name == reason
    if field:
        assert [(violation.field, violation.rule) for violation in caught.value.fields] == [(field, rule)]
