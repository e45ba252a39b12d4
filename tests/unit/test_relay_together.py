"""What the gateway relays together: each call by its own client, quota, token and answer; whoever is not plainly to be
served goes alone, where refusals are made and recorded (docs/decisions/0035-served-together.md)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import relay_pb2
from gateway.callers import Callers
from gateway.clients import Clients
from gateway.fairness import Fairness
from gateway.quotas import Quotas
from gateway.registration import QuotaRegistration, Registration, SoftwareRegistration
from gateway.relay_together import RelayTogether
from gateway.store import Standing, Store
from gateway.usage import Usage
from services.runtime.access import methods_of
from services.runtime.channels import Peer
from services.runtime.errors import DmpError, to_status, unavailable
from services.runtime.limits import BATCH, CARE, NAMES, TRAFFIC_HEADER, Bounds, Limit
from services.runtime.observation import Calls
from services.runtime.redis import Redis
from services.runtime.relayed import PATH
from services.runtime.settings import ServiceSettings
from services.runtime.telemetry import setup
from services.runtime.tokens import TokenVerifier, VerifiedToken
from services.runtime.trail import Trail
from tests.unit.test_quotas import Clock

GET: Final = methods_of([document_pb2.DESCRIPTOR.services_by_name["DocumentService"]])[
    "/dmp.document.v1.DocumentService/GetDocument"
]
QUOTA: Final = QuotaRegistration(requests_per_second=1, burst=1000)
OWN_QUOTAS: Final = {
    "small": QuotaRegistration(requests_per_second=0.001, burst=4),
    "eager": QuotaRegistration(requests_per_second=20, burst=4),
}


class Arrival:
    """A call, and what became of it."""

    def __init__(self, data: bytes, *metadata: tuple[str, str], remaining: float | None = 5.0) -> None:
        self.data = data
        self.context: Any = SimpleNamespace(
            invocation_metadata=lambda: metadata, time_remaining=lambda: remaining, peer=lambda: "ipv4:192.0.2.7:1"
        )
        self.told: list[bytes | int | None] = []
        self.gone = False

    def answer(self, data: bytes) -> None:
        self.told.append(data)

    def refuse(self, error: DmpError) -> None:
        self.told.append(error.reason)

    def alone(self) -> None:
        self.told.append(None)


class Verifier:
    """A token is the name of its client, perhaps with a mode behind a slash."""

    def verify(self, token: str, now: float) -> VerifiedToken:
        client_id, _, mode = token.partition("/")
        if client_id == "nobody":
            raise DmpError(reasons.ERROR_REASON_TOKEN_INVALID)
        kind = access_pb2.CALLER_KIND_INTERNAL if client_id == "internal" else access_pb2.CALLER_KIND_PARTNER
        claims = ActingContext(
            client_id=client_id,
            caller=kind,
            access_mode=context_pb2.ACCESS_MODE_REGULATION if mode else context_pb2.ACCESS_MODE_NORMAL,
        )
        return VerifiedToken(claims, now + 60, client_id, frozenset(), kind, f"jti-{client_id}")


class Standings:
    """The clients' table."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []
        self.failure: OSError | None = None

    async def standings(self, pairs: Sequence[tuple[str, str]]) -> list[Standing]:
        self.asked.append(list(pairs))
        if self.failure is not None:
            raise self.failure
        return [self._standing(client_id) for client_id, _ in pairs]

    def _standing(self, client_id: str) -> Standing:
        if client_id == "unknown":
            return Standing(None, suspended=False, token_revoked=False)
        registration = Registration(
            client_id=client_id,
            kind="partner",
            software=SoftwareRegistration(id="s", name="s", version="1"),
            scopes=frozenset(),
            actors=frozenset({"professional"}),
            certificate_uri="spiffe://dmp.local/internal/x",
            quota=OWN_QUOTAS.get(client_id),
        )
        return Standing(
            registration.model_dump_json(), suspended=client_id == "suspended", token_revoked=client_id == "revoked"
        )


class Document:
    """The service behind, and what it was sent."""

    def __init__(self) -> None:
        self.relayed: list[relay_pb2.RelayCallsRequest] = []
        self.alone: list[tuple[bytes, dict[str, str]]] = []
        self.failure: DmpError | None = None

    def unary_bytes(self, path: str) -> Callable[..., Awaitable[bytes]]:
        assert path == GET.path

        async def forward(request: bytes, *, timeout: float, metadata: Sequence[tuple[str, str]]) -> bytes:
            self.alone.append((request, dict(metadata)))
            if request == b"hidden":
                raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
            return b"alone:" + request

        return forward

    def unary_written(self, path: str, response: type[Any]) -> Callable[..., Awaitable[Any]]:
        assert path == PATH

        async def relay(data: bytes, *, timeout: float) -> relay_pb2.RelayCallsResponse:
            request = relay_pb2.RelayCallsRequest.FromString(data)
            self.relayed.append(request)
            if self.failure is not None:
                raise self.failure
            return relay_pb2.RelayCallsResponse(results=map(self._answer, request.calls))

        return relay

    def own(self, error: DmpError) -> DmpError:
        return error

    @staticmethod
    def _answer(call: relay_pb2.RelayedCall) -> relay_pb2.RelayedResult:
        if call.request == b"hidden":
            return relay_pb2.RelayedResult(status=to_status(DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)))
        return relay_pb2.RelayedResult(response=b"together:" + call.request)


class Field:
    """The relay of one method, and what is around it."""

    def __init__(self, most: int = 256) -> None:
        telemetry = setup("gateway", ServiceSettings(environment="test"), stream=io.BytesIO())
        self.document, self.table, self.rows = Document(), Standings(), list[Any]()
        self.clock, self.limit = Clock(), Limit(Bounds(least=1, most=most))
        self.fairness = Fairness(self.limit)
        self.usage = Usage(cast("Any", SimpleNamespace(add=self._add)))
        callers = Callers(
            cast("TokenVerifier", Verifier()),
            Clients(cast("Store", self.table)),
            cast("Trail", None),
            Quotas(Redis(None), QUOTA, monotonic=self.clock),
        )
        self.relay = RelayTogether(
            GET, cast("Peer", self.document), callers, Calls(telemetry), (self.limit, self.fairness), self.usage
        )

    async def _add(self, rows: Sequence[Any]) -> None:
        self.rows += rows

    async def send(self, *arrivals: Arrival) -> list[bytes | int | None]:
        """What became of each, once all have ended."""
        for arrival in arrivals:
            self.relay.arrive(arrival)
        async with asyncio.timeout(20):
            while not all(arrival.told for arrival in arrivals):
                await asyncio.sleep(0.001)
        assert all(len(arrival.told) == 1 for arrival in arrivals)
        assert self.limit.taken == 0
        return [arrival.told[0] for arrival in arrivals]

    async def counted(self) -> dict[tuple[str, str], int]:
        await self.usage.flush()
        return {(row.client_id, row.outcome): row.count for row in self.rows}


def by(token: str, data: bytes = b"x", *metadata: tuple[str, str]) -> Arrival:
    return Arrival(data, ("authorization", f"Bearer {token}"), *metadata)


async def test_each_call_goes_on_as_it_came_and_gets_its_own_answer() -> None:
    field, trace = Field(), f"00-{'ab' * 16}-{'cd' * 8}-00"
    told = await field.send(
        by("a", b"1", ("x-request-id", "r-1"), ("traceparent", trace)), by("b", b"hidden"), by("a", b"3")
    )
    assert told == [b"together:1", reasons.ERROR_REASON_DOCUMENT_NOT_FOUND, b"together:3"]
    [request] = field.document.relayed
    first, second, third = request.calls
    assert request.path == GET.path
    assert (first.token, first.request_id, first.traceparent, first.lowered) == ("a", "r-1", trace, False)
    assert (second.token, third.token) == ("b", "a")
    assert {call.network_address for call in request.calls} == {"192.0.2.7"}
    assert all(0 < call.timeout_ms <= 5000 and call.request_id and call.traceparent for call in request.calls)
    assert field.table.asked == [[("a", "jti-a"), ("b", "jti-b"), ("a", "jti-a")]]
    assert await field.counted() == {("a", "ok"): 2, ("b", "refused"): 1}


async def test_batch_work_goes_on_with_its_like_and_says_so() -> None:
    field, lowered = Field(), (TRAFFIC_HEADER, NAMES[BATCH])
    told = await field.send(by("a", b"1"), by("a", b"2", lowered), by("b", b"3"), by("b", b"4", lowered))
    assert told == [b"together:1", b"together:2", b"together:3", b"together:4"]
    batches = [[(call.request, call.lowered) for call in request.calls] for request in field.document.relayed]
    assert sorted(batches) == [[(b"1", False), (b"3", False)], [(b"2", True), (b"4", True)]]


async def test_what_a_client_that_presses_may_ask_goes_on_as_batch_work() -> None:
    field = Field()
    assert (await field.send(*(by("eager") for _ in range(5)))).count(None) == 1
    field.clock.now += 0.06
    assert await field.send(by("eager"), by("a")) == [b"alone:x", b"alone:x"]
    said = {metadata["authorization"]: metadata.get(TRAFFIC_HEADER) for _, metadata in field.document.alone}
    assert said == {"Bearer eager": NAMES[BATCH], "Bearer a": None}
    field.clock.now += 10
    await field.send(by("eager"))
    assert TRAFFIC_HEADER not in field.document.alone[-1][1], "it presses no more"
    assert (field.fairness.share(CARE), field.fairness.share(BATCH)) == (256, 64), "every share is given back"


async def test_whoever_is_to_be_refused_or_is_urgent_goes_alone() -> None:
    field = Field()
    tokens = ["a", "suspended", "revoked", "unknown", "nobody", "internal", "a/emergency", "b"]
    told = await field.send(*map(by, tokens), Arrival(b"x"))
    assert told == [b"together:x", *[None] * 6, b"together:x", None]
    assert [call.token for call in field.document.relayed[0].calls] == ["a", "b"]
    assert await field.counted() == {("a", "ok"): 1, ("b", "ok"): 1}


async def test_a_quota_lets_through_what_it_allows_and_no_more() -> None:
    field = Field()
    told = await field.send(*[by("small") for _ in range(20)], *[by("a") for _ in range(20)])
    assert told[20:] == [b"together:x"] * 20
    assert sum(each is not None for each in told[:20]) == 4
    assert await field.send(by("small"), by("small")) == [None, None]
    assert len(field.table.asked) == 1, "who is known to be over its quota is not looked up"


async def test_whoever_has_gone_before_its_batch_left_is_not_served() -> None:
    field, stay, gone = Field(), by("a", b"1"), by("a", b"2")
    gone.gone = True
    assert await field.send(stay, gone) == [b"alone:1", reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE]
    assert field.table.asked == [[("a", "jti-a")]]
    assert await field.counted() == {("a", "ok"): 1, ("a", "failed"): 1}


async def test_a_single_call_goes_as_a_plain_one() -> None:
    field = Field()
    assert await field.send(by("a", b"1", ("x-request-id", "r"))) == [b"alone:1"]
    [(_, metadata)] = field.document.alone
    assert (metadata["authorization"], metadata["x-request-id"]) == ("Bearer a", "r")


async def test_whoever_is_beyond_its_share_waits_among_its_own_and_is_served_together() -> None:
    field = Field(most=4)
    arrivals = [by("a", b"%d" % number) for number in range(12)] + [by("b", b"b")]
    told = await field.send(*arrivals)
    assert told == [b"together:%d" % number for number in range(12)] + [b"together:b"]
    sent = [[call.token for call in request.calls] for request in field.document.relayed]
    assert "b" in sent[0] + sent[1], "the next place that is given back is a newcomer's"
    assert max(map(len, sent)) <= 4
    assert await field.counted() == {("a", "ok"): 12, ("b", "ok"): 1}
    assert field.fairness.share(CARE) == 4, "every share is given back"


async def test_who_has_no_turn_in_time_is_refused_and_gives_back_nothing_that_it_had_not() -> None:
    field = Field(most=1)
    assert field.fairness.enters("a", CARE)
    late = Arrival(b"x", ("authorization", "Bearer a"), remaining=0.01)
    assert await field.send(late) == [reasons.ERROR_REASON_OVERLOADED]
    assert await field.counted() == {("a", "overloaded"): 1}
    assert not field.fairness.enters("a", CARE), "the one share is still another's"
    field.fairness.leave("a", CARE)
    assert await field.send(by("a")) == [b"alone:x"]


async def test_a_defect_while_it_waits_is_its_answer_and_takes_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    async def defective(client_id: str, traffic: int, remaining: float | None = None) -> None:
        raise RuntimeError

    field = Field(most=1)
    assert field.fairness.enters("a", CARE)
    monkeypatch.setattr(field.fairness, "enter", defective)
    assert await field.send(by("a")) == [reasons.ERROR_REASON_INTERNAL]
    assert await field.counted() == {("a", "failed"): 1}
    field.fairness.leave("a", CARE)
    assert field.fairness.enters("a", CARE), "nothing was taken, and nothing given back twice"


async def test_what_one_call_is_refused_for_is_told_to_no_other() -> None:
    field = Field()
    told = await field.send(by("suspended"), by("a", b"hidden"))
    assert told == [None, reasons.ERROR_REASON_DOCUMENT_NOT_FOUND], "who is suspended goes alone, where that is said"
    assert await field.counted() == {("a", "refused"): 1}


async def test_what_cannot_be_reached_is_the_answer_of_all_and_counts() -> None:
    field = Field()
    field.document.failure = unavailable("document")
    assert await field.send(by("a"), by("b")) == [reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE] * 2
    field.table.failure = ConnectionResetError()
    assert await field.send(by("a"), by("b")) == [reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE] * 2
    assert await field.counted() == {("a", "failed"): 2, ("b", "failed"): 2}
