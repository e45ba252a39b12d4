"""What partners ask of the gateway, as load: GETs on kept connections, so many a second or as many as can be.

`python -m bench.asking <what>` is a partner's own process, told in JSON what to ask for (`Asked`). It has what others
leave of the processors, as its machine would be another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import uvloop

from bench.figures import percentile

CONNECTIONS: Final = 32
"""Of who asks for as much as can be."""
REFUSED: Final = "refused"
"""What a process says once its first request is refused."""
_HEAD: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a process asks for: GETs of these paths in turn, `rate` a second, or as many as can be at a rate of 0."""

    base: str
    ca: str
    paths: list[str]
    token: str
    rate: float
    seconds: float

    def argument(self) -> str:
        """As the process is told."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Outcome:
    """Calls by HTTP status, and the latencies in seconds of those that were served."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    """How late this process itself was, in seconds."""

    def p(self, share: float) -> float:
        """A percentile in milliseconds."""
        return percentile(sorted(self.latencies), share) * 1000


class Requests:
    """GETs on kept connections, over TLS, with nothing decoded but status and length."""

    def __init__(self, base: str, ca: str, paths: list[str], token: str) -> None:
        parts = urlsplit(base)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._trust = ssl.create_default_context(cafile=ca)
        self._pick: Callable[[], bytes] = cycle(
            [f"GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n".encode() for path in paths]
        ).__next__
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(self, outcome: Outcome) -> None:
        """One request, on a free connection or a new one."""
        began = time.perf_counter()
        try:
            reader, writer, head = await self._ask(*(self._free.pop() if self._free else await self._opened()))
        except (asyncio.IncompleteReadError, ConnectionError):  # idle for so long that the gateway had closed it
            reader, writer, head = await self._ask(*await self._opened())
        await reader.readexactly(_length(head))
        status = int(head[9:12])
        outcome.statuses[status] += 1
        if status == 200:
            outcome.latencies.append(time.perf_counter() - began)
        self._free.append((reader, writer))

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, ssl=self._trust)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """The next request on a connection, and the head of its answer."""
        writer.write(self._pick())
        return reader, writer, await reader.readuntil(_HEAD)

    async def closed(self, seconds: float) -> Outcome:
        """As many as can be, `CONNECTIONS` at once."""
        outcome, ends = Outcome(), time.perf_counter() + seconds

        async def loop() -> None:
            while time.perf_counter() < ends:
                await self.one(outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(loop())
        return outcome

    async def paced(
        self, rate: float, seconds: float, outcome: Outcome | None = None, began: Callable[[], object] | None = None
    ) -> Outcome:
        """So many a second, whatever becomes of them; at most 512 under way. `began` is called when one is refused."""
        outcome, begins, number = outcome or Outcome(), time.perf_counter(), 0
        under_way: set[asyncio.Task[None]] = set()
        while (now := time.perf_counter()) < begins + seconds:
            while number < (now - begins) * rate and len(under_way) < 512:
                task = asyncio.create_task(self.one(outcome))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                number += 1
            if began is not None and outcome.statuses[429]:
                began()
                began = None
            slept, pause = time.perf_counter(), min(0.005, 1 / rate)
            await asyncio.sleep(pause)
            outcome.lags.append(time.perf_counter() - slept - pause)
        await asyncio.gather(*under_way)
        return outcome

    async def close(self) -> None:
        """Close every connection."""
        for _, writer in self._free:
            writer.close()
        self._free.clear()


def _length(head: bytes) -> int:
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    return int(lower[start : lower.index(b"\r\n", start)])


async def ask(asked: Asked) -> Counter[int]:
    """Ask, and count the statuses of the answers."""
    requests = Requests(asked.base, asked.ca, asked.paths, asked.token)
    if asked.rate:
        outcome = await requests.paced(asked.rate, asked.seconds, began=lambda: print(REFUSED, flush=True))
    else:
        outcome = await requests.closed(asked.seconds)
    await requests.close()
    return outcome.statuses


def go_at(priority: int) -> None:
    """Have this process come before others for a processor (-20), or after them (19), as far as it may. Where Linux
    shares the processors among sessions (autogroup), a process's own priority counts within its session alone."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, priority)
        Path("/proc/self/autogroup").write_text(str(priority), "ascii")


def main() -> int:
    """Ask, print the statuses."""
    go_at(19)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(ask(Asked(**json.loads(sys.argv[1]))))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
