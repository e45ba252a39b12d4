"""The load: closed loops of calls, each started when the one before it has been answered.

One generator for the baseline and for the platform: raw bytes out, raw bytes in, nothing decoded, the same number of
connections. It runs in the bench's own process and event loop, on the same cores as what it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from bench.figures import Measurement

CONNECTIONS: Final = 4
TIMEOUT: Final = 30.0
"""Seconds after which a call counts as failed."""

Metadata = tuple[tuple[str, str], ...]
Channel: TypeAlias = Any
"""A `grpc.aio.Channel`, or `bench.light`'s, which has unary calls alone."""


class WrongAnswer(Exception):
    """A call ended well and its answer is not what it must be."""


class CallsFailed(Exception):
    """A measurement had failures: it measures nothing. The message has their number and the first of them."""


class Workload(Protocol):
    """What is called. `send` makes the next call on a connection; it raises when the call or its answer is wrong."""

    def send(self, connection: int) -> Awaitable[None]: ...


@dataclass(slots=True)
class Account:
    """Every call made, warm-up included, and what came of it."""

    answered: int = 0
    failed: int = 0
    first_failure: str = ""
    latencies: list[float] = field(default_factory=list)


def connect(
    target: str, credentials: grpc.ChannelCredentials | None, connections: int = CONNECTIONS
) -> list[grpc.aio.Channel]:
    """The connections to one server; in clear without credentials."""
    options: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),  # else channels of one target share a connection
        ("grpc.max_receive_message_length", 64 << 20),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]
    if credentials is None:
        return [grpc.aio.insecure_channel(target, options) for _ in range(connections)]
    return [grpc.aio.secure_channel(target, credentials, options) for _ in range(connections)]


async def measure(
    work: Workload, in_flight: int, *, warm_up: float, seconds: float, connections: int = CONNECTIONS
) -> Measurement:
    """Keep `in_flight` calls under way for `warm_up` and then `seconds`, on `connections` of the work's; the calls that
    ended in the latter.

    Returns when every call is answered. Raises CallsFailed when one was not.
    """
    account = Account()
    begins = time.perf_counter() + warm_up
    ends = begins + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(in_flight):
            group.create_task(_loop(work.send, number % connections, begins, ends, account))
    if account.failed:
        raise CallsFailed(f"{account.failed} of {account.failed + account.answered}: {account.first_failure}")
    return Measurement(seconds, tuple(account.latencies), account.answered)


async def _loop(
    send: Callable[[int], Awaitable[None]], connection: int, begins: float, ends: float, account: Account
) -> None:
    clock = time.perf_counter
    started = clock()
    while started < ends:
        try:
            await send(connection)
        except (grpc.aio.AioRpcError, WrongAnswer) as error:
            account.failed += 1
            account.first_failure = account.first_failure or _told(error)
            if account.failed > 100:
                return
            started = clock()
            continue
        ended = clock()
        account.answered += 1
        if begins <= ended <= ends:
            account.latencies.append(ended - started)
        started = ended


def _told(error: grpc.aio.AioRpcError | WrongAnswer) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)


class Unary:
    """A unary method, called with requests that `pick` chooses; an answer shorter than `at_least` bytes is wrong."""

    def __init__(
        self,
        channels: Sequence[Channel],
        path: str,
        pick: Callable[[], tuple[bytes, Metadata]],
        *,
        at_least: int,
    ) -> None:
        self._calls: list[Any] = [channel.unary_unary(path) for channel in channels]
        self._pick = pick
        self._at_least = at_least

    async def send(self, connection: int) -> None:
        """One call."""
        request, metadata = self._pick()
        answer: bytes = await self._calls[connection](request, metadata=metadata, timeout=TIMEOUT)
        if len(answer) < self._at_least:
            raise WrongAnswer(f"an answer of {len(answer)} bytes")


class Stream:
    """A server-streaming method, as `Unary`; `at_least` bounds the sum of the answers."""

    def __init__(
        self,
        channels: Sequence[Channel],
        path: str,
        pick: Callable[[], tuple[bytes, Metadata]],
        *,
        at_least: int,
    ) -> None:
        self._calls: list[Any] = [channel.unary_stream(path) for channel in channels]
        self._pick = pick
        self._at_least = at_least

    async def send(self, connection: int) -> None:
        """One call, read to its end."""
        request, metadata = self._pick()
        size = 0
        async for part in self._calls[connection](request, metadata=metadata, timeout=TIMEOUT):
            size += len(part)
        if size < self._at_least:
            raise WrongAnswer(f"answers of {size} bytes together")
