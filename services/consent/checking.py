"""Deciding many accesses at once (BatchCheckAccess), and a caller's own standing (TD0.2).

Facts are read from the primary after the request came. Concurrent calls share one statement through a coalescer, and
none ever joins a statement that was already sent: a revocation acknowledged before a call began is always seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.acting import Actor, read_actor
from services.consent.changes import Clock
from services.consent.decision import Decision, Filter, decide
from services.consent.functional_rights import FunctionalRights
from services.consent.mapping import write_filter
from services.consent.values import Dossier, Facts
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError, FieldViolation, to_status
from services.runtime.postgres import Pool, translate

_ACTIONS: Final = frozenset(pb.Action.values()) - {pb.ACTION_UNSPECIFIED}
_CALLS_A_STATEMENT: Final = 64
_STATEMENTS_UNDER_WAY: Final = 2

Count = Callable[[int, str, str], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One access to decide."""

    actor: Actor
    health_id: int
    action: int


class AccessChecks:
    """Decides. `count` gets a number, an access mode and `ok` or `refused`, for the metrics."""

    def __init__(self, pool: Pool, rights: FunctionalRights, clock: Clock, count: Count | None = None) -> None:
        self._pool = pool
        self._rights = rights
        self._clock = clock
        self._count = count
        self._facts: Coalescer[list[store.Asked], list[Facts | None]] = Coalescer(
            "consent-facts", self._read_facts, max_batch=_CALLS_A_STATEMENT, in_flight=_STATEMENTS_UNDER_WAY
        )
        self._standings: Coalescer[store.Asked, _Found] = Coalescer(
            "consent-standings", self._read_standings, in_flight=_STATEMENTS_UNDER_WAY
        )

    async def decide(self, checks: Sequence[Check], timeout: float | None = None) -> list[Decision]:
        """The decisions, in order. Raises DmpError (never a yes) when the facts cannot be read in time."""
        if not checks:
            return []
        facts = await self._facts.submit(
            [store.Asked(check.health_id, check.actor.professional, check.actor.structure) for check in checks],
            timeout=timeout,
        )
        now = self._clock()
        rights = self._rights
        decisions = [
            decide(check.actor, check.action, check.health_id, fact, rights, now)
            for check, fact in zip(checks, facts, strict=True)
        ]
        if self._count is not None:
            for check, decision in zip(checks, decisions, strict=True):
                self._count(1, check.actor.mode, "ok" if decision.reason is None else "refused")
        return decisions

    async def find(self, actor: Actor, health_id: int, timeout: float | None = None) -> tuple[Dossier, Facts] | None:
        """A dossier and the facts about one actor; None where there is no dossier."""
        asked = store.Asked(health_id, actor.professional, actor.structure)
        return (await self._standings.submit(asked, timeout=timeout)).value

    async def close(self) -> None:
        """Refuse new checks, finish those accepted."""
        await self._facts.close()
        await self._standings.close()

    async def _read_facts(self, calls: list[list[store.Asked]]) -> Sequence[list[Facts | None] | DmpError]:
        try:
            facts = iter(await store.read_facts(self._pool, list(chain.from_iterable(calls))))
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is decided
            raise translate(error) from error
        return [list(islice(facts, len(asked))) for asked in calls]

    async def _read_standings(self, asked: list[store.Asked]) -> Sequence[_Found | DmpError]:
        try:
            return [_Found(found) for found in await store.read_standings(self._pool, asked)]
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
            raise translate(error) from error


@dataclass(frozen=True, slots=True)
class _Found:
    value: tuple[Dossier, Facts] | None


class BatchAnswers:
    """Reads a batch of checks and writes its answers; an item that is wrong is answered in its own place.

    The contract's own validation would refuse a batch whole, and its items belong to different calls.
    """

    def __init__(self, checks: AccessChecks) -> None:
        self._checks = checks
        self._filters: dict[Filter, pb.Filter] = {}

    async def answer(
        self, requests: Iterable[pb.CheckAccessRequest], timeout: float | None
    ) -> pb.BatchCheckAccessResponse:
        """The results in the order of the requests."""
        checks: list[Check] = []
        results: list[pb.CheckAccessResult | None] = []
        actors: dict[bytes, Actor] = {}
        for request in requests:
            fault = _fault(request)
            if fault is None:
                checks.append(Check(_actor(request.context.actor, actors), request.health_id, request.action))
            results.append(fault)
        decided = iter(await self._checks.decide(checks, timeout))
        return pb.BatchCheckAccessResponse(
            results=[self._write(next(decided)) if result is None else result for result in results]
        )

    def _write(self, decision: Decision) -> pb.CheckAccessResult:
        bounds = decision.filter
        if bounds is None:
            return pb.CheckAccessResult(
                decision=pb.Decision(reason=decision.reason, epoch=decision.epoch)  # type: ignore[arg-type]
            )
        return pb.CheckAccessResult(
            decision=pb.Decision(permitted=True, epoch=decision.epoch, filter=self._filter(bounds))
        )

    def _filter(self, bounds: Filter) -> pb.Filter:
        """There are few filters but for those that name a structure, so the others are written once."""
        if bounds.imputed_structure:
            return write_filter(bounds)
        written = self._filters.get(bounds)
        if written is None:
            written = self._filters[bounds] = write_filter(bounds)
        return written


def _actor(context: ActingContext, known: dict[bytes, Actor]) -> Actor:
    """The actor of one item; the items of one batch often have the same."""
    key = context.SerializeToString()
    actor = known.get(key)
    if actor is None:
        actor = known[key] = read_actor(context)
    return actor


def _fault(request: pb.CheckAccessRequest) -> pb.CheckAccessResult | None:
    if request.action not in _ACTIONS:
        return _wrong("action", "enum.defined_only", "not an action of the contract")
    if request.health_id <= 0:
        return _wrong("health_id", "int64.gt", "a health id is positive")
    return None


def _wrong(field: str, rule: str, description: str) -> pb.CheckAccessResult:
    error = DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=(FieldViolation(field, rule, description),))
    return pb.CheckAccessResult(status=to_status(error))
