"""Deciding many accesses at once (BatchCheckAccess), and a caller's own standing (TD0.2).

Facts are read from the primary after the request came. Concurrent calls share one statement through a coalescer, and
none ever joins a statement that was already sent: a revocation acknowledged before a call began is always seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Final, NamedTuple

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.acting import Actor, read_actor
from services.consent.changes import Clock
from services.consent.decision import Applied, Case, Decision, decide
from services.consent.functional_rights import FunctionalRights
from services.consent.mapping import read_document, write_filter
from services.consent.rights_versions import RightsVersions
from services.consent.seeing import Filter
from services.consent.values import Document, Dossier, Facts
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError, FieldViolation, to_status
from services.runtime.postgres import Pool, translate

_ACTIONS: Final = frozenset(pb.Action.values()) - {pb.ACTION_UNSPECIFIED}
_WITHOUT_DOSSIER: Final = frozenset({pb.ACTION_FIND_PATIENT, pb.ACTION_LIST_ACCESSIBLE})
_CALLS_A_STATEMENT: Final = 64
_STATEMENTS_UNDER_WAY: Final = 2

Count = Callable[[int, str, str], None]


class Check(NamedTuple):
    """One access to decide; `document` where it is about a single one whose attributes are known."""

    actor: Actor
    health_id: int
    action: int
    document: Document | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one dossier and one actor, and the rights in force, all of one snapshot."""

    dossier: Dossier | None
    facts: Facts | None
    rights: FunctionalRights


class _Batch(NamedTuple):
    facts: list[Facts | None]
    rights: FunctionalRights


class AccessChecks:
    """Decides. `count` gets a number, an access mode and `ok` or `refused`, for the metrics."""

    def __init__(self, pool: Pool, rights: RightsVersions, clock: Clock, count: Count | None = None) -> None:
        self._pool = pool
        self._rights = rights
        self._clock = clock
        self._count = count
        self._facts: Coalescer[list[store.Asked], _Batch] = Coalescer(
            "consent-facts", self._read_facts, max_batch=_CALLS_A_STATEMENT, in_flight=_STATEMENTS_UNDER_WAY
        )
        self._standings: Coalescer[store.Asked, Found] = Coalescer(
            "consent-standings", self._read_standings, in_flight=_STATEMENTS_UNDER_WAY
        )

    async def decide(self, checks: Sequence[Check], timeout: float | None = None) -> list[Decision]:
        """The decisions, in order. Raises DmpError (never a yes) when the facts cannot be read in time."""
        if not checks:
            return []
        batch = await self._facts.submit(
            [asked_of(check.actor, check.health_id) for check in checks],
            timeout=timeout,
        )
        now = self._clock()
        rights = batch.rights
        decisions = [
            decide(Case(actor, action, health_id, fact, rights, now, document))
            for (actor, health_id, action, document), fact in zip(checks, batch.facts, strict=True)
        ]
        if self._count is not None:
            self._counted(checks, decisions)
        return decisions

    async def find(self, actor: Actor, health_id: int, timeout: float | None = None) -> Found:
        """A dossier, the facts about one actor, and the rights in force."""
        return await self._standings.submit(asked_of(actor, health_id), timeout=timeout)

    async def judge(
        self, check: Check, timeout: float | None = None, applied: list[Applied] | None = None
    ) -> tuple[Found, Decision]:
        """One decision with what it rests on."""
        found = await self.find(check.actor, check.health_id, timeout)
        case = Case(
            check.actor, check.action, check.health_id, found.facts, found.rights, self._clock(), check.document
        )
        return found, decide(case, applied)

    async def close(self) -> None:
        """Refuse new checks, finish those accepted."""
        await self._facts.close()
        await self._standings.close()

    def _counted(self, checks: Sequence[Check], decisions: Sequence[Decision]) -> None:
        assert self._count is not None  # noqa: S101 (asked before)
        counted: dict[tuple[str, bool], int] = {}
        for check, decision in zip(checks, decisions, strict=True):
            key = (check.actor.mode, decision.reason is None)
            counted[key] = counted.get(key, 0) + 1
        for (mode, permitted), number in counted.items():
            self._count(number, mode, "ok" if permitted else "refused")

    async def _read_facts(self, calls: list[list[store.Asked]]) -> Sequence[_Batch | DmpError]:
        try:
            known = await store.read_facts(self._pool, list(chain.from_iterable(calls)))
            rights = self._rights.known(known.rights_version)
            if rights is None:
                rights = await self._rights.of(self._pool, known.rights_version)
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is decided
            raise translate(error) from error
        facts = iter(known.answers)
        return [_Batch(list(islice(facts, len(asked))), rights) for asked in calls]

    async def _read_standings(self, asked: list[store.Asked]) -> Sequence[Found | DmpError]:
        try:
            known = await store.read_standings(self._pool, asked)
            rights = await self._rights.of(self._pool, known.rights_version)
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
            raise translate(error) from error
        return [
            Found(None, None, rights) if found is None else Found(found[0], found[1], rights) for found in known.answers
        ]


def asked_of(actor: Actor, health_id: int) -> store.Asked:
    """The question for the facts about an actor in a dossier."""
    return store.Asked(health_id, actor.professional, actor.structure, actor.representative)


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
        for request in requests:
            fault = _fault(request)
            if fault is None:
                document = read_document(request.document) if request.HasField("document") else None
                actor = read_actor_of(request.context.actor)
                checks.append(Check(actor, request.health_id, request.action, document))
            results.append(fault)
        decided = iter(await self._checks.decide(checks, timeout))
        return pb.BatchCheckAccessResponse(
            results=[self._write(next(decided)) if result is None else result for result in results]
        )

    def _write(self, decision: Decision) -> pb.CheckAccessResult:
        bounds = decision.filter
        if bounds is None:
            return pb.CheckAccessResult(decision=write_refusal(decision))
        return pb.CheckAccessResult(
            decision=pb.Decision(
                permitted=True,
                epoch=decision.epoch,
                filter=self._filter(bounds),
                rights_version=decision.rights_version,
                linked=decision.linked,
                basis=decision.basis,  # type: ignore[arg-type]
            )
        )

    def _filter(self, bounds: Filter) -> pb.Filter:
        """There are few filters but for those that name a structure, so the others are written once."""
        if bounds.imputed_structure:
            return write_filter(bounds)
        written = self._filters.get(bounds)
        if written is None:
            written = self._filters[bounds] = write_filter(bounds)
        return written


def write_decision(decision: Decision) -> pb.Decision:
    """A decision as the contract shows it."""
    if decision.filter is None:
        return write_refusal(decision)
    return pb.Decision(
        permitted=True,
        epoch=decision.epoch,
        filter=write_filter(decision.filter),
        rights_version=decision.rights_version,
        linked=decision.linked,
        basis=decision.basis,  # type: ignore[arg-type]
    )


def write_refusal(decision: Decision) -> pb.Decision:
    """A no as the contract shows it."""
    return pb.Decision(
        reason=decision.reason,  # type: ignore[arg-type]
        epoch=decision.epoch,
        rights_version=decision.rights_version,
        merged_into=decision.merged_into,
    )


def read_actor_of(context: ActingContext) -> Actor:
    """The actor of one item. Callers are few and repeat, and an actor follows from its context alone."""
    return _actor(context.SerializeToString())


@lru_cache(maxsize=8192)
def _actor(context: bytes) -> Actor:
    return read_actor(ActingContext.FromString(context))


def _fault(request: pb.CheckAccessRequest) -> pb.CheckAccessResult | None:
    if request.action not in _ACTIONS:
        return _wrong("action", "enum.defined_only", "not an action of the contract")
    if request.health_id <= 0 and not (request.health_id == 0 and request.action in _WITHOUT_DOSSIER):
        return _wrong("health_id", "int64.gt", "a health id is positive")
    return None


def _wrong(field: str, rule: str, description: str) -> pb.CheckAccessResult:
    error = DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=(FieldViolation(field, rule, description),))
    return pb.CheckAccessResult(status=to_status(error))
