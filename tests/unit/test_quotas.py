"""Quotas by one gateway alone: buckets, classes, leases, what a flood costs. With Redis: see the integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quotas import Bucket, Quotas, buckets
from gateway.registration import QuotaRegistration
from services.runtime.limits import BATCH, CARE, EMERGENCY
from services.runtime.redis import Redis

TEN = QuotaRegistration(requests_per_second=10, burst=20)


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def quotas(clock: Clock, *, gateways: int = 1, default: QuotaRegistration = TEN) -> Quotas:
    return Quotas(Redis(None), default, gateways=gateways, monotonic=clock)


async def served(of: Quotas, count: int, traffic: int = CARE, client: str = "a") -> int:
    return sum([(await of.take(client, None, traffic)).retry_after is None for _ in range(count)])


async def test_a_burst_is_served_and_then_the_rate() -> None:
    clock = Clock()
    of = quotas(clock)
    assert await served(of, 50) == 20
    clock.now += 0.5
    assert await served(of, 50) == 5
    clock.now += 100
    assert await served(of, 50) == 20


async def test_a_refusal_says_when_to_come_back() -> None:
    clock = Clock()
    of = quotas(clock)
    await served(of, 20)
    verdict = await of.take("a", None, CARE)
    assert verdict.retry_after is not None
    assert 0 < verdict.retry_after <= 0.1 + 1e-9
    clock.now += verdict.retry_after + 1e-9
    assert (await of.take("a", None, CARE)).retry_after is None


async def test_who_was_refused_is_refused_without_a_look_until_the_next_token_an_emergency_never() -> None:
    clock = Clock()
    of = quotas(clock)
    assert of.refused_for("a", CARE) is None
    await served(of, 21)
    wait = of.refused_for("a", CARE)
    assert wait is not None
    assert 0 < wait <= 0.1 + 1e-9
    assert of.refused_for("b", CARE) is None
    assert await served(of, 21, EMERGENCY) == 21
    assert of.refused_for("a", EMERGENCY) is None
    clock.now += wait + 1e-9
    assert of.refused_for("a", CARE) is None


class Slow(Quotas):
    """A Redis that answers when told, and counts what it is asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Redis(None), TEN, monotonic=clock)
        self.answer = asyncio.Event()
        self.asked = 0

    async def _ask(self, client_id: str, from_buckets: Sequence[Bucket], wanted: int) -> tuple[float, float] | None:
        self.asked += 1
        await self.answer.wait()
        return self._alone(client_id, from_buckets, wanted)


async def test_of_a_flood_one_request_waits_for_the_answer_and_the_others_are_refused_at_once() -> None:
    clock = Clock()
    of = Slow(clock)
    of.answer.set()
    await served(of, 21)
    clock.now += 0.05
    assert await served(of, 1) == 0
    clock.now += 0.051
    assert of.refused_for("a", CARE) is None, "a token is due"
    of.answer.clear()
    before = of.asked
    flood = [asyncio.create_task(of.take("a", None, CARE)) for _ in range(500)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert of.asked == before + 1
    assert sum(each.done() for each in flood) == 499
    assert of.refused_for("a", CARE) is not None
    of.answer.set()
    verdicts = await asyncio.gather(*flood)
    assert sum(verdict.retry_after is None for verdict in verdicts) == 1


async def test_a_client_within_its_quota_waits_for_the_answer() -> None:
    of = Slow(Clock())
    together = [asyncio.create_task(of.take("a", None, CARE)) for _ in range(15)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert of.asked == 1
    assert not any(each.done() for each in together)
    of.answer.set()
    verdicts = await asyncio.gather(*together)
    assert all(verdict.retry_after is None for verdict in verdicts)


async def test_a_flood_is_given_its_quota_less_what_its_refusals_cost_in_few_questions() -> None:
    clock = Clock()
    of = Slow(clock)
    of.answer.set()
    client = QuotaRegistration(requests_per_second=200, burst=200)
    given = questions = 0
    for step in range(4000):
        clock.now += 0.001
        given += (await of.take("flood", client, CARE)).retry_after is None
        if step == 1999:
            given, questions = 0, of.asked
    # Of a thousand a second that it asks for, once the burst is over: what is served and a sixteenth of what is refused
    # make 200 together. For two seconds.
    assert 285 <= given <= 300
    assert of.asked - questions <= 100


async def test_a_client_that_has_waited_has_what_has_come_meanwhile_at_once() -> None:
    clock = Clock()
    of = quotas(clock)
    await served(of, 30)
    clock.now += 1
    verdicts = await asyncio.gather(*(of.take("a", None, CARE) for _ in range(10)))
    assert all(verdict.retry_after is None for verdict in verdicts)


async def test_a_quota_that_is_known_is_counted_without_a_look_and_what_was_learned_counts_next() -> None:
    clock = Clock()
    of = quotas(clock)
    assert await of.take_known("a", CARE) is None
    assert await served(of, 1) == 1
    known = [await of.take_known("a", CARE) for _ in range(30)]
    assert sum(verdict is not None and verdict.retry_after is None for verdict in known) == 19
    of.learn("a", CARE, QuotaRegistration(requests_per_second=1000, burst=2000))
    clock.now += 1
    again = [await of.take_known("a", CARE) for _ in range(30)]
    assert all(verdict is not None and verdict.retry_after is None for verdict in again)


@pytest.mark.parametrize(("rate", "burst"), [(1000, 1), (1000, 5), (100, 2)])
async def test_a_small_bucket_does_not_run_over_while_nobody_asks(rate: float, burst: int) -> None:
    clock = Clock()
    of = Slow(clock)
    of.answer.set()
    client = QuotaRegistration(requests_per_second=rate, burst=burst)
    given = 0
    for _ in range(20_000):
        clock.now += 0.0001
        given += (await of.take("flood", client, CARE)).retry_after is None
    assert given >= 0.9 * rate, "half of what has come in two seconds, whatever its refusals cost"


async def test_one_client_s_flood_takes_nothing_from_another() -> None:
    of = quotas(Clock())
    await served(of, 500, client="flood")
    assert await served(of, 20, client="polite") == 20


async def test_batch_work_has_a_share_and_leaves_the_rest_to_care() -> None:
    of = quotas(Clock())
    assert await served(of, 50, BATCH) == 5
    assert await served(of, 50, CARE) == 15


async def test_care_that_has_used_the_quota_leaves_none_for_batch() -> None:
    of = quotas(Clock())
    assert await served(of, 50, CARE) == 20
    assert await served(of, 5, BATCH) == 0


async def test_an_emergency_beyond_the_quota_is_served_as_everyday_work() -> None:
    of = quotas(Clock())
    await served(of, 50, CARE)
    verdicts = [await of.take("a", None, EMERGENCY) for _ in range(50)]
    assert all(verdict.retry_after is None for verdict in verdicts)
    assert [verdict.traffic for verdict in verdicts] == [EMERGENCY] * 20 + [CARE] * 30


async def test_what_a_client_may_is_served_as_batch_work_while_it_asks_for_more() -> None:
    clock = Clock()
    of = quotas(clock)
    burst = [await of.take("a", None, CARE) for _ in range(21)]
    assert {verdict.traffic for verdict in burst[:20]} == {CARE}, "a burst that is allowed is everyday work"
    assert burst[20].retry_after is not None
    assert of.presses("a", CARE)
    for _ in range(5):  # a token comes each tenth of a second; what is asked for between them is refused
        clock.now += 0.05
        assert (await of.take("a", None, CARE)).retry_after is not None
        clock.now += 0.051
        verdict = await of.take("a", None, CARE)
        assert (verdict.traffic, verdict.retry_after) == (BATCH, None)
    assert (await of.take("a", None, EMERGENCY)).traffic == EMERGENCY
    assert (await of.take("b", None, CARE)).traffic == CARE
    clock.now += 1
    assert not of.presses("a", CARE)
    assert (await of.take("a", None, CARE)).traffic == CARE


async def test_several_gateways_without_redis_give_out_a_quota_together() -> None:
    clock = Clock()
    assert sum([await served(quotas(clock, gateways=4), 50) for _ in range(4)]) == 20


async def test_the_smallest_quota_serves_one_at_a_time() -> None:
    clock = Clock()
    of = quotas(clock, default=QuotaRegistration(requests_per_second=0.5, burst=1))
    assert await served(of, 3) == 1
    clock.now += 2
    assert await served(of, 3) == 1


async def test_many_at_once_get_what_there_is_and_nobody_waits_for_ever() -> None:
    of = quotas(Clock())
    verdicts = await asyncio.gather(*(of.take("a", None, CARE) for _ in range(200)))
    assert sum(verdict.retry_after is None for verdict in verdicts) == 20


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 100)), max_size=20),
)
async def test_never_more_than_the_burst_and_the_rate(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    of = quotas(clock, default=QuotaRegistration(requests_per_second=rate, burst=burst))
    total, began = 0, clock.now
    for pause, count in steps:
        clock.now += pause
        total += await served(of, count)
        assert total <= burst + rate * (clock.now - began) + 1e-6


def test_buckets_of_a_class() -> None:
    assert [bucket.name for bucket in buckets(TEN, CARE)] == ["care"]
    assert [bucket.name for bucket in buckets(TEN, EMERGENCY)] == ["emergency"]
    assert [(bucket.name, bucket.rate) for bucket in buckets(TEN, BATCH)] == [("care", 10), ("batch", 2.5)]
