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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from bench.light import CallEnded, LightCallers
from bench.load import Channel, WrongAnswer, connect
from ops.local.pki import Identity

TIMEOUT: Final = 20.0
_CONNECTIONS: Final = 4
_TICK: Final = 0.002
_MOST_OUTSTANDING: Final = 4096
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Call:
    """One request as bytes, in base64 for the way here, and its metadata."""

    request: str
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Calls of one unary method: `rate` a second as they come (open), or else `loops` that each wait for their answer.

    `calls` are drawn from at random. With `patient`, a loop that is pushed back waits as long as it was told. With
    `light` they are sent by `bench.light`: a crowd that grpcio's client could not send on the processors that are left.
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
    light: bool = False

    def identity(self) -> Identity:
        """Who calls."""
        return Identity("", Path(self.certificate), Path(self.key), Path(self.authority))

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
    def __init__(self, plan: Plan, channels: Sequence[Channel]) -> None:
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
                if self._outstanding >= _MOST_OUTSTANDING:
                    self.outcome.unsent += 1
                elif self._plan.light:
                    self._cast(zero, due)
                else:
                    self._outstanding += 1
                    group.create_task(self._one(zero, due))
                due += self._random.expovariate(self._plan.rate)
            self._turn += 1
            await asyncio.sleep(_TICK)
        while self._plan.light and self._outstanding:  # noqa: ASYNC110 (an event would cost each call its setting)
            await asyncio.sleep(_TICK)

    def _cast(self, zero: float, due: float) -> None:
        """One call without a task of its own. What is due in a tick goes by one connection, as what a gateway relays
        does: a packet for each call would cost the generator what a call costs the platform."""
        self._outstanding += 1
        request, metadata = self._calls[int(self._random.random() * len(self._calls))]
        answer = self._sends[self._turn % len(self._sends)](request, metadata=metadata, timeout=TIMEOUT)
        answer.add_done_callback(partial(self._came, zero, due))

    def _came(self, zero: float, due: float, answer: asyncio.Future[bytes]) -> None:
        self._outstanding -= 1
        self._ended(answer.exception(), due, time.perf_counter() - zero - due)

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
        failure: BaseException | None = None
        try:
            await send(request, metadata=metadata, timeout=TIMEOUT)
        except (grpc.aio.AioRpcError, WrongAnswer) as error:
            failure = error
        finally:
            self._outstanding -= 1
        return self._ended(failure, due, time.perf_counter() - zero - due)

    def _ended(self, failure: BaseException | None, due: float, took: float) -> float:
        """Count a call; how long it was asked to stay away, in seconds."""
        if failure is None:
            self.outcome.answered.append((due, took))
            return 0.0
        trailers: Mapping[str, str] = {}
        if isinstance(failure, grpc.aio.AioRpcError):
            code, said = failure.code(), failure.details() or ""
            trailers = {key: str(value) for key, value in failure.trailing_metadata() or ()}
        elif isinstance(failure, CallEnded):
            code, said, trailers = _CODES[failure.status], failure.trailers.get("grpc-message", ""), failure.trailers
        else:
            code, said = grpc.StatusCode.UNAVAILABLE, str(failure)
        pushback = trailers.get("grpc-retry-pushback-ms")
        if code is grpc.StatusCode.UNAVAILABLE and pushback is not None:
            self.outcome.refused.append((due, took))
            self.outcome.pushbacks.append(int(pushback))
            return int(pushback) / 1000
        told = f"{code.name}: {said}"
        self.outcome.failed[told] = self.outcome.failed.get(told, 0) + 1
        return 0.0


async def generate(plans: Iterable[Plan]) -> list[Outcome]:
    """Run the plans side by side in this process."""
    async with AsyncExitStack() as resources:
        loads = [_Load(plan, await _connected(plan, resources)) for plan in plans]
        return list(await asyncio.gather(*(load.run() for load in loads)))


async def _connected(plan: Plan, resources: AsyncExitStack) -> Sequence[Channel]:
    if plan.light:
        return await LightCallers(resources).connect(plan.target, plan.identity(), plan.connections)
    channels = connect(plan.target, grpc.ssl_channel_credentials(*plan.files()), plan.connections)
    for channel in channels:
        resources.push_async_callback(channel.close)
        await channel.channel_ready()
    return channels


async def in_a_process(plans: Sequence[Plan]) -> list[Outcome]:
    """`generate`, in a process and a session of its own: it waits for no event loop of ours, and has a share of its own
    where the system shares processors between sessions first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.generator",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes = runner.run(generate([_plan(read) for read in json.load(sys.stdin)]))
    sys.stdout.write(json.dumps([asdict(outcome) for outcome in outcomes]))


def _plan(read: dict[str, Any]) -> Plan:
    calls = tuple(
        Call(call["request"], tuple((key, value) for key, value in call["metadata"])) for call in read["calls"]
    )
    return Plan(**(read | {"calls": calls}))


if __name__ == "__main__":
    main()
