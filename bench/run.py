"""One run: a fresh platform with a fresh population, the echo beside it, and each workload between two echoes.

The order is what makes the ratios fair on a noisy machine: at each level, in each round,

    echo  read_metadata  echo  read_content  echo  gateway_read_metadata  echo  submit  echo

and a workload is compared with the echoes just before and just after it. Nothing is kept: the platform, its databases
and its keys are deleted at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import grpc.aio

from bench import load, workloads
from bench.echo import PATH as ECHO_PATH
from bench.figures import ECHO, IN_FLIGHT, WORK, Measurement, Name, Ratio, Row, pooled, ratio, row
from bench.ground import echo_server, fresh_state
from bench.load import Unary
from bench.machine import Machine, load_before, machine
from bench.observer import Observer, served
from bench.population import Extent, Population, populate
from bench.usage import Cost, Usage, costs, usage_of
from bench.workloads import Reads, Submissions, Work
from ops.acts import Acts
from ops.endpoints import publish
from ops.local.registrations import INTERNAL
from ops.local.stack import Stack
from ops.migrations import migrate
from ops.session import Session, client_credentials

Tell = Callable[[str], None]
"""Where a run says what it does."""

_SAMPLE_DOSSIERS: Final = 3
_BUSIEST: Final = IN_FLIGHT[-1]
_TRANSPORT: Final = "grpcio"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often: seconds of a workload at one level over all rounds, seconds of one echo, warm-up of each
    measurement."""

    seconds: float = 3.0
    rounds: int = 2
    echo_seconds: float = 0.8
    warm_up: float = 0.3
    extent: Extent = field(default_factory=Extent)

    @property
    def slice(self) -> float:
        """Seconds of one measurement of a workload."""
        return self.seconds / self.rounds


@dataclass(frozen=True, slots=True)
class TrailCheck:
    """Calls answered and events found, by what was called; all rows of the log and the different events in them;
    reads and events of the sample dossiers."""

    answered: tuple[tuple[Name, int], ...]
    recorded: tuple[tuple[Name, int], ...]
    rows: int
    events: int
    sample_reads: int
    sample_events: int

    @property
    def exact(self) -> bool:
        """Whether each call has exactly one event."""
        return self.answered == self.recorded and self.rows == self.events and self.sample_reads == self.sample_events


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found."""

    machine: Machine
    plan: Plan
    echo_bytes: int
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    plain_echo: Row
    costs: tuple[Cost, ...]
    trail: TrailCheck


async def run(plan: Plan, tell: Tell) -> Result:
    """Do all of it. Raises CallsFailed, NotSettled, DmpError, ChildFailed when something cannot be measured."""
    busy = load_before()
    async with fresh_state() as state:
        tell("starting the platform")
        async with Stack(state, migrate=migrate) as stack, Session(state, publish(stack)) as session:
            tell(f"feeding {plan.extent.dossiers} dossiers")
            population = await populate(session, plan.extent)
            observer = await Observer.open(stack)
            try:
                async with echo_server(stack, secure=True) as echo, echo_server(stack, secure=False) as plain:
                    bench = _Run(plan, tell, stack, session, population, observer, echo, plain, busy)
                    return await bench.all()
            finally:
                await observer.close()


class _Run:
    """The measurements of one run, as they come."""

    def __init__(
        self,
        plan: Plan,
        tell: Tell,
        stack: Stack,
        session: Session,
        population: Population,
        observer: Observer,
        echo: str,
        plain: str,
        busy: float,
    ) -> None:
        self._plan = plan
        self._tell = tell
        self._stack = stack
        self._session = session
        self._population = population
        self._observer = observer
        self._echo_address = echo
        self._plain_address = plain
        self._busy = busy
        self._measured: dict[tuple[Name, int], list[Measurement]] = {}
        self._neighbours: dict[tuple[Name, int], list[Measurement]] = {}
        self._recorded: dict[Name, int] = dict.fromkeys(WORK, 0)
        self._usage: dict[Name, Usage] = {}
        self._echo_bytes = 0

    async def all(self) -> Result:
        """Every level, then the checks."""
        credentials = client_credentials(self._stack.internal(INTERNAL))
        async with contextlib.AsyncExitStack() as channels:

            async def connect(target: str, secure: grpc.ChannelCredentials | None) -> list[grpc.aio.Channel]:
                made = load.connect(target, secure)
                for channel in made:
                    channels.push_async_callback(channel.close)
                    await channel.channel_ready()
                return made

            direct = await connect(self._stack.address("document"), credentials)
            relay = await connect(self._stack.address("gateway"), credentials)
            work = self._works(direct, relay)
            sizes = await workloads.exchanged_bytes(
                self._session, direct[0], self._population.small[0], self._population.physicians[0]
            )
            self._echo_bytes = sum(sizes) // 2
            echo = self._echo_load(await connect(self._echo_address, credentials))
            plain = self._echo_load(await connect(self._plain_address, None))
            for in_flight in IN_FLIGHT:
                await self._level(in_flight, work, echo)
            plain_echo = await self._baseline(plain, _BUSIEST, keep=False)
        return Result(
            machine=machine(await self._observer.postgresql(), self._busy),
            plan=self._plan,
            echo_bytes=self._echo_bytes,
            rows=tuple(
                row(name, _TRANSPORT, in_flight, pooled(self._measured[name, in_flight]))
                for in_flight in IN_FLIGHT
                for name in (ECHO, *WORK)
            ),
            ratios=tuple(self._ratio(name, in_flight) for in_flight in IN_FLIGHT for name in WORK),
            plain_echo=row(ECHO, _TRANSPORT, _BUSIEST, plain_echo),
            costs=costs(self._usage),
            trail=await self._check_trail(work),
        )

    def _works(self, direct: list[grpc.aio.Channel], relay: list[grpc.aio.Channel]) -> dict[Name, Work]:
        session, population = self._session, self._population
        return {
            "read_metadata": workloads.read_metadata(session, direct, population),
            "read_content": workloads.read_content(session, direct, population),
            "gateway_read_metadata": workloads.gateway_read_metadata(session, relay, population),
            "submit": Submissions(session, direct, population),
        }

    def _echo_load(self, channels: list[grpc.aio.Channel]) -> Unary:
        payload = bytes(self._echo_bytes)
        return Unary(channels, ECHO_PATH, lambda: (payload, ()), at_least=self._echo_bytes)

    async def _level(self, in_flight: int, work: dict[Name, Work], echo: Unary) -> None:
        for number in range(self._plan.rounds):
            self._tell(f"{in_flight} in flight, round {number + 1} of {self._plan.rounds}")
            before = await self._baseline(echo, in_flight)
            for name, each in work.items():
                await self._measure(name, in_flight, each)
                after = await self._baseline(echo, in_flight)
                self._neighbours.setdefault((name, in_flight), []).extend((before, after))
                before = after

    async def _baseline(self, echo: Unary, in_flight: int, *, keep: bool = True) -> Measurement:
        plan = self._plan
        measured = await load.measure(echo, in_flight, warm_up=plan.warm_up, seconds=plan.echo_seconds)
        if keep:
            self._measured.setdefault((ECHO, in_flight), []).append(measured)
        return measured

    async def _measure(self, name: Name, in_flight: int, work: Work) -> None:
        """One measurement of a workload, and the events that it left."""
        plan = self._plan
        await work.prepare(plan.slice + plan.warm_up)
        events = await self._observer.size()
        used = usage_of(self._stack)
        measured = await load.measure(work.load, in_flight, warm_up=plan.warm_up, seconds=plan.slice)
        if in_flight == _BUSIEST:
            spent = usage_of(self._stack).since(used, measured.answered)
            self._usage[name] = self._usage.get(name, Usage()) + spent
        self._recorded[name] += await self._observer.size() - events
        self._measured.setdefault((name, in_flight), []).append(measured)

    def _ratio(self, name: Name, in_flight: int) -> Ratio:
        return ratio(
            name, in_flight, pooled(self._measured[name, in_flight]), pooled(self._neighbours[name, in_flight])
        )

    async def _check_trail(self, work: dict[Name, Work]) -> TrailCheck:
        self._tell("counting events")
        answered = {
            name: sum(each.answered for in_flight in IN_FLIGHT for each in self._measured[name, in_flight])
            for name in WORK
        }
        tally = await self._observer.tally()
        reads = [each for each in work.values() if isinstance(each, Reads)]
        acts = Acts(self._session, self._population.physicians[0].direct)
        actions = frozenset({"document.get", "document.read"})
        sample = range(1, 1 + _SAMPLE_DOSSIERS)  # dossier 0 was also read to learn the size of an answer
        events = [await served(acts, self._population.dossiers[number].health_id, actions) for number in sample]
        return TrailCheck(
            answered=tuple(answered.items()),
            recorded=tuple(self._recorded.items()),
            rows=tally.rows,
            events=tally.events,
            sample_reads=sum(each.sent[number] for each in reads for number in sample),
            sample_events=sum(events),
        )
