"""Every statement of the audit service, each with its contract. No rule, no key, no protobuf here.

`dossier_key` is the business of `services.runtime.dossier_keys`. All statements name the log, which is the
distribution column; each runs once for a batch, whatever its size.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from services.runtime.postgres import Connection

ADD_LOGS: Final = """
INSERT INTO log_head (log_id) SELECT * FROM unnest($1::bigint[]) ON CONFLICT (log_id) DO NOTHING
"""
HEADS: Final = """
SELECT log_id, size, (SELECT max(leaf_index) FROM event WHERE event.log_id = log_head.log_id) AS last_leaf
FROM log_head ORDER BY log_id
"""
MOVE_HEAD: Final = "UPDATE log_head SET size = size + $2 WHERE log_id = $1 RETURNING size"
FIND: Final = """
SELECT event_id, producer, leaf_index, content_digest
FROM event WHERE log_id = $1 AND event_id = ANY($2::uuid[])
"""
INSERT: Final = """
INSERT INTO event (log_id, leaf_index, health_id, event_id, producer, event_time, secret,
                   actor_digest, content_digest, leaf, sealed)
SELECT $1::bigint, $2::bigint + place - 1, health_id, event_id, producer, event_time, secret,
       actor_digest, content_digest, leaf, sealed
FROM unnest($3::bigint[], $4::uuid[], $5::text[], $6::timestamptz[], $7::boolean[],
            $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[]) WITH ORDINALITY
     AS fresh (health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed, place)
"""
# The same for new events of dossiers that have their keys, whole or not at all: the keys are held as `dossier_keys`
# does it and must be those that sealed, then the head moves (its row orders every appender), then the rows are there.
APPEND: Final = """
WITH held AS MATERIALIZED (
    SELECT k.health_id
    FROM unnest($2::bigint[], $3::bytea[]) AS used (health_id, wrapped)
    JOIN dossier_key k ON k.health_id = used.health_id AND k.wrapped = used.wrapped
    FOR KEY SHARE OF k
), head AS (
    UPDATE log_head SET size = size + cardinality($5::uuid[])
    WHERE log_id = $1 AND (SELECT count(*) FROM held) = cardinality($2::bigint[])
    RETURNING size - cardinality($5::uuid[]) AS first
), added AS (
    INSERT INTO event (log_id, leaf_index, health_id, event_id, producer, event_time, secret,
                       actor_digest, content_digest, leaf, sealed)
    SELECT $1::bigint, head.first + place - 1, health_id, event_id, producer, event_time, secret,
           actor_digest, content_digest, leaf, sealed
    FROM head, unnest($4::bigint[], $5::uuid[], $6::text[], $7::timestamptz[], $8::boolean[],
                      $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[]) WITH ORDINALITY
         AS fresh (health_id, event_id, producer, event_time, secret, actor_digest, content_digest, leaf, sealed, place)
)
SELECT first FROM head
"""
# A clear part whose time has come is empty (retention): its event is in no answer any more.
TRAIL: Final = """
SELECT leaf_index, event_id, sealed, event_time
FROM event
WHERE log_id = $1 AND health_id = $2 AND leaf_index < $3 AND (NOT secret OR $4) AND sealed <> ''
ORDER BY leaf_index DESC LIMIT $5
"""
TRAIL_OF_ACTOR: Final = """
SELECT leaf_index, event_id, sealed, event_time
FROM event
WHERE log_id = $1 AND health_id = $2 AND actor_digest = $6 AND leaf_index < $3 AND (NOT secret OR $4) AND sealed <> ''
ORDER BY leaf_index DESC LIMIT $5
"""
TRAIL_IN_PERIOD: Final = """
SELECT leaf_index, event_id, sealed, event_time
FROM event
WHERE log_id = $1 AND health_id = $2 AND leaf_index < $3 AND (NOT secret OR $4) AND sealed <> ''
  AND event_time >= $6 AND event_time < $7
ORDER BY leaf_index DESC LIMIT $5
"""
TRAIL_OF_ACTOR_IN_PERIOD: Final = """
SELECT leaf_index, event_id, sealed, event_time
FROM event
WHERE log_id = $1 AND health_id = $2 AND actor_digest = $8 AND leaf_index < $3 AND (NOT secret OR $4) AND sealed <> ''
  AND event_time >= $6 AND event_time < $7
ORDER BY leaf_index DESC LIMIT $5
"""
TRAIL_FORWARD: Final = """
SELECT leaf_index, event_id, sealed, event_time
FROM event
WHERE log_id = $1 AND health_id = $2 AND leaf_index >= $3 AND (NOT secret OR $4) AND sealed <> ''
  AND event_time >= $6 AND event_time < $7
ORDER BY leaf_index LIMIT $5
"""
ONE: Final = """
SELECT leaf_index, event_id, sealed, event_time, health_id
FROM event WHERE log_id = $1 AND event_id = $2 AND sealed <> ''
"""
PLACES: Final = "SELECT leaf_index FROM event WHERE log_id = $1 AND event_id = $2 AND producer = $3"

ALWAYS: Final = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
"""A period that leaves nothing out."""
END_OF_LOG: Final = (1 << 63) - 1
"""A place after every event."""


class LogHead(NamedTuple):
    """A log as its head row and its last event tell; `last_leaf` is None for a log without events."""

    log_id: int
    size: int
    last_leaf: int | None


class KnownEvent(NamedTuple):
    """An event that the log holds already."""

    leaf_index: int
    content_digest: bytes


class EventColumns(NamedTuple):
    """Rows to insert, at least one, column by column, as they are sent; the place of a row is that of its order."""

    health_id: Sequence[int]
    event_id: Sequence[uuid.UUID]
    producer: Sequence[str]
    event_time: Sequence[datetime]
    secret: Sequence[bool]
    actor_digest: Sequence[bytes]
    content_digest: Sequence[bytes]
    leaf: Sequence[bytes]
    sealed: Sequence[bytes]


class SealedEvent(NamedTuple):
    """An event of a trail, still sealed."""

    leaf_index: int
    event_id: uuid.UUID
    sealed: bytes
    event_time: datetime


async def add_logs(conn: Connection, count: int) -> None:
    """Creates the head rows 0 … count-1 that are not there."""
    await conn.execute(ADD_LOGS, list(range(count)))


async def heads(conn: Connection) -> list[LogHead]:
    """Every log, from one snapshot."""
    return [LogHead(*row) for row in await conn.fetch(HEADS)]


async def take_places(conn: Connection, log_id: int, count: int) -> int:
    """Locks the head until the transaction ends, moves it by `count`, and returns the first place.

    What is read afterwards in the transaction sees all that was appended before. LookupError without such a log.
    """
    size: int | None = await conn.fetchval(MOVE_HEAD, log_id, count)
    if size is None:
        raise LookupError(f"there is no log {log_id}")
    return size - count


async def give_back(conn: Connection, log_id: int, count: int) -> None:
    """Moves the head back by the last `count` places taken in this transaction and not used."""
    await conn.execute(MOVE_HEAD, log_id, -count)


async def find_events(
    conn: Connection, log_id: int, event_ids: Sequence[uuid.UUID]
) -> dict[tuple[str, bytes], KnownEvent]:
    """Those of the events that the log holds, by producer and event id."""
    records = await conn.fetch(FIND, log_id, event_ids)
    return {
        (producer, event_id.bytes): KnownEvent(leaf_index, digest) for event_id, producer, leaf_index, digest in records
    }


async def insert_events(conn: Connection, log_id: int, first: int, rows: EventColumns) -> None:
    """Inserts the rows at the places `first`, `first` + 1, …, which `take_places` gave."""
    await conn.execute(INSERT, log_id, first, *rows)


async def append_whole(conn: Connection, log_id: int, wrapped: Mapping[int, bytes], rows: EventColumns) -> int | None:
    """Appends the rows in one statement, outside of any transaction; the place of the first.

    `wrapped` is, for each dossier, the key that sealed its rows, as it was stored. None, with nothing done, when one of
    them is not what is stored now. asyncpg.UniqueViolationError, with nothing done, when the log has one of the events.
    """
    first: int | None = await conn.fetchval(APPEND, log_id, list(wrapped), list(wrapped.values()), *rows)
    return first


class TrailQuery(NamedTuple):
    """Which part of a dossier's trail: secret connections or not, one actor's digest if given, a period if given."""

    log_id: int
    health_id: int
    with_secret: bool
    actor: bytes | None = None
    period: tuple[datetime, datetime] | None = None


ReadTrail = Callable[[Connection, TrailQuery, int, int], Awaitable[list[SealedEvent]]]
"""`trail_before` or `trail_from`."""


async def trail_before(conn: Connection, query: TrailQuery, before: int, limit: int) -> list[SealedEvent]:
    """At most `limit` events at places below `before`, newest first."""
    arguments = (query.log_id, query.health_id, before, query.with_secret, limit)
    actor = () if query.actor is None else (query.actor,)
    if query.period is None:
        records = await conn.fetch(TRAIL_OF_ACTOR if actor else TRAIL, *arguments, *actor)
    else:
        statement = TRAIL_OF_ACTOR_IN_PERIOD if actor else TRAIL_IN_PERIOD
        records = await conn.fetch(statement, *arguments, *query.period, *actor)
    return [SealedEvent(*record) for record in records]


async def trail_from(conn: Connection, query: TrailQuery, start: int, limit: int) -> list[SealedEvent]:
    """At most `limit` events at places from `start` on, oldest first; the query's actor is not looked at."""
    arguments = (query.log_id, query.health_id, start, query.with_secret, limit, *(query.period or ALWAYS))
    return [SealedEvent(*record) for record in await conn.fetch(TRAIL_FORWARD, *arguments)]


async def find_one(conn: Connection, log_id: int, health_id: int, event_id: uuid.UUID) -> list[SealedEvent]:
    """The events of a dossier under an id: one for each producer that used it, so nearly always at most one."""
    records = await conn.fetch(ONE, log_id, event_id)
    return [SealedEvent(*record[:4]) for record in records if record[4] == health_id]


async def places_of(conn: Connection, log_id: int, event_id: bytes, producer: str) -> list[int]:
    """Where a producer's event is in a log: at most one place."""
    return [record[0] for record in await conn.fetch(PLACES, log_id, uuid.UUID(bytes=event_id), producer)]
