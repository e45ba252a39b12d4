"""A load generator as a process of its own: `python -m bench.generator < plan.json > outcome.json`.

Lives here: sending calls at a rate or in closed loops, and what came of each. It decodes nothing but the answer's
status, and shares no event loop with what judges it. What a load means is said by the test that writes the plan.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

TIMEOUT: Final = 20.0
_CONNECTIONS: Final = 4
_TICK: Final = 0.002
_MOST_OUTSTANDING: Final = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """One request as bytes, in base64 for the way here, and its metadata."""

    request: str
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Calls of one unary method: `rate` a second as they come (open), or else `loops` that each wait for their answer.

    `calls` are drawn from at random. With `patient`, a loop that is pushed back waits as long as it was told.
    """

    target: str
    certificate: str
    key: str
    authority: str
    path: str
    calls: tuple[Call, ...]
    seconds: float
    rate: float = 0.0
    loops: int = 0
    connections: int = _CONNECTIONS
    patient: bool = False

    def files(self) -> tuple[bytes, bytes, bytes]:
        """The authority's certificate, the private key, the certificate (PEM)."""
        authority, key, certificate = (Path(file).read_bytes() for file in (self.authority, self.key, self.certificate))
        return authority, key, certificate


@dataclass(slots=True)
class Outcome:
    """What came of a load. Latencies in seconds, each with the second of its start, from when it was due."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    unsent: int = 0
    pushbacks: list[int] = field(default_factory=list)
    began: float = 0.0


class _Load:
    def __init__(self, plan: Plan, channels: Sequence[grpc.aio.Channel]) -> None:
        self._plan = plan
        self._sends: list[Any] = [channel.unary_unary(plan.path) for channel in channels]
        self._calls = [(base64.b64decode(call.request), call.metadata) for call in plan.calls]
        self._random = random.Random(7)
        self._turn = 0
        self._outstanding = 0
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """All of the plan; returns when every call has its answer."""
        began = self.outcome.began = time.time()
        zero = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            if self._plan.rate:
                await self._at_a_rate(group, zero)
            else:
                for _ in range(self._plan.loops):
                    group.create_task(self._loop(zero))
        self.outcome.began = began
        return self.outcome

    async def _at_a_rate(self, group: asyncio.TaskGroup, zero: float) -> None:
        due = 0.0
        while due < self._plan.seconds:
            now = time.perf_counter() - zero
            while due <= now and due < self._plan.seconds:
                if self._outstanding < _MOST_OUTSTANDING:
                    self._outstanding += 1
                    group.create_task(self._one(zero, due))
                else:
                    self.outcome.unsent += 1
                due += self._random.expovariate(self._plan.rate)
            await asyncio.sleep(_TICK)

    async def _loop(self, zero: float) -> None:
        while (now := time.perf_counter() - zero) < self._plan.seconds:
            self._outstanding += 1
            pause = await self._one(zero, now)
            if pause and self._plan.patient:
                await asyncio.sleep(pause)

    async def _one(self, zero: float, due: float) -> float:
        """One call; how long it was asked to stay away, in seconds."""
        request, metadata = self._calls[int(self._random.random() * len(self._calls))]
        self._turn += 1
        send = self._sends[self._turn % len(self._sends)]
        try:
            await send(request, metadata=metadata, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return self._ended_badly(error, due, time.perf_counter() - zero - due)
        finally:
            self._outstanding -= 1
        self.outcome.answered.append((due, time.perf_counter() - zero - due))
        return 0.0

    def _ended_badly(self, error: grpc.aio.AioRpcError, due: float, took: float) -> float:
        pushback = [value for key, value in error.trailing_metadata() or () if key == "grpc-retry-pushback-ms"]
        if error.code() is grpc.StatusCode.UNAVAILABLE and pushback:
            self.outcome.refused.append((due, took))
            self.outcome.pushbacks.append(int(pushback[0]))
            return int(pushback[0]) / 1000
        told = f"{error.code().name}: {error.details()}"
        self.outcome.failed[told] = self.outcome.failed.get(told, 0) + 1
        return 0.0


async def generate(plans: Iterable[Plan]) -> list[Outcome]:
    """Run the plans side by side in this process."""
    channels: list[grpc.aio.Channel] = []
    loads = []
    for plan in plans:
        credentials = grpc.ssl_channel_credentials(*plan.files())
        own = [
            grpc.aio.secure_channel(
                plan.target, credentials, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            )
            for _ in range(plan.connections)
        ]
        channels += own
        loads.append(_Load(plan, own))
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    try:
        return list(await asyncio.gather(*(load.run() for load in loads)))
    finally:
        for channel in channels:
            await channel.close()


async def in_a_process(plans: Sequence[Plan]) -> list[Outcome]:
    """`generate`, in a process of its own, so that it waits for no event loop of ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.generator",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        written, _ = await process.communicate(json.dumps([asdict(plan) for plan in plans]).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the generator ended with {process.returncode}")
    return [Outcome(**read) for read in json.loads(written)]


def main() -> None:
    """Read plans, write outcomes."""
    outcomes = asyncio.run(generate([_plan(read) for read in json.load(sys.stdin)]))
    sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes]))


def _plan(read: dict[str, Any]) -> Plan:
    calls = tuple(
        Call(call["request"], tuple((key, value) for key, value in call["metadata"])) for call in read["calls"]
    )
    return Plan(**(read | {"calls": calls}))


if __name__ == "__main__":
    main()
