"""One service that is forked from what has imported it, for tests that start it again and again: starting Python and
importing a service takes longer than most of what is asked of it.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from ops.local.state import ServiceName
from tests.faults.fleet import Replica, Zygote


class Process(Protocol):
    """As much of asyncio's processes as is used of those that are started and of those that are forked."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def kill(self) -> None: ...
    def send_signal(self, number: int, /) -> None: ...
    async def communicate(self) -> tuple[bytes, bytes]: ...


class Forked:
    """A forked process."""

    def __init__(self, replica: Replica, log: Path) -> None:
        self._replica = replica
        self._log = log

    @property
    def pid(self) -> int:
        """Its id."""
        return self._replica.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._replica.code if self._replica.ended.is_set() else None

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        await self._replica.ended.wait()
        return self._replica.code

    def kill(self) -> None:
        """`kill -9`."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int, /) -> None:
        """A signal, unless it is gone."""
        self._replica.send(signal.Signals(number))

    async def communicate(self) -> tuple[bytes, bytes]:
        """Nothing, and what it has logged, once it has ended."""
        await self.wait()
        return b"", self._log.read_bytes()


Fork: TypeAlias = Callable[[ServiceName, Mapping[str, str], Path], Awaitable[Process]]


def forking(zygote: Zygote) -> Fork:
    """How to have a service with this environment, which logs to this file."""

    async def fork(service: ServiceName, env: Mapping[str, str], log: Path) -> Process:
        return Forked(await zygote.fork(service, 0, env, log), log)

    return fork
