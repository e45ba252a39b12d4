"""The coalescer, statement by statement. That it keeps them under any schedule is in ``test_coalescer_schedules``."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence

import pytest
import uvloop

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.coalescer import Coalescer
from services.runtime.context import go_on_as, hurry, is_urgent, traffic
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH, CARE, EMERGENCY
from services.runtime.pace import PACE


class Peer:
    """A dependency that answers when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gates: list[asyncio.Future[None]] = []

    async def send(self, items: list[int]) -> Sequence[int | DmpError]:
        self.batches.append(items)
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        return [item * 10 for item in items]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_idle_an_item_leaves_at_once_and_under_load_items_leave_together() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send)
    calls = [asyncio.create_task(coalescer.submit(1))]
    await turns()
    assert peer.batches == [[1]]
    calls += [asyncio.create_task(coalescer.submit(number)) for number in (2, 3, 4)]
    await turns()
    assert peer.batches == [[1]], "they wait while a batch is in flight"
    peer.gates[0].set_result(None)
    await turns()
    assert peer.batches == [[1], [2, 3, 4]]
    peer.gates[1].set_result(None)
    assert await asyncio.gather(*calls) == [10, 20, 30, 40]


async def test_an_item_never_joins_a_batch_already_sent() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send)
    first = asyncio.create_task(coalescer.submit(1))
    await turns()
    given = peer.batches[0]
    second = asyncio.create_task(coalescer.submit(2))
    await turns()
    peer.gates[0].set_result(None)
    assert await first == 10
    assert given == [1], "the list handed to send is not mutated"
    await turns()
    assert not second.done(), "its answer comes from a batch of its own"
    peer.gates[1].set_result(None)
    assert await second == 20
    assert peer.batches == [[1], [2]]


async def test_what_send_does_to_its_list_harms_nobody() -> None:
    async def greedy(items: list[int]) -> list[int]:
        answers = [item * 10 for item in items]
        items.clear()
        return answers

    coalescer: Coalescer[int, int] = Coalescer("peer", greedy)
    assert list(await asyncio.gather(coalescer.submit(1), coalescer.submit(2))) == [10, 20]


async def test_a_cancelled_item_leaves_the_queue_and_the_others_are_untouched() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send)
    calls = [asyncio.create_task(coalescer.submit(number)) for number in (1, 2, 3, 4)]
    calls[1].cancel()  # before it has even begun
    await turns()
    calls[2].cancel()  # already sent: its answer is dropped
    late = [asyncio.create_task(coalescer.submit(number)) for number in (5, 6)]
    await turns()
    late[0].cancel()  # waiting
    await turns()
    assert coalescer.pending == 1
    peer.gates[0].set_result(None)
    await turns()
    peer.gates[1].set_result(None)
    results = await asyncio.gather(*calls, *late, return_exceptions=True)
    assert peer.batches == [[1, 3, 4], [6]]
    assert [results[0], results[3], results[5]] == [10, 40, 60]
    assert all(isinstance(results[number], asyncio.CancelledError) for number in (1, 2, 4))


async def test_an_item_cancelled_in_the_turn_in_which_its_batch_leaves_is_not_sent() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send)
    calls = [asyncio.create_task(coalescer.submit(number)) for number in (1, 2)]
    await asyncio.sleep(0)  # both wait; the batch leaves in the next turn
    calls[0].cancel()
    await turns()
    assert peer.batches == [[2]]
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    peer.gates[0].set_result(None)


async def test_an_item_past_its_timeout_leaves_the_queue_and_gives_its_place_back() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send, max_pending=1)
    sent = asyncio.create_task(coalescer.submit(1))
    await turns()
    for _ in range(2):
        with pytest.raises(DmpError) as late:
            await coalescer.submit(2, timeout=0.01)
        assert late.value.reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED
        assert coalescer.pending == 0
    peer.gates[0].set_result(None)
    assert await sent == 10
    assert peer.batches == [[1]]


async def test_a_full_queue_pushes_back_and_cancelled_items_give_their_place_back() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send, max_pending=2)
    sent = asyncio.create_task(coalescer.submit(1))
    await turns()
    waiting = [asyncio.create_task(coalescer.submit(number)) for number in (2, 3)]
    await turns()
    with pytest.raises(DmpError) as refused:
        await coalescer.submit(4)
    assert refused.value.reason == reasons.ERROR_REASON_OVERLOADED
    waiting[0].cancel()
    await turns()
    waiting.append(asyncio.create_task(coalescer.submit(5)))
    await turns()
    for gate in range(2):
        peer.gates[gate].set_result(None)
        await turns()
    assert await sent == 10
    assert peer.batches == [[1], [3, 5]]
    assert (coalescer.batches_sent, coalescer.items_sent, coalescer.items_refused) == (2, 3, 1)


async def test_each_caller_of_a_failed_batch_gets_an_exception_of_its_own() -> None:
    async def refuse(items: list[int]) -> list[int]:
        raise DmpError(reasons.ERROR_REASON_DOSSIER_CLOSED, metadata={"why": "test"}, retry_after=1.5)

    coalescer: Coalescer[int, int] = Coalescer("peer", refuse)
    errors = await asyncio.gather(*(coalescer.submit(number) for number in range(3)), return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, DmpError)
        assert (error.reason, error.metadata, error.retry_after) == (
            reasons.ERROR_REASON_DOSSIER_CLOSED,
            {"why": "test"},
            1.5,
        )


async def test_a_fault_is_unavailable_to_callers_and_told_in_full_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(items: list[int]) -> list[int]:
        raise ZeroDivisionError

    coalescer: Coalescer[int, int] = Coalescer("consent", broken)
    with pytest.raises(DmpError) as failure:
        await coalescer.submit(1)
    assert failure.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert failure.value.metadata == {"dependency": "consent"}
    assert "ZeroDivisionError" in caplog.text


async def test_a_batch_runs_in_nobodys_context() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    async def look(items: list[int]) -> list[int]:
        seen.append(who.get())
        who.set("a batch")
        return items

    coalescer: Coalescer[int, int] = Coalescer("peer", look)
    who.set("the first caller")
    await asyncio.gather(coalescer.submit(1, timeout=5), coalescer.submit(2))
    await coalescer.submit(3)
    assert seen == ["nobody", "nobody"]
    assert who.get() == "the first caller"


async def test_close_refuses_what_is_new_and_finishes_what_is_accepted() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send, max_batch=1)
    calls = [asyncio.create_task(coalescer.submit(number)) for number in (1, 2)]
    await turns()
    closing = [asyncio.create_task(coalescer.close()) for _ in range(2)]
    await turns()
    with pytest.raises(DmpError) as refused:
        await coalescer.submit(3)
    assert refused.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    peer.gates[0].set_result(None)
    await turns()
    assert not any(task.done() for task in closing)
    peer.gates[1].set_result(None)
    assert await asyncio.gather(*calls) == [10, 20]
    await asyncio.gather(*closing)
    await coalescer.close()


async def test_when_the_loop_ends_nobody_is_left_waiting() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send, max_batch=1)
    calls = [asyncio.create_task(coalescer.submit(number)) for number in (1, 2)]
    await turns()
    next(iter(coalescer._running)).cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [getattr(error, "reason", None) for error in results] == [reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE] * 2
    assert peer.batches == [[1]]


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Coalescer("peer", Peer().send, max_batch=0)


def test_it_runs_on_uvloop() -> None:
    async def main() -> list[int]:
        async def send(items: list[int]) -> list[int]:
            await asyncio.sleep(0)
            return items

        coalescer: Coalescer[int, int] = Coalescer("peer", send, max_batch=16)
        return await asyncio.gather(*(coalescer.submit(number, timeout=5) for number in range(100)))

    assert uvloop.run(main()) == list(range(100))


# --- emergencies ---


async def _urgently(coalescer: Coalescer[int, int], item: int) -> int:
    hurry()
    return await coalescer.submit(item)


async def test_an_emergency_waits_for_no_batch_of_everyday_work() -> None:
    sent: list[tuple[list[int], bool]] = []
    everyday = asyncio.Event()

    async def send(items: list[int]) -> list[int]:
        sent.append((items, is_urgent()))
        if not is_urgent():
            await everyday.wait()
        return items

    coalescer: Coalescer[int, int] = Coalescer("test", send, pace=5)
    stuck = [asyncio.create_task(coalescer.submit(number)) for number in range(3)]
    await asyncio.sleep(0.01)
    stuck += [asyncio.create_task(coalescer.submit(number)) for number in range(3, 6)]
    assert await asyncio.gather(*(asyncio.create_task(_urgently(coalescer, number)) for number in (10, 11))) == [10, 11]
    assert await asyncio.create_task(_urgently(coalescer, 12)) == 12
    assert sent == [([0, 1, 2], False), ([10, 11], True), ([12], True)], "known for urgent by whoever is asked, too"
    assert coalescer.pending == 3
    everyday.set()
    await coalescer.close()
    assert [task.result() for task in stuck] == list(range(6))


@pytest.mark.parametrize("urgent", [False, True])
async def test_nobody_waits_for_batch_work(urgent: bool) -> None:
    sent: list[tuple[list[int], int]] = []
    stuck = asyncio.Event()

    async def send(items: list[int]) -> list[int]:
        sent.append((items, traffic()))
        if traffic() == BATCH:
            await stuck.wait()
        return items

    async def batch(item: int) -> int:
        go_on_as(BATCH)
        return await coalescer.submit(item)

    coalescer: Coalescer[int, int] = Coalescer("test", send, pace=PACE)
    waiting = [asyncio.create_task(batch(number)) for number in range(3)]
    await asyncio.sleep(0.01)
    waiting.append(asyncio.create_task(batch(3)))
    asks = _urgently(coalescer, 10) if urgent else coalescer.submit(10)
    assert await asyncio.create_task(asks) == 10
    assert sent == [([0, 1, 2], BATCH), ([10], EMERGENCY if urgent else CARE)], "and whoever is asked knows which it is"
    stuck.set()
    await coalescer.close()
    assert [task.result() for task in waiting] == [0, 1, 2, 3]
    assert sent[2:] == [([3], BATCH)]


async def test_an_emergency_finds_room_in_a_full_queue_and_none_after_the_close() -> None:
    going = asyncio.Event()

    async def send(items: list[int]) -> list[int]:
        if not is_urgent():
            await going.wait()
        return items

    coalescer: Coalescer[int, int] = Coalescer("test", send, max_pending=1)
    stuck = asyncio.create_task(coalescer.submit(1))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(coalescer.submit(2))
    await asyncio.sleep(0)
    with pytest.raises(DmpError):
        await coalescer.submit(3)
    assert await asyncio.create_task(_urgently(coalescer, 4)) == 4
    going.set()
    await coalescer.close()
    assert (stuck.result(), waiting.result()) == (1, 2)
    with pytest.raises(DmpError):
        await asyncio.create_task(_urgently(coalescer, 5))


async def test_batches_in_turns_leave_room_for_a_large_one_more() -> None:
    peer = Peer()
    coalescer: Coalescer[int, int] = Coalescer("peer", peer.send, in_flight=2, in_turns=True)
    calls = [asyncio.create_task(coalescer.submit(1))]
    await turns()
    calls.append(asyncio.create_task(coalescer.submit(2)))
    await turns()
    calls += [asyncio.create_task(coalescer.submit(number)) for number in range(85)]
    await turns()
    assert [len(batch) for batch in peer.batches] == [1, 1], "they wait while two batches are in flight"
    calls.append(asyncio.create_task(coalescer.submit(85)))
    await turns()
    assert [len(batch) for batch in peer.batches] == [1, 1, 86]
    calls += [asyncio.create_task(coalescer.submit(number)) for number in range(90)]
    await turns()
    assert len(peer.batches) == 3, "there is room for one more, not for any number"
    peer.gates[0].set_result(None)
    await turns()
    assert [len(batch) for batch in peer.batches] == [1, 1, 86, 90]
    for gate in peer.gates[1:]:
        gate.set_result(None)
    await asyncio.gather(*calls)
    await coalescer.close()
