"""When the coalescer's batches leave: not before their pace, and not before those who were just answered are back."""

from __future__ import annotations

import asyncio

import pytest

from services.runtime.coalescer import Coalescer
from tests.virtual_loop import on_virtual_loop


class Sender:
    """Answers each batch after so many seconds; keeps when it left and how many were in it."""

    def __init__(self, seconds: float) -> None:
        self.sent: list[tuple[float, int]] = []
        self._seconds = seconds

    async def __call__(self, items: list[int]) -> list[int]:
        self.sent.append((asyncio.get_running_loop().time(), len(items)))
        await asyncio.sleep(self._seconds)
        return items


def test_what_follows_a_slow_full_batch_waits_to_be_many_and_who_is_alone_does_not() -> None:
    send = Sender(0.005)

    async def main() -> None:
        coalescer: Coalescer[int, int] = Coalescer("peer", send, pace=0.002)
        full = [asyncio.ensure_future(coalescer.submit(number)) for number in range(64)]
        await asyncio.sleep(0.006)  # the batch has ended
        early = asyncio.ensure_future(coalescer.submit(64))
        await asyncio.sleep(0.002)
        late = asyncio.ensure_future(coalescer.submit(65))
        await asyncio.gather(*full, early, late)
        await coalescer.submit(66)
        await coalescer.submit(67)
        await coalescer.close()

    on_virtual_loop(main)
    (_, first), (second_at, second), (third_at, third), (fourth_at, _) = send.sent
    assert (first, second, third) == (64, 2, 1)
    assert second_at == pytest.approx(0.01), "twice the time that a batch of 64 took"
    assert fourth_at == pytest.approx(third_at + 0.005), "one after the other: as soon as the one before has ended"


def test_callers_who_are_answered_together_ask_again_together() -> None:
    """Sixteen who ask all the time, come in two halves: each half would else wait for the other's batch for ever."""
    send = Sender(0.008)

    async def main() -> None:
        coalescer: Coalescer[int, int] = Coalescer("peer", send, pace=0.002, in_turns=True)

        async def caller(number: int) -> None:
            await asyncio.sleep(0.004 * (number % 2))
            for _ in range(6):
                await coalescer.submit(number)
                await asyncio.sleep(0.0001 * number)  # its way back

        await asyncio.gather(*(caller(number) for number in range(16)))
        await coalescer.close()

    on_virtual_loop(main)
    sizes = [size for _, size in send.sent]
    assert sizes[:2] == [8, 16], "the first half waits for nobody, and is waited for"
    assert sum(sizes) == 96
    assert sizes[2:6] == [16] * 4


def test_who_does_not_ask_again_is_waited_for_only_a_moment() -> None:
    send = Sender(0.004)

    async def main() -> None:
        coalescer: Coalescer[int, int] = Coalescer("peer", send, pace=0.002, in_turns=True)
        first = [asyncio.ensure_future(coalescer.submit(number)) for number in range(4)]
        await asyncio.sleep(0.002)
        later = asyncio.ensure_future(coalescer.submit(4))
        await asyncio.gather(*first, later)
        await coalescer.submit(5)
        last = asyncio.ensure_future(coalescer.submit(6))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(coalescer.submit(7))
        await asyncio.sleep(0.0045)
        await coalescer.close()
        await asyncio.gather(last, waiting)

    on_virtual_loop(main)
    (_, first), (second_at, second), (third_at, third), *rest = send.sent
    assert (first, second, third) == (4, 1, 1)
    assert second_at == pytest.approx(0.005), "a quarter of the time that the batch before took"
    assert third_at == pytest.approx(0.009), "one after the other: as soon as the one before has ended"
    assert sum(size for _, size in rest) == 2, "closing strands nobody who waits for others"


def test_what_comes_as_one_leaves_as_one_and_waits_for_nobody() -> None:
    """Sixteen that bring their calls in one message, a few in each turn of the loop: they have waited for each other
    where they came from, and next time they may go to another replica."""
    send = Sender(0.008)

    async def main() -> None:
        coalescer: Coalescer[int, int] = Coalescer("peer", send, pace=0.002, in_turns=True)

        async def bring(count: int) -> None:
            with coalescer.group():
                asked = []
                for number in range(count):
                    asked.append(coalescer.ask(number))
                    if number % 4 == 3:
                        await asyncio.sleep(0)
            await asyncio.gather(*asked)

        await bring(16)
        await asyncio.sleep(0.001)
        await bring(6)
        await coalescer.close()

    on_virtual_loop(main)
    assert [size for _, size in send.sent] == [16, 6]
    (first_at, _), (second_at, _) = send.sent
    assert second_at == pytest.approx(first_at + 0.009), "nobody was waited for"


def test_groups_that_never_end_hold_nothing_for_ever() -> None:
    send = Sender(0.001)

    async def main() -> None:
        coalescer: Coalescer[int, int] = Coalescer("peer", send, max_batch=8, in_turns=True)
        with coalescer.group():
            full = [asyncio.ensure_future(coalescer.submit(number)) for number in range(8)]
            await asyncio.gather(*full)
            waiting = asyncio.ensure_future(coalescer.submit(8))
            await asyncio.sleep(0.01)
            assert not waiting.done(), "a group is coming"
            await coalescer.close()
            assert await waiting == 8

    on_virtual_loop(main)
    assert [size for _, size in send.sent] == [8, 1]
