"""Whether a history of consent could have happened one operation after another, each between its beginning and its end.

Every change of a dossier has an epoch of its own, and every decision says the epoch that it was made on, so the one
order that there can be is given, and checking it is quick. What must hold, dossier by dossier:

    each epoch was made by one change, and the changes follow one another: one that began after another's end has a
    higher epoch;
    a decision is what follows from the changes up to its epoch (written here once more, apart from the service);
    a decision knows every change that was acknowledged before it was asked for (nothing is stale), and none that began
    after it was answered;
    a decision asked for after another's answer is made on no older epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

CHANGES = ("open", "grant", "revoke", "block", "unblock", "close", "reopen")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: what, about whom, on which dossier; when it began and ended (one clock for all processes); the
    epoch that its answer names; for a check, the verdict: `yes` or the name of the reason."""

    kind: str
    dossier: int
    whom: str
    begun: float
    ended: float
    epoch: int
    verdict: str = ""

    def __str__(self) -> str:
        span = f"[{self.begun:.6f}, {self.ended:.6f}]"
        return f"{self.kind} {self.whom} {self.verdict} at epoch {self.epoch} {span}"


@dataclass(slots=True)
class Model:
    """A dossier, as the changes so far leave it."""

    open: bool = False
    granted: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)

    def applies(self, change: Operation) -> bool:
        """Make a change; whether it changed anything."""
        before = (self.open, frozenset(self.granted), frozenset(self.blocked))
        match change.kind:
            case "open" | "reopen":
                self.open = True
            case "close":
                self.open = False
            case "grant":
                self.granted.add(change.whom)
            case "revoke":
                self.granted.discard(change.whom)
            case "block":
                self.blocked.add(change.whom)
                self.granted.discard(change.whom)
            case "unblock":
                self.blocked.discard(change.whom)
        return before != (self.open, frozenset(self.granted), frozenset(self.blocked))

    def verdict(self, whom: str) -> str:
        """What a check of this professional must say."""
        if whom in self.blocked:
            return "BLOCKED"
        if not self.open:
            return "DOSSIER_CLOSED"
        return "yes" if whom in self.granted else "AUTHORIZATION_MISSING"


def violations(operations: Iterable[Operation]) -> list[str]:
    """Everything that cannot have happened; empty for a history that can."""
    by_dossier: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_dossier[operation.dossier].append(operation)
    return [wrong for each in by_dossier.values() for wrong in _violations(each)]


def _violations(operations: Sequence[Operation]) -> Iterator[str]:
    changes = [each for each in operations if each.kind in CHANGES]
    checks = [each for each in operations if each.kind == "check"]
    made, wrong = _made(changes)
    yield from wrong
    verdicts = _verdicts(made, {each.whom for each in checks})
    for check in checks:
        expected = verdicts.get((check.epoch, check.whom))
        if expected is None:
            yield f"{check}: no change has made this epoch"
        elif expected != check.verdict:
            yield f"{check}: at this epoch it is {expected}"
    yield from _stale(changes, checks, made)
    yield from _backwards(checks)


def _made(changes: Sequence[Operation]) -> tuple[dict[int, Operation], list[str]]:
    """The change that made each epoch. Others that name it found things so already, and changed nothing."""
    named: defaultdict[int, list[Operation]] = defaultdict(list)
    for change in changes:
        named[change.epoch].append(change)
    made: dict[int, Operation] = {}
    wrong: list[str] = []
    model = Model()
    last: Operation | None = None
    for epoch in range(1, max(named, default=0) + 1):
        made_by = next((each for each in named[epoch] if model.applies(each)), None)
        if made_by is None:
            wrong.append(f"epoch {epoch}: no change has made it")
            continue
        maker = made[epoch] = _one_of(made_by, named[epoch])
        wrong += [f"{each}: it changed something at {maker}'s epoch" for each in named[epoch] if model.applies(each)]
        if last is not None and maker.ended < last.begun:
            wrong.append(f"{maker}: after {last}, which began when it had ended")
        last = maker if last is None or maker.begun > last.begun else last
    return made, wrong


def _one_of(made_by: Operation, named: Sequence[Operation]) -> Operation:
    """Of several that did the same, one made the epoch and the others found it so: within the span of all of them."""
    same = [each for each in named if (each.kind, each.whom) == (made_by.kind, made_by.whom)]
    return replace(made_by, begun=min(each.begun for each in same), ended=max(each.ended for each in same))


def _verdicts(made: dict[int, Operation], people: set[str]) -> dict[tuple[int, str], str]:
    model = Model()
    verdicts: dict[tuple[int, str], str] = {}
    for epoch in sorted(made):
        model.applies(made[epoch])
        verdicts |= {(epoch, whom): model.verdict(whom) for whom in people}
    return verdicts


def _stale(changes: Sequence[Operation], checks: Sequence[Operation], made: dict[int, Operation]) -> Iterator[str]:
    """Checks that did not know an acknowledged change, or knew one that had not begun."""
    acknowledged = sorted(changes, key=lambda change: change.ended)
    newest, known = 0, 0
    for check in sorted(checks, key=lambda check: check.begun):
        while known < len(acknowledged) and acknowledged[known].ended < check.begun:
            newest = max(newest, acknowledged[known].epoch)
            known += 1
        if check.epoch < newest:
            yield f"{check}: stale, epoch {newest} had been acknowledged"
        maker = made.get(check.epoch)
        if maker is not None and maker.begun > check.ended:
            yield f"{check}: it knew {maker}, which had not begun"


def _backwards(checks: Sequence[Operation]) -> Iterator[str]:
    answered = sorted(checks, key=lambda check: check.ended)
    newest, known = 0, 0
    for check in sorted(checks, key=lambda check: check.begun):
        while known < len(answered) and answered[known].ended < check.begun:
            newest = max(newest, answered[known].epoch)
            known += 1
        if check.epoch < newest:
            yield f"{check}: an earlier answer knew epoch {newest}"
