"""Waves: when the calls of clients that press beyond their quotas begin."""

from __future__ import annotations

import asyncio

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.waves import Waves
from services.runtime.errors import DmpError


async def test_those_who_come_after_a_wave_begin_together_with_the_next() -> None:
    waves, loop, begun = Waves(0.05), asyncio.get_running_loop(), list[tuple[float, int]]()

    async def call(number: int) -> None:
        await waves.join(5.0)
        begun.append((loop.time(), number))

    await call(0)
    calls = []
    for number in range(1, 6):
        calls.append(asyncio.create_task(call(number)))
        await asyncio.sleep(0.002)
    assert len(begun) == 1, "nobody goes on before the next wave"
    await asyncio.gather(*calls)
    moments, order = zip(*begun, strict=True)
    assert order == (0, 1, 2, 3, 4, 5)
    assert moments[1] - moments[0] >= 0.045
    await asyncio.sleep(0.06)
    began = loop.time()
    await call(6)
    assert loop.time() - began < 0.05, "who comes later than a wave would have begun waits for nobody"


async def test_who_has_no_time_for_the_next_wave_is_told_at_once() -> None:
    waves = Waves(60.0)
    await waves.join(0.0)
    with pytest.raises(DmpError) as late:
        await waves.join(5.0)
    assert late.value.reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED


async def test_who_gives_up_takes_nobody_along() -> None:
    waves = Waves(0.02)
    await waves.join(5.0)
    gone, stays = (asyncio.create_task(waves.join(5.0)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(5):
        await stays
    assert gone.cancelled()
