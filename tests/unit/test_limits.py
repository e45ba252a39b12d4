"""The adaptive limit: who gets a place, who waits, who is refused, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from gateway.fhir.outcome import headers_of, status_of
from services.runtime.errors import DmpError, to_status, trailing_metadata
from services.runtime.limits import (
    BATCH,
    CARE,
    EMERGENCY,
    SERVICE,
    Bounds,
    Limit,
    Window,
    is_lowered,
    measured,
    next_limit,
    traffic_of,
)
from services.runtime.metrics import Metrics

PARTNER = access_pb2.CALLER_KIND_PARTNER
NORMAL = ActingContext(access_mode=context_pb2.ACCESS_MODE_NORMAL)
MODES = {
    "regulation": ActingContext(access_mode=context_pb2.ACCESS_MODE_REGULATION),
    "break-glass": ActingContext(access_mode=context_pb2.ACCESS_MODE_BREAK_GLASS),
}


def limit_of(places: int, **more: float) -> Limit:
    """A limit of so many places that does not move."""
    return Limit(Bounds(least=places, most=places, **more), chance=lambda: 0.5)  # type: ignore[arg-type]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def hold(limit: Limit, traffic: int, served: list[str], name: str, until: asyncio.Event) -> None:
    async with limit.place(traffic, None):
        served.append(name)
        await until.wait()


# --- the class of a call ---


@pytest.mark.parametrize("mode", MODES)
def test_an_emergency_mode_raises_a_call_even_when_the_client_says_batch(mode: str) -> None:
    assert traffic_of(CARE, MODES[mode], PARTNER, lowered=False) == EMERGENCY
    assert traffic_of(CARE, MODES[mode], PARTNER, lowered=True) == EMERGENCY


def test_a_client_may_lower_its_everyday_work_and_raise_nothing() -> None:
    assert traffic_of(CARE, NORMAL, PARTNER, lowered=is_lowered({"x-dmp-traffic": "batch"})) == BATCH
    for word in ("emergency", "care", "BATCH", ""):
        assert traffic_of(CARE, NORMAL, PARTNER, lowered=is_lowered({"x-dmp-traffic": word})) == CARE
    assert traffic_of(BATCH, NORMAL, PARTNER, lowered=False) == BATCH


def test_calls_of_services_have_no_class() -> None:
    service = access_pb2.CALLER_KIND_SERVICE
    assert traffic_of(EMERGENCY, ActingContext(), service, lowered=True) == SERVICE


# --- places ---


async def test_services_are_never_held_back() -> None:
    limit = limit_of(1, waiting=0)
    for _ in range(100):
        assert limit.enter(SERVICE)
    assert (limit.taken, limit.in_flight[SERVICE]) == (0, 100)


async def test_emergencies_find_room_when_care_has_every_place() -> None:
    limit = limit_of(4, waiting=0)
    assert all(limit.enter(CARE) for _ in range(4))
    assert not limit.enter(CARE)
    assert all(limit.enter(EMERGENCY) for _ in range(4))
    assert not limit.enter(EMERGENCY), "as many places of their own, not more"


async def test_batch_work_has_a_share_of_the_places() -> None:
    limit = limit_of(8, waiting=0, batch_share=0.25)
    assert [limit.enter(BATCH) for _ in range(3)] == [True, True, False]
    assert [limit.enter(CARE) for _ in range(7)] == [True] * 6 + [False]


async def test_what_finds_no_room_is_refused_with_push_back_in_every_protocol() -> None:
    metrics = Metrics()
    limit = measured(Bounds(least=1, most=1, waiting=0), metrics)
    limit.enter(CARE)
    with pytest.raises(DmpError) as refused:
        async with limit.place(CARE, None):
            pytest.fail("it was let in")
    error = refused.value
    assert (error.reason, error.code) == (reasons.ERROR_REASON_OVERLOADED, grpc.StatusCode.UNAVAILABLE)
    trailers = dict(trailing_metadata(error))
    assert error.retry_after is not None
    assert int(trailers["grpc-retry-pushback-ms"]) == int(error.retry_after * 1000)
    assert any(detail.type_url.endswith("google.rpc.RetryInfo") for detail in to_status(error).details)
    assert (status_of(error), headers_of(error)["Retry-After"]) == (503, "1")
    assert metrics.counter("dmp_limit_refused_total").value("care") == 1
    assert 'dmp_limit_in_flight{traffic="care"} 1' in metrics.render()
    assert limit.taken == 1


async def test_batch_work_is_asked_to_stay_away_longer() -> None:
    limit = limit_of(1, waiting=0)
    limit.enter(CARE)
    delays = []
    for traffic in (CARE, BATCH):
        with pytest.raises(DmpError) as refused:
            await limit.wait(traffic, None)
        delays.append(refused.value.retry_after or 0)
    assert delays[1] > 2 * delays[0]


# --- waiting ---


async def test_places_are_given_by_class_and_then_in_the_order_of_coming() -> None:
    limit, served = limit_of(2, batch_share=1), list[str]()
    first, rest = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(hold(limit, CARE, [], f"first {number}", first))
            group.create_task(hold(limit, EMERGENCY, [], f"first {number}", first))
        await turns()
        for traffic, name in ((BATCH, "b1"), (CARE, "c1"), (BATCH, "b2"), (EMERGENCY, "e1"), (CARE, "c2")):
            group.create_task(hold(limit, traffic, served, name, rest))
        await turns()
        assert served == []
        rest.set()
        first.set()
    assert served == ["e1", "c1", "c2", "b1", "b2"]
    assert limit.taken == 0


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    limit, served, done = limit_of(1), list[str](), asyncio.Event()
    done.set()
    limit.enter(CARE)
    waiting = asyncio.create_task(hold(limit, CARE, served, "first", done))
    await turns()
    limit.leave(CARE)
    assert not limit.enter(CARE), "the place is promised"
    await waiting
    assert served == ["first"]


async def test_the_queue_is_bounded() -> None:
    limit, done = limit_of(1, waiting=3), asyncio.Event()
    limit.enter(CARE)
    tasks = [asyncio.create_task(hold(limit, CARE, [], "", done)) for _ in range(5)]
    await turns()
    assert [isinstance(task.exception(), DmpError) if task.done() else None for task in tasks] == [None] * 3 + [
        True
    ] * 2
    assert limit.waiting(CARE) == 3
    done.set()
    limit.leave(CARE)
    await asyncio.gather(*tasks[:3])


async def test_who_has_waited_long_enough_leaves_refused() -> None:
    limit = limit_of(1, patience=0.05)
    limit.enter(CARE)
    with pytest.raises(DmpError) as refused:
        await limit.wait(CARE, None)
    assert refused.value.reason == reasons.ERROR_REASON_OVERLOADED
    assert (limit.waiting(CARE), limit.taken) == (0, 1)


async def test_who_cannot_be_served_before_the_deadline_leaves() -> None:
    limit = limit_of(1, patience=60)
    limit.enter(CARE)
    async with asyncio.timeout(5):
        with pytest.raises(DmpError):
            await limit.wait(CARE, 0.05)


async def test_the_clock_rests_while_nothing_happens() -> None:
    limit = limit_of(1)
    async with limit.place(CARE, None):
        pass
    async with asyncio.timeout(5):
        while limit.probing:
            await asyncio.sleep(0.01)


async def test_a_place_given_to_someone_who_left_in_that_moment_goes_to_the_next() -> None:
    limit, served, done = limit_of(1), list[str](), asyncio.Event()
    done.set()
    limit.enter(CARE)
    gone = asyncio.create_task(hold(limit, CARE, served, "gone", done))
    next_one = asyncio.create_task(hold(limit, CARE, served, "next", done))
    await turns()
    limit.leave(CARE)  # the place is `gone`'s now, who has not run yet
    gone.cancel()
    await next_one
    assert gone.cancelled()
    assert (served, limit.taken, limit.waiting(CARE)) == (["next"], 0, 0)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["come", "go", "cancel", "turn"]), st.integers(0, 30)), max_size=80),
    places=st.integers(1, 4),
)
def test_no_place_is_lost_or_given_twice_whoever_comes_goes_or_is_cancelled(
    steps: list[tuple[str, int]], places: int
) -> None:
    asyncio.run(_no_place_is_lost(steps, places))


async def _no_place_is_lost(steps: list[tuple[str, int]], places: int) -> None:
    limit = Limit(Bounds(least=1, most=places, waiting=5, batch_share=0.5))
    ends: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
    inside: list[str] = []

    async def visit(traffic: int, end: asyncio.Event) -> None:
        with contextlib.suppress(DmpError):
            async with limit.place(traffic, 1.0):
                inside.append("")
                try:
                    await end.wait()
                finally:
                    inside.pop()

    for step, number in steps:
        if step == "come":
            end = asyncio.Event()
            ends.append((end, asyncio.create_task(visit((SERVICE, EMERGENCY, CARE, BATCH)[number % 4], end))))
        elif step == "turn":
            await turns(number % 3)
        elif ends:
            end, task = ends[number % len(ends)]
            end.set() if step == "go" else task.cancel()
        assert limit.taken == sum(limit.in_flight[traffic] for traffic in (EMERGENCY, CARE, BATCH))
        assert limit.in_flight[CARE] + limit.in_flight[BATCH] <= places
        assert limit.in_flight[EMERGENCY] <= places
        assert len(inside) <= limit.taken + limit.in_flight[SERVICE]
    for end, task in ends:
        end.set()
        task.cancel()
    await asyncio.gather(*(task for _, task in ends), return_exceptions=True)
    assert limit.taken == 0
    assert not any(limit.in_flight.values())
    assert not any(limit.waiting(traffic) for traffic in (EMERGENCY, CARE, BATCH))


# --- the rule ---

BOUNDS = Bounds(least=8, most=100, lag=0.005, seconds=0.1)
CALM = Window(lag=0.001, ended=100, slow=10, refused=0, peak=100, wanted=True)


def after(limit: float, windows: int, window: Window) -> float:
    for _ in range(windows):
        limit = next_limit(limit, window, BOUNDS)
    return limit


@pytest.mark.parametrize(
    "strained", [CALM._replace(lag=0.02), CALM._replace(slow=60)], ids=["the loop is late", "half the calls are slow"]
)
def test_under_strain_places_go_and_never_below_the_least(strained: Window) -> None:
    assert after(100, 1, strained) == pytest.approx(90)
    assert after(100, 60, strained) == 8


def test_without_strain_places_come_as_far_as_they_are_wanted() -> None:
    assert after(8, 20, CALM._replace(wanted=False)) == 8
    assert after(8, 60, CALM) == 100


def test_some_slow_calls_are_no_strain() -> None:
    assert after(50, 60, CALM._replace(slow=49)) == 100


def test_no_places_go_that_are_not_in_use() -> None:
    assert after(100, 20, CALM._replace(lag=0.02, peak=10, wanted=False)) == 100


def test_a_process_that_is_late_by_refusing_keeps_its_places() -> None:
    assert after(100, 20, CALM._replace(lag=0.02, refused=200)) == 100


def test_the_limit_finds_what_a_process_can_do_and_follows_it() -> None:
    """A process whose delay grows with the calls it works on: 100 µs a call, then, burdened, 500 µs."""
    chance, limit, found = random.Random(1), 100.0, []
    for cost in (100e-6, 500e-6, 100e-6):
        for _ in range(200):
            lag = limit * cost * chance.uniform(0.5, 1.5)
            limit = next_limit(limit, CALM._replace(lag=lag, peak=int(limit)), BOUNDS)
        found.append(limit)
    assert found == [pytest.approx(50, rel=0.3), pytest.approx(10, rel=0.3), pytest.approx(50, rel=0.3)]


async def test_a_limit_shrinks_when_calls_hold_their_places_for_long_and_grows_back() -> None:
    limit = Limit(Bounds(least=2, most=16, seconds=0.01, lag=1.0))
    taking = 0.02

    async def client() -> None:
        while not done.is_set():
            async with limit.place(CARE, None):
                await asyncio.sleep(taking)

    done = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(client())
        while limit.limit > 4:
            await asyncio.sleep(0.02)
        taking = 0.0
        while limit.limit < 16:
            await asyncio.sleep(0.02)
        done.set()
    assert limit.taken == 0
