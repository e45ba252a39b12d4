"""Calls that come together and are served together each have their own answer, refusal, place and end, as if each had
come alone (docs/decisions/0035-served-together.md). On the native transport, and relayed by the gateway on either."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import grpc
import pytest
import pytest_asyncio

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import relay_pb2
from services.runtime import relayed
from services.runtime.context import Call
from services.runtime.errors import DmpError, from_status
from services.runtime.identifiers import dossier_name, new_health_id, uuid7
from services.runtime.together import Asked, Outcome
from tests.platform_calls import bearer, invoke, refusal_of, signed
from tests.transports import CLIENT, METHODS, Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET: Final = METHODS["/dmp.document.v1.DocumentService/GetDocument"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Served]:
    async with served("native", waiting_seconds=60.0) as service:
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relaying() -> AsyncIterator[Served]:
    async with served("grpcio") as service:
        yield service


@pytest.fixture(autouse=True)
def as_it_was(running: Served, relaying: Served) -> None:
    for service in (running, relaying):
        service.servicer.get, service.servicer.get_many = type(service.servicer)().get, None


class Batches:
    """Serves many by their names; keeps what was served together, and holds the first batch while it is told to."""

    def __init__(self) -> None:
        self.asked: list[list[Call]] = []
        self.outcomes: dict[str, Outcome] = {}
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, asked: Sequence[Asked]) -> Sequence[Outcome]:
        self.asked.append([call for call, _ in asked])
        await self.held.wait()
        return [self.outcomes.get(request.name, answer(request.name)) for _, request in asked]


def a_name() -> str:
    return f"{dossier_name(new_health_id())}/documents/{uuid7()}"


def answer(name: str) -> bytes:
    return document_pb2.GetDocumentResponse(
        document=document_pb2.Document(name=name, title="together")
    ).SerializeToString()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def ask(running: Served, channel: grpc.aio.Channel, name: str, token: list[tuple[str, str]]) -> str | int:
    """The title in the answer, empty when it was served alone; or the reason of the refusal."""
    try:
        (told,) = await invoke(channel, GET.path, document_pb2.GetDocumentRequest(name=name), token)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    document = document_pb2.GetDocumentResponse.FromString(told).document
    assert document.name == name
    return document.title


async def test_each_of_many_has_its_own_answer_refusal_or_way_alone(running: Served) -> None:
    batches, channel, names = Batches(), running.channel(), [a_name() for _ in range(120)]
    running.servicer.get_many = batches
    batches.outcomes = {names[7]: None, names[8]: DmpError(reasons.ERROR_REASON_AUDIT_UNAVAILABLE), names[9]: None}
    told = await asyncio.gather(*(ask(running, channel, name, running.bearer()) for name in names))
    assert (told[7], told[8], told[9]) == ("", reasons.ERROR_REASON_AUDIT_UNAVAILABLE, "")
    assert set(told[:7] + told[10:]) == {"together"}
    assert sum(map(len, batches.asked)) == len(names)
    assert len(batches.asked) < len(names) / 3
    assert all(call.peer == call.client_id == CLIENT and call.health_id for batch in batches.asked for call in batch)
    await until(lambda: running.limit.taken == 0)


async def test_what_is_left_to_do_for_one_call_keeps_it_in_its_place_and_no_other_waiting(running: Served) -> None:
    batches, channel, names, found = Batches(), running.channel(), [a_name() for _ in range(8)], asyncio.Event()

    async def late() -> bytes:
        await found.wait()
        return answer(names[0])

    async def blocked() -> bytes:
        raise DmpError(reasons.ERROR_REASON_BLOCKED)

    async def defect() -> bytes:
        raise ValueError

    running.servicer.get_many = batches
    batches.outcomes = {names[0]: late, names[1]: blocked, names[2]: defect}
    calls = [asyncio.create_task(ask(running, channel, name, running.bearer())) for name in names]
    told = await asyncio.gather(*calls[1:])
    assert told == [reasons.ERROR_REASON_BLOCKED, reasons.ERROR_REASON_INTERNAL, *["together"] * 5]
    await until(lambda: running.limit.taken == 1)
    assert not calls[0].done()
    found.set()
    assert await calls[0] == "together"
    await until(lambda: running.limit.taken == 0)


async def test_a_call_that_comes_later_is_in_a_later_batch(running: Served) -> None:
    batches, channel = Batches(), running.channel()
    running.servicer.get_many = batches
    batches.held.clear()
    first = asyncio.create_task(ask(running, channel, a_name(), running.bearer("first")))
    await until(lambda: len(batches.asked) == 1)
    later = [asyncio.create_task(ask(running, channel, a_name(), running.bearer(f"later-{n}"))) for n in range(20)]
    await until(lambda: running.limit.taken == 21)
    batches.held.set()
    assert {await first, *await asyncio.gather(*later)} == {"together"}
    assert [call.request_id for call in batches.asked[0]] == ["first"]


async def test_who_may_not_is_refused_alone_and_recorded(running: Served) -> None:
    batches, channel = Batches(), running.channel()
    running.servicer.get_many = batches
    other = bearer(running.token(access_pb2.CALLER_KIND_INTERNAL, "another"), "not-mine")
    told = await asyncio.gather(
        ask(running, channel, a_name(), running.bearer()),
        ask(running, channel, a_name(), other),
        ask(running, channel, a_name(), []),
        ask(running, channel, "dossiers/000000000000000000000/documents/x", running.bearer("nowhere")),
    )
    assert list(told) == [
        "together",
        reasons.ERROR_REASON_CLIENT_CERTIFICATE,
        reasons.ERROR_REASON_TOKEN_MISSING,
        reasons.ERROR_REASON_INVALID_FIELD,
    ]
    refused = {event.request_id for event in running.recorded}
    assert {"not-mine", "nowhere"} <= refused
    assert sum(map(len, batches.asked)) == 1


async def test_an_emergency_goes_before_and_alone(running: Served) -> None:
    batches, channel = Batches(), running.channel()
    running.servicer.get_many = batches
    claims = ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
        subject="899700000001",
        caller=access_pb2.CALLER_KIND_INTERNAL,
        client_id=CLIENT,
        access_mode=context_pb2.ACCESS_MODE_REGULATION,
    )
    urgent = bearer(signed(running.state, claims, sorted(GET.scopes), now=time.time()))
    batches.held.clear()
    stuck = [asyncio.create_task(ask(running, channel, a_name(), running.bearer())) for _ in range(200)]
    await until(lambda: running.limit.taken == 200)
    assert await ask(running, channel, a_name(), urgent) == ""
    batches.held.set()
    assert set(await asyncio.gather(*stuck)) == {"together"}


async def test_a_defect_or_an_unreachable_neighbour_is_the_answer_of_the_whole_batch(running: Served) -> None:
    channel = running.channel()

    async def defect(asked: Sequence[Asked]) -> Sequence[Outcome]:
        raise ZeroDivisionError

    async def unreachable(asked: Sequence[Asked]) -> Sequence[Outcome]:
        raise DmpError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE, metadata={"dependency": "consent"})

    for serve, reason in (
        (defect, reasons.ERROR_REASON_INTERNAL),
        (unreachable, reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE),
    ):
        running.servicer.get_many = serve
        told = await asyncio.gather(*(ask(running, channel, a_name(), running.bearer()) for _ in range(30)))
        assert set(told) == {reason}
    await until(lambda: running.limit.taken == 0)


async def test_who_waits_for_a_place_is_served_together_when_it_has_one(running: Served) -> None:
    batches, channels = Batches(), [running.channel() for _ in range(3)]
    running.servicer.get_many = batches
    batches.held.clear()
    most = running.settings.concurrency_max + 40
    calls = [
        asyncio.create_task(ask(running, channels[number % 3], a_name(), running.bearer())) for number in range(most)
    ]
    care = access_pb2.TRAFFIC_CLASS_CARE
    await until(lambda: running.limit.taken + running.limit.waiting(care) == most)
    assert running.limit.waiting(care) >= 40
    batches.held.set()
    assert set(await asyncio.gather(*calls)) == {"together"}
    await until(lambda: running.limit.taken == 0)


async def test_a_client_that_goes_away_leaves_the_others_alone(running: Served) -> None:
    batches, channel, leaving = Batches(), running.channel(), running.channel()
    running.servicer.get_many = batches
    batches.held.clear()
    gone = [asyncio.create_task(ask(running, leaving, a_name(), running.bearer())) for _ in range(10)]
    stay = [asyncio.create_task(ask(running, channel, a_name(), running.bearer())) for _ in range(10)]
    await until(lambda: running.limit.taken == 20)
    for task in gone:
        task.cancel()
    batches.held.set()
    assert set(await asyncio.gather(*stay)) == {"together"}
    await until(lambda: running.limit.taken == 0)


async def test_what_is_served_together_is_answered_before_a_stop_ends() -> None:
    async with served("native") as service:
        batches, channel = Batches(), service.channel()
        service.servicer.get_many = batches
        batches.held.clear()
        calls = [asyncio.create_task(ask(service, channel, a_name(), service.bearer())) for _ in range(30)]
        await until(lambda: service.limit.taken == 30)
        stopping = asyncio.create_task(service.server.stop(10))
        await asyncio.sleep(0.05)
        batches.held.set()
        assert set(await asyncio.gather(*calls)) == {"together"}
        await stopping


@pytest.mark.parametrize("transport", ["grpcio", "native"])
async def test_relayed_calls_are_served_together_with_all_others(
    running: Served, relaying: Served, transport: str
) -> None:
    service = relaying if transport == "grpcio" else running
    batches = Batches()
    service.servicer.get_many = batches
    names = [a_name() for _ in range(100)]
    batches.outcomes = {names[3]: None, names[4]: DmpError(reasons.ERROR_REASON_AUDIT_UNAVAILABLE)}
    token = service.token(access_pb2.CALLER_KIND_PARTNER, "clinic")
    calls = [
        relay_pb2.RelayedCall(
            request=document_pb2.GetDocumentRequest(name=name).SerializeToString(),
            token="a.b.c" if number == 5 else token,
            request_id=f"r-{number}",
            timeout_ms=10_000,
        )
        for number, name in enumerate(names)
    ]
    channel = service.channel(service.authority.service("gateway"))
    (data,) = await invoke(channel, relayed.PATH, relay_pb2.RelayCallsRequest(path=GET.path, calls=calls))
    results = relay_pb2.RelayCallsResponse.FromString(data).results
    documents = [document_pb2.GetDocumentResponse.FromString(result.response).document for result in results]
    assert [from_status(results[at].status).reason for at in (4, 5)] == [
        reasons.ERROR_REASON_AUDIT_UNAVAILABLE,
        reasons.ERROR_REASON_TOKEN_INVALID,
    ]
    assert [document.name for document in documents[:4] + documents[6:]] == names[:4] + names[6:]
    assert [document.title for document in documents[2:4]] == ["together", ""]
    assert [call.request_id for batch in batches.asked for call in batch] == [f"r-{n}" for n in range(100) if n != 5]
    assert {call.peer for batch in batches.asked for call in batch} == {"gateway"}
