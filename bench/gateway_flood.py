"""`python -m bench.gateway_flood`: what a partner's flood does to a polite partner's latency.

In one run: the capacity of the FHIR front (closed loop); then, five times in turn, the polite partner alone at a tenth
of it, and the same beside another partner that asks for five times its quota. The flood has a process of its own, and
one of low priority, as its partner's machine would be another: the latency that is measured is the gateway's. How late
the measuring process itself is, is measured too, and how much the flood did ask for. The quota is a fifth of the
capacity: the flood asks for all that the platform can do, and four fifths of it are refused. The polite partner is
measured once the burst that the flood's quota allows is over and its requests are refused: before that it does what it
may. Beside the latencies: what the gateway's process costs a request of the flood, in CPU time, by its cost beside the
flood less that alone.

Exit status 1 when the median of the polite partner's p99 beside the flood is more than twice that alone, or the flood
was none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final
from urllib.parse import urlsplit

import uvloop
from joserfc.jwk import ECKey
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import page
from bench.figures import percentile
from bench.ground import fresh_state
from bench.machine import cpu_seconds, load_before
from bench.population import Extent, Population, populate
from dmp.common.v1 import access_pb2, context_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from ops.endpoints import publish
from ops.local.pki import CertificateAuthority
from ops.local.stack import ROOT, Stack
from ops.migrations import migrate
from ops.partners import Partners
from ops.session import Session, Statement

MOST: Final = 2.0
"""How much larger the polite partner's median p99 may be beside the flood."""
FLOOD: Final = "bench-flood"
POLITE: Final = "bench-polite"
_CONNECTIONS: Final = 32
_QUOTA_SHARE: Final = 0.2
_METHOD: Final = "the flood asks for five times its quota, the polite one for a tenth of the capacity; medians"
_POLITE_SHARE: Final = 0.1
_TIMES: Final = 5
_ASKED_AT_LEAST: Final = 0.9
"""Of what the flood is to ask for: less is no flood."""
_LATER: Final = 5.0
"""Seconds for which the flood goes on beyond the time in which the polite partner is measured."""
_HEAD: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each measurement, how often, how many dossiers."""

    seconds: float = 8.0
    rounds: int = 5
    dossiers: int = 120


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
        """As many as can be, `_CONNECTIONS` at once."""
        outcome, ends = Outcome(), time.perf_counter() + seconds

        async def loop() -> None:
            while time.perf_counter() < ends:
                await self.one(outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(_CONNECTIONS):
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


@dataclass(frozen=True, slots=True)
class Result:
    """Calls a second of the whole front; the polite partner alone and beside the flood, by round; the flood itself."""

    capacity: float
    alone: list[Outcome]
    beside: list[Outcome]
    flood: Counter[int]
    cpu_alone: list[float]
    """Seconds of CPU a second of the gateway's process."""
    cpu_beside: list[float]
    flooded: float
    """Seconds of each flood."""

    @property
    def cost(self) -> float:
        """Microseconds of the gateway's CPU for a request of the flood, most of which are refused."""
        more = statistics.median(self.cpu_beside) - statistics.median(self.cpu_alone)
        return more / (self.capacity * _QUOTA_SHARE * _TIMES) * 1e6

    @property
    def asked(self) -> float:
        """How much the flood asked for, as a part of what it was to ask for."""
        return sum(self.flood.values()) / (len(self.beside) * self.flooded * self.capacity * _QUOTA_SHARE * _TIMES)

    @property
    def lag(self) -> tuple[float, float]:
        """The median p99 of how late the measuring process was, alone and beside the flood, in milliseconds."""
        alone, beside = (
            statistics.median(percentile(sorted(o.lags), 0.99) for o in outcomes) * 1000
            for outcomes in (self.alone, self.beside)
        )
        return alone, beside

    @property
    def ratio(self) -> float:
        """The median p99 beside the flood, to that alone."""
        return statistics.median(o.p(0.99) for o in self.beside) / statistics.median(o.p(0.99) for o in self.alone)


async def run(plan: Plan, tell: Callable[[str], None]) -> Result:
    """A fresh platform, two partners, the measurements."""
    async with fresh_state() as state:
        tell("starting the platform")
        async with Stack(state, migrate=migrate) as stack, Session(state, publish(stack)) as session:
            tell(f"feeding {plan.dossiers} dossiers")
            population = await populate(session, Extent(dossiers=plan.dossiers, documents_each=1, large=1))
            return await _Bench(plan, tell, session, population, stack.pid("gateway")).all()


class _Bench:
    def __init__(
        self, plan: Plan, tell: Callable[[str], None], session: Session, population: Population, gateway: int
    ) -> None:
        self._plan = plan
        self._tell = tell
        self._session = session
        self._population = population
        self._gateway = gateway
        self._ca = str(CertificateAuthority(session.state).certificate_path)
        self._partners = Partners(session)

    async def all(self) -> Result:
        plan = self._plan
        measuring = await self._requests(POLITE, 100_000)
        await measuring.closed(1.0)
        capacity = sum((await measuring.closed(plan.seconds / 2)).statuses.values()) / (plan.seconds / 2)
        await measuring.close()
        self._tell(f"capacity: {capacity:,.0f}/s")
        alone: list[Outcome] = []
        beside: list[Outcome] = []
        cpu_alone, cpu_beside = list[float](), list[float]()
        flood: Counter[int] = Counter()
        for number in range(plan.rounds):
            before = cpu_seconds(self._gateway)
            alone.append(await self._polite(capacity))
            cpu_alone.append((cpu_seconds(self._gateway) - before) / plan.seconds)
            flooding = await self._flood(capacity)
            assert flooding.stdout is not None
            await asyncio.wait_for(flooding.stdout.readline(), 60)
            await asyncio.sleep(1.0)
            before = cpu_seconds(self._gateway)
            beside.append(await self._polite(capacity))
            cpu_beside.append((cpu_seconds(self._gateway) - before) / plan.seconds)
            out, _ = await flooding.communicate()
            flood += Counter({int(status): count for status, count in json.loads(out).items()})
            self._tell(f"round {number + 1}: p99 alone {alone[-1].p(0.99):.1f} ms, beside {beside[-1].p(0.99):.1f} ms")
        return Result(capacity, alone, beside, flood, cpu_alone, cpu_beside, plan.seconds + _LATER)

    async def _polite(self, capacity: float) -> Outcome:
        requests = await self._requests(POLITE, 100_000)
        outcome = await requests.paced(capacity * _POLITE_SHARE, self._plan.seconds)
        await requests.close()
        return outcome

    async def _flood(self, capacity: float) -> asyncio.subprocess.Process:
        """A process that asks for five times its quota, longer than the polite partner is measured; it says a line when
        the first of its requests is refused."""
        quota = capacity * _QUOTA_SHARE
        token = await self._token(FLOOD, quota)
        told = {
            "base": self._session.endpoints.http,
            "ca": self._ca,
            "paths": self._paths(),
            "token": token,
            "rate": quota * _TIMES,
            "seconds": self._plan.seconds + _LATER,
        }
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.gateway_flood",
            "--flood",
            json.dumps(told),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )

    async def _requests(self, client_id: str, quota: float) -> Requests:
        return Requests(self._session.endpoints.http, self._ca, self._paths(), await self._token(client_id, quota))

    def _paths(self) -> list[str]:
        """TD0.2 of each dossier by its INS: through gateway, identity, consent and audit."""
        people = (dossier.patient for dossier in self._population.dossiers)
        return [f"/Patient?identifier=urn:oid:{person.nir_oid}%7C{person.nir}" for person in people]

    async def _token(self, client_id: str, quota: float) -> str:
        """A token of a partner with a quota; the partner is registered, or its quota changed."""
        from ops.local.keys import ensure_client_key

        key = ensure_client_key(self._session.state, client_id)
        public = ECKey.import_key(json.loads(key.private_key.read_bytes())).as_dict(private=False)
        await self._partners.register(
            pb.Partner(
                client_id=client_id,
                kind=access_pb2.CALLER_KIND_PARTNER,
                software=context_pb2.Software(id=client_id, name=client_id, version="1"),
                profiles=[pb.APPROVAL_PROFILE_CONSULTATION],
                scopes=["TD0.2"],
                bounds=pb.Bounds(actors=[context_pb2.ACTOR_KIND_PROFESSIONAL], professions=["*"], structures=["*"]),
                jwks=json.dumps({"keys": [public]}),
                quota=pb.Quota(requests_per_second=quota, burst=max(1, int(quota))),
            ),
            replace=True,
        )
        statement = self._population.physicians[0].partner
        return await self._session.token(Statement(client_id, statement.fields))


async def flood(told: str) -> Counter[int]:
    """The flood itself."""
    os.nice(10)
    plan = json.loads(told)
    requests = Requests(plan["base"], plan["ca"], plan["paths"], plan["token"])
    outcome = await requests.paced(plan["rate"], plan["seconds"], began=lambda: print("refused", flush=True))
    await requests.close()
    return outcome.statuses


def table(result: Result) -> Table:
    """The rows, for a terminal."""
    shown = Table("polite partner", "rate/s", "p50 ms", "p95 ms", "p99 ms", box=SIMPLE_HEAD)
    for name, outcomes in (("alone", result.alone), ("beside the flood", result.beside)):
        rate = result.capacity * _POLITE_SHARE
        figures = (statistics.median(o.p(share) for o in outcomes) for share in (0.5, 0.95, 0.99))
        shown.add_row(name, f"{rate:,.0f}", *(f"{figure:.1f}" for figure in figures))
    return shown


def main() -> int:
    """Run, print; the exit status."""
    arguments = _arguments()
    out, busy = Console(highlight=False), load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.flood:
            print(json.dumps(runner.run(flood(arguments.flood))))
            return 0
        plan = Plan(seconds=2.0, rounds=2, dossiers=20) if arguments.quick else Plan()
        result = runner.run(run(plan, lambda text: out.print(text, style="dim")))
    shown = table(result)
    out.print(shown)
    refused = result.flood[429]
    out.print(f"flood: {sum(result.flood.values()):,} calls, {refused:,} refused with 429, {dict(result.flood)}")
    failed = sum(sum(o.statuses.values()) - o.statuses[200] for o in (*result.alone, *result.beside))
    enough = result.ratio <= MOST and not failed and refused > 0 and result.asked >= _ASKED_AT_LEAST
    note = (
        f"p99 beside the flood: {result.ratio:.2f} times that alone, {MOST} at most; {failed} polite calls failed;"
        f" a request of the flood costs the gateway {result.cost:.0f} µs of CPU; it asked for"
        f" {result.asked:.0%} of what it was to; the measuring process was late by {result.lag[0]:.1f} ms alone,"
        f" {result.lag[1]:.1f} beside (p99)"
    )
    out.print(note, style=None if enough else "red")
    if not arguments.quick:
        page.publish("flood", "A flood and a polite partner", shown, note, _METHOD, busy=busy)
    return 0 if enough else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway_flood", description="A flood and a polite one.")
    parser.add_argument("--quick", action="store_true", help="a short look on a small population")
    parser.add_argument("--flood", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
