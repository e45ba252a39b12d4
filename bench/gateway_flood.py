"""`python -m bench.gateway_flood`: what a partner's flood does to a polite partner's latency.

In one run: the capacity of the FHIR front (closed loop); then, five times in turn, the polite partner alone at a tenth
of it, and the same beside another partner that asks for five times its quota. The flood has a process of its own, and
one of low priority, and the measuring process goes first where it may, as partners' machines would be others: the
latency that is measured is the gateway's. How late the measuring process itself is, is measured too, and how much the
flood did ask for. The quota is a fifth of the
capacity: the flood asks for all that the platform can do, and four fifths of it are refused. The polite partner is
measured once the burst that the flood's quota allows is over and its requests are refused: before that it does what it
may. Beside the latencies: what the gateway's process costs a request of the flood, in CPU time, by its cost beside the
flood less that alone.

Then, three times, the polite partner beside one that is within its quota and has 32 searches of a dossier of 256
documents under way all the time: it takes all that the platform can do, and is held to its share (decisions/0041).

Exit status 1 when the median of the polite partner's p99 beside the flood is more than twice that alone, or the flood
was none, or a call of the polite partner failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import uvloop
from joserfc.jwk import ECKey
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import page
from bench.asking import Asked, Outcome, Requests, go_at
from bench.figures import percentile
from bench.ground import fresh_state
from bench.machine import cpu_seconds, load_before
from bench.population import Extent, Population, another, populate, submission
from dmp.common.v1 import access_pb2, context_pb2
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from ops.demo.cda_document import DocumentKind, cda_document
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
SEARCHING: Final = "bench-searching"
_UNBOUNDED: Final = 100_000.0
"""A quota that nobody reaches."""
_SEARCHED: Final = 256
"""Documents of the dossier that is searched."""
_BEGUN: Final = 1.5
"""Seconds after which a process is under way."""
_QUOTA_SHARE: Final = 0.2
_METHOD: Final = "the flood asks for five times its quota, the polite one for a tenth of the capacity; medians"
_POLITE_SHARE: Final = 0.1
_TIMES: Final = 5
_ASKED_AT_LEAST: Final = 0.9
"""Of what the flood is to ask for: less is no flood."""
_LATER: Final = 4.0
"""Seconds for which the flood goes on beyond the time in which the polite partner is measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each measurement, how often beside the flood and beside the searches, how many dossiers."""

    seconds: float = 6.0
    rounds: int = 5
    searches: int = 3
    dossiers: int = 120


@dataclass(frozen=True, slots=True)
class Result:
    """Calls a second of the whole front; the polite partner alone, beside the flood and beside searches, by round; the
    flood itself, and the searches."""

    capacity: float
    flooded: float
    """Seconds of each flood."""
    alone: list[Outcome] = field(default_factory=list)
    beside: list[Outcome] = field(default_factory=list)
    beside_searches: list[Outcome] = field(default_factory=list)
    flood: Counter[int] = field(default_factory=Counter)
    searches: Counter[int] = field(default_factory=Counter)
    cpu_alone: list[float] = field(default_factory=list)
    """Seconds of CPU a second of the gateway's process."""
    cpu_beside: list[float] = field(default_factory=list)

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
        return _p99(self.beside) / _p99(self.alone)

    @property
    def failed(self) -> int:
        """Calls of the polite partner that were not served."""
        outcomes = (*self.alone, *self.beside, *self.beside_searches)
        return sum(sum(o.statuses.values()) - o.statuses[200] for o in outcomes)


def _p99(outcomes: list[Outcome]) -> float:
    return statistics.median(o.p(0.99) for o in outcomes)


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
        go_at(-20)
        measuring = await self._requests(POLITE)
        await measuring.closed(1.0)
        capacity = sum((await measuring.closed(plan.seconds / 2)).statuses.values()) / (plan.seconds / 2)
        await measuring.close()
        self._tell(f"capacity: {capacity:,.0f}/s")
        result = Result(capacity, plan.seconds + _LATER)
        for number in range(plan.rounds):
            before = cpu_seconds(self._gateway)
            result.alone.append(await self._polite(capacity))
            result.cpu_alone.append((cpu_seconds(self._gateway) - before) / plan.seconds)
            await self._beside_flood(result)
            alone, beside = result.alone[-1].p(0.99), result.beside[-1].p(0.99)
            self._tell(f"round {number + 1}: p99 alone {alone:.1f} ms, beside {beside:.1f} ms")
        path = await self._searched()
        for _ in range(plan.searches):
            await self._beside_searches(result, path)
        return result

    async def _beside_flood(self, result: Result) -> None:
        flooding = await self._flood(result.capacity)
        assert flooding.stdout is not None
        await asyncio.wait_for(flooding.stdout.readline(), 60)
        await asyncio.sleep(1.0)
        before = cpu_seconds(self._gateway)
        result.beside.append(await self._polite(result.capacity))
        result.cpu_beside.append((cpu_seconds(self._gateway) - before) / self._plan.seconds)
        result.flood.update(await _statuses(flooding))

    async def _beside_searches(self, result: Result, path: str) -> None:
        token = await self._token(SEARCHING, _UNBOUNDED, "ITI-67")
        searching = await self._process(token, [path], 0.0, self._plan.seconds + _BEGUN)
        await asyncio.sleep(_BEGUN)
        result.beside_searches.append(await self._polite(result.capacity))
        result.searches.update(await _statuses(searching))
        self._tell(f"beside searches: p99 {result.beside_searches[-1].p(0.99):.1f} ms")

    async def _searched(self) -> str:
        """A search of a dossier that has many documents."""
        dossier = self._population.dossiers[0]
        physician = self._population.physicians[dossier.physician]
        for start in range(0, _SEARCHED, 32):
            contents = [
                cda_document(dossier.patient, physician.person, physician.structure, DocumentKind.CONSULTATION, number)
                for number in range(start, start + 32)
            ]
            await self._session.call(
                "document",
                "SubmitDocuments",
                submission(dossier.health_id, [another(each) for each in contents]),
                document_pb2.SubmitDocumentsResponse,
                physician.direct,
            )
        patient = dossier.patient
        return f"/DocumentReference?patient.identifier=urn:oid:{patient.nir_oid}%7C{patient.nir}&_count=20"

    async def _polite(self, capacity: float) -> Outcome:
        requests = await self._requests(POLITE)
        outcome = await requests.paced(capacity * _POLITE_SHARE, self._plan.seconds)
        await requests.close()
        return outcome

    async def _flood(self, capacity: float) -> asyncio.subprocess.Process:
        """A process that asks for five times its quota, longer than the polite partner is measured; it says a line when
        the first of its requests is refused."""
        quota = capacity * _QUOTA_SHARE
        token = await self._token(FLOOD, quota, "TD0.2")
        return await self._process(token, self._paths(), quota * _TIMES, self._plan.seconds + _LATER)

    async def _process(self, token: str, paths: list[str], rate: float, seconds: float) -> asyncio.subprocess.Process:
        asked = Asked(self._session.endpoints.http, self._ca, paths, token, rate, seconds)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.asking",
            asked.argument(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    async def _requests(self, client_id: str) -> Requests:
        token = await self._token(client_id, _UNBOUNDED, "TD0.2")
        return Requests(self._session.endpoints.http, self._ca, self._paths(), token)

    def _paths(self) -> list[str]:
        """TD0.2 of each dossier by its INS: through gateway, identity, consent and audit."""
        people = (dossier.patient for dossier in self._population.dossiers)
        return [f"/Patient?identifier=urn:oid:{person.nir_oid}%7C{person.nir}" for person in people]

    async def _token(self, client_id: str, quota: float, scope: str) -> str:
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
                scopes=[scope],
                bounds=pb.Bounds(actors=[context_pb2.ACTOR_KIND_PROFESSIONAL], professions=["*"], structures=["*"]),
                jwks=json.dumps({"keys": [public]}),
                quota=pb.Quota(requests_per_second=quota, burst=max(1, int(quota))),
            ),
            replace=True,
        )
        statement = self._population.physicians[self._population.dossiers[0].physician].partner
        return await self._session.token(Statement(client_id, statement.fields))


async def _statuses(process: asyncio.subprocess.Process) -> Counter[int]:
    """What became of a process's requests, once it has ended."""
    out, _ = await process.communicate()
    return Counter({int(status): count for status, count in json.loads(out).items()})


def table(result: Result) -> Table:
    """The rows, for a terminal."""
    shown = Table("polite partner", "rate/s", "p50 ms", "p95 ms", "p99 ms", box=SIMPLE_HEAD)
    for name, outcomes in (
        ("alone", result.alone),
        ("beside the flood", result.beside),
        ("beside searches", result.beside_searches),
    ):
        rate = result.capacity * _POLITE_SHARE
        figures = (statistics.median(o.p(share) for o in outcomes) for share in (0.5, 0.95, 0.99))
        shown.add_row(name, f"{rate:,.0f}", *(f"{figure:.1f}" for figure in figures))
    return shown


def main() -> int:
    """Run, print; the exit status."""
    arguments = _arguments()
    out, busy = Console(highlight=False), load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        plan = Plan(seconds=2.0, rounds=2, searches=1, dossiers=20) if arguments.quick else Plan()
        result = runner.run(run(plan, lambda text: out.print(text, style="dim")))
    shown = table(result)
    out.print(shown)
    refused = result.flood[429]
    out.print(f"flood: {sum(result.flood.values()):,} calls, {refused:,} refused with 429, {dict(result.flood)}")
    enough = result.ratio <= MOST and not result.failed and refused > 0 and result.asked >= _ASKED_AT_LEAST
    note = (
        f"p99 beside the flood: {result.ratio:.2f} times that alone, {MOST} at most; {result.failed} calls failed;"
        f" a request of the flood costs the gateway {result.cost:.0f} µs of CPU; it asked for"
        f" {result.asked:.0%} of what it was to; the measuring process was late by {result.lag[0]:.1f} ms alone,"
        f" {result.lag[1]:.1f} beside (p99)"
    )
    out.print(note, style=None if enough else "red")
    slow = (
        f"beside 32 searches of {_SEARCHED} documents all the time, within their quota: p99"
        f" {_p99(result.beside_searches) / _p99(result.alone):.1f} times that alone;"
        f" {result.searches[200] / (len(result.beside_searches) * (plan.seconds + _BEGUN)):,.0f} searches/s served"
    )
    out.print(slow)
    if not arguments.quick:
        page.publish("flood", "A flood and a polite partner", shown, note, slow, _METHOD, busy=busy)
    return 0 if enough else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway_flood", description="A flood and a polite one.")
    parser.add_argument("--quick", action="store_true", help="a short look on a small population")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
