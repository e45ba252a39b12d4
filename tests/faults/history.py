"""What clients asked and were told, and whether the databases and the trail agree with it.

Lives here: `History` (filled by `load` while things break) and `check` (once everything is back and the outboxes are
empty). What must hold, each request by its request_id:

    an acknowledged mutation is in its database once, with exactly one event in the log;
    one that was not acknowledged is there once with one event, or not at all;
    a read that was served, or refused, has exactly one event that says so; one of unknown end has at most one event;
    nothing is in the databases or in the log that nobody asked for;
    the places of each log are contiguous and its head is right; no outbox holds anything.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

import asyncpg

from dmp.audit.v1 import audit_pb2
from ops.local.databases import database_name
from ops.local.stack import Stack
from ops.local.state import ServiceName
from services.audit.leaf import EventPlace, open_clear
from services.runtime.dossier_keys import DossierKeys
from services.runtime.keyring import Keyring

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Act(StrEnum):
    """What a client may ask, by the name that the trail gives it."""

    SUBMIT = "document.submit"
    GRANT = "authorization.grant"
    REVOKE = "authorization.revoke"
    GET = "document.get"
    READ = "document.read"

    @property
    def changes_consent(self) -> bool:
        """Whether it is a change of consent."""
        return self in (Act.GRANT, Act.REVOKE)

    @property
    def mutation(self) -> bool:
        """Whether it changes anything: then a retry is the same request."""
        return self is Act.SUBMIT or self.changes_consent


class End(StrEnum):
    """How a request ended for its client."""

    UNKNOWN = "unknown"
    SERVED = "served"
    REFUSED = "refused"


@dataclass(slots=True)
class Asked:
    """One request. A mutation may have been sent many times; a read that is tried again is another request."""

    act: Act
    health_id: int
    request_id: str
    end: End = End.UNKNOWN
    answer: Any = None
    sent: int = 0

    @property
    def acknowledged(self) -> bool:
        """Whether its client was told that it is done."""
        return self.end is End.SERVED


@dataclass(slots=True)
class History:
    """Every request, and what was wrong already when it was answered."""

    requests: dict[str, Asked] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def ask(self, act: Act, health_id: int) -> Asked:
        """A new request."""
        asked = Asked(act, health_id, f"{act.name.lower()}-{uuid.uuid4().hex}")
        self.requests[asked.request_id] = asked
        return asked

    def served(self, asked: Asked, answer: Any) -> None:
        """It was acknowledged; a second answer must be the first."""
        if asked.end is End.SERVED and asked.answer != answer:
            self.violation(asked, "two answers to one request_id differ")
        asked.end, asked.answer = End.SERVED, answer

    def refused(self, asked: Asked) -> None:
        """It was refused for good."""
        if asked.end is End.SERVED:
            self.violation(asked, "refused after it had been acknowledged")
        asked.end = End.REFUSED

    def violation(self, asked: Asked, what: str) -> None:
        """Something is wrong already."""
        self.violations.append(f"{asked.request_id}: {what}")

    def counts(self) -> Counter[str]:
        """How many requests there are by act and end."""
        return Counter(f"{asked.act} {asked.end}" for asked in self.requests.values())


_EVENTS: Final = """
SELECT log_id, leaf_index, health_id, event_id, producer, sealed FROM event WHERE leaf_index >= $1
ORDER BY log_id, leaf_index
"""
_LOG: Final = """
SELECT head.log_id, head.size, count(event.leaf_index) AS events, max(event.leaf_index) + 1 AS after_last,
       count(DISTINCT (event.producer, event.event_id)) AS different
FROM log_head AS head LEFT JOIN event ON event.log_id = head.log_id GROUP BY head.log_id, head.size
"""
_WITH_OUTBOX: Final[tuple[ServiceName, ...]] = ("identity", "consent", "document")


class Records:
    """The databases of a platform, seen from outside; `dsn` overrides where they are (after a failover)."""

    def __init__(self, stack: Stack, superuser_dsn: str = "") -> None:
        self._stack = stack
        self._dsn = superuser_dsn or stack.superuser_dsn()

    async def open(self, service: ServiceName) -> Connection:
        """A connection to the database of a service; to be closed."""
        return await asyncpg.connect(self._dsn.rpartition("/")[0] + "/" + database_name(service))

    async def fetch(self, service: ServiceName, query: str, *arguments: object) -> list[asyncpg.Record]:
        """One query."""
        connection = await self.open(service)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def log_size(self) -> int:
        """The place after the last event (one log)."""
        [row] = await self.fetch("audit", "SELECT coalesce(max(leaf_index) + 1, 0) FROM event")
        return int(row[0])

    async def undelivered(self) -> int:
        """Events in all outboxes."""
        counts = [await self.fetch(service, "SELECT count(*) FROM outbox") for service in _WITH_OUTBOX]
        return sum(int(rows[0][0]) for rows in counts)

    async def parked(self) -> int:
        """Events that a relay gave up on."""
        counts = [await self.fetch(service, "SELECT count(*) FROM outbox_parked") for service in _WITH_OUTBOX]
        return sum(int(rows[0][0]) for rows in counts)

    async def events(self, place: int) -> list[audit_pb2.AuditEvent]:
        """The events from a place on, opened."""
        keys = DossierKeys(Keyring.from_directory(self._stack.state.keyring("audit")), "audit")
        connection = await self.open("audit")
        try:
            rows = await connection.fetch(_EVENTS, place)
            opened = await keys.for_read(connection, [row["health_id"] for row in rows])
        finally:
            await connection.close()
        events = []
        for row in rows:
            where = EventPlace(row["health_id"], row["event_id"].bytes, row["log_id"])
            clear = open_clear(opened[row["health_id"]], row["sealed"], where).clear
            events.append(audit_pb2.AuditEvent.FromString(clear))
        return events


async def check(history: History, records: Records, dossiers: Sequence[int], since: int) -> list[str]:
    """Everything that is wrong, in words; empty when all promises were kept.

    `dossiers` are those that only the history's clients acted on since the log had `since` events.
    """
    wrong = list(history.violations)
    wrong += await _check_log(records)
    told: dict[str, list[audit_pb2.AuditEvent]] = defaultdict(list)
    for event in await records.events(since):
        if event.health_id in dossiers:
            told[event.request_id].append(event)
    wrong += [
        f"{name}: an event ({event.action}) that nobody asked for"
        for name, events in told.items()
        if name not in history.requests
        for event in events
    ]
    done = await _submissions(records, dossiers, told, wrong) | await _changes(records, dossiers, history, wrong)
    wrong += [f"{name}: an effect that nobody asked for" for name in done - history.requests.keys()]
    for asked in history.requests.values():
        wrong += _check_request(asked, asked.request_id in done, told.get(asked.request_id, []))
    return wrong


def _check_request(asked: Asked, done: bool, events: Sequence[audit_pb2.AuditEvent]) -> Iterable[str]:
    """What is wrong with one request."""
    name = asked.request_id
    outcomes = Counter(event.outcome for event in events)
    served, denied = outcomes.pop(audit_pb2.OUTCOME_SUCCESS, 0), outcomes.pop(audit_pb2.OUTCOME_DENIED, 0)
    if outcomes:
        yield f"{name}: events of an outcome that it cannot have had"
    if any(event.action != asked.act for event in events):
        yield f"{name}: an event of another action"
    if asked.act.mutation:
        if asked.end is End.SERVED and not done:
            yield f"{name}: acknowledged, and not there"
        if served != int(done) or denied:
            yield f"{name}: {'done' if done else 'not done'}, with {served} events that say so and {denied} denials"
        return
    if asked.end is End.UNKNOWN:
        if served + denied > 1:
            yield f"{name}: one read, {served + denied} events"
    elif (served, denied) != ((1, 0) if asked.end is End.SERVED else (0, 1)):
        yield f"{name}: {asked.end}, with {served} events that say served and {denied} that say denied"


async def _check_log(records: Records) -> list[str]:
    wrong = []
    for row in await records.fetch("audit", _LOG):
        size, events, after_last, different = row["size"], row["events"], row["after_last"] or 0, row["different"]
        if not size == events == after_last == different:
            wrong.append(
                f"log {row['log_id']}: head {size}, {events} events, {different} different, last place {after_last}"
            )
    if parked := await records.parked():
        wrong.append(f"{parked} events are parked")
    if undelivered := await records.undelivered():
        wrong.append(f"{undelivered} events are not delivered")
    return wrong


async def _submissions(
    records: Records, dossiers: Sequence[int], told: dict[str, list[audit_pb2.AuditEvent]], wrong: list[str]
) -> set[str]:
    """The request ids of the submissions in the database; appends what is wrong with their rows."""
    remembered = await records.fetch(
        "document", "SELECT request_id, response IS NULL AS open FROM idempotency WHERE health_id = ANY($1)", dossiers
    )
    wrong += [f"{row['request_id']}: claimed without an answer" for row in remembered if row["open"]]
    done = [row["request_id"] for row in remembered]
    sets = await records.fetch(
        "document", "SELECT submission_set_id::text AS id FROM submission_set WHERE health_id = ANY($1)", dossiers
    )
    documents = await records.fetch(
        "document",
        "SELECT document_id::text AS id, content.content_id IS NULL AS hollow FROM document"
        " LEFT JOIN content USING (health_id, content_id) WHERE health_id = ANY($1)",
        dossiers,
    )
    contents = await records.fetch("document", "SELECT FROM content WHERE health_id = ANY($1)", dossiers)
    wrong += [f"document {row['id']}: no content" for row in documents if row["hollow"]]
    if len(contents) != len(documents):
        wrong.append(f"{len(documents)} documents, {len(contents)} contents")
    there = {row["id"] for row in sets} | {row["id"] for row in documents}
    named = [
        name.rpartition("/")[2]
        for events in told.values()
        for event in events
        if event.action == Act.SUBMIT and event.outcome == audit_pb2.OUTCOME_SUCCESS
        for name in event.objects
    ]
    if sorted(named) != sorted(there):
        wrong.append(f"submission sets and documents: {len(there)} in the database, {len(named)} in the trail")
    if len(sets) != len(done) or len(documents) != len(done):
        wrong.append(f"{len(done)} submissions done, {len(sets)} sets, {len(documents)} documents")
    return set(done)


async def _changes(records: Records, dossiers: Sequence[int], history: History, wrong: list[str]) -> set[str]:
    """The request ids of the changes of consent in the database; appends what is wrong with their rows."""
    rows = await records.fetch(
        "consent",
        "SELECT health_id, epoch, kind, request_id FROM consent_event"
        " WHERE health_id = ANY($1) AND kind = ANY($2) ORDER BY health_id, epoch",
        dossiers,
        [str(act) for act in Act if act.changes_consent],
    )
    rows = [row for row in rows if not row["request_id"].startswith("author-")]  # granted when the dossier was made
    times = Counter(row["request_id"] for row in rows)
    wrong += [f"{name}: {count} changes of consent" for name, count in times.items() if count > 1]
    for row in rows:
        asked = history.requests.get(row["request_id"])
        if asked is not None and asked.end is End.SERVED and asked.answer.epoch != row["epoch"]:
            wrong.append(f"{asked.request_id}: acknowledged as epoch {asked.answer.epoch}, there as {row['epoch']}")
    gaps = await records.fetch(
        "consent",
        "SELECT health_id FROM dossier LEFT JOIN consent_event USING (health_id) WHERE health_id = ANY($1)"
        " GROUP BY health_id, dossier.epoch HAVING count(*) <> dossier.epoch OR max(consent_event.epoch)"
        " <> dossier.epoch",
        dossiers,
    )
    wrong += ["a dossier's epochs are not contiguous" for _ in gaps]
    return set(times)
