"""What this service tells of its own acts upon the log: told once, durable before it is done, and read by who verifies.

They are events about no dossier, so nothing in a tile tells that they are these; their clear parts are kept for ever.

    dossier.destroy   the dossier `objects[0]` is destroyed
    trace.expire      of `objects[0]` (logs/{log}/retention/{kind}/{first}-{last}) the clear parts of the leaves that
                      the other objects list, as `0-5,7` counted from the first, are given up; `changes` say after how
                      many months that kind is
    log.adopt         what was kept before rows bore tags is taken as it is; the actor is the operator who wished it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import store, tree_store
from services.audit.append import AuditLog
from services.audit.entry import EntryDigests
from services.audit.leaf import EventPlace, commitment, open_clear
from services.audit.rules import PRODUCER, SYSTEM_HEALTH_ID, log_of
from services.audit.tags import Place
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, dossier_of
from services.runtime.postgres import Connection, Pool
from services.runtime.sealing import DossierKey, SealBroken

_ACQUIRE_SECONDS: Final = 5.0
_LONGEST_OBJECT: Final = 256
_EXPIRED: Final = re.compile(r"logs/([0-9]{1,4})/retention/([^/]+)/([0-9]{1,18})-([0-9]{1,18})")
_RUN: Final = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")


class Destroyed(NamedTuple):
    """A dossier is destroyed."""

    health_id: int


class Expired(NamedTuple):
    """Clear parts of a kind are given up, of those from `start` on, before `end`."""

    log_id: int
    kind: str
    months: int
    start: int
    end: int
    leaves: frozenset[int]


class Adopted(NamedTuple):
    """What had no tags was taken as it was."""


class Told(NamedTuple):
    """Where, when, and what."""

    place: Place
    at: datetime
    act: Destroyed | Expired | Adopted


def destroyed(event_id: bytes, health_id: int, at: datetime) -> audit_pb2.AuditEvent:
    """The same event, byte for byte, however often it is sent. Its id, which tiles show, tells nothing."""
    return _event(event_id, "dossier.destroy", at, [dossier_name(health_id)])


def expired(event_id: bytes, act: Expired, at: datetime) -> audit_pb2.AuditEvent:
    """The event that clear parts are given up."""
    name = f"logs/{act.log_id}/retention/{act.kind}/{act.start}-{act.end - 1}"
    event = _event(event_id, "trace.expire", at, [name, *_written(act.start, act.leaves)])
    event.changes.add(attribute="months", after=str(act.months))
    return event


def said(event: audit_pb2.AuditEvent) -> Destroyed | Expired | Adopted | None:
    """What an event of this service tells of its own acts; None for any other event. Pure."""
    if event.producer != PRODUCER or event.health_id or event.outcome != audit_pb2.OUTCOME_SUCCESS:
        return None
    if event.action == "log.adopt":
        return Adopted()
    if (event.actor.actor_kind, event.actor.subject) != (context_pb2.ACTOR_KIND_SYSTEM, PRODUCER) or not event.objects:
        return None
    try:
        if event.action == "dossier.destroy":
            return Destroyed(dossier_of(event.objects[0], "objects"))
        match = _EXPIRED.fullmatch(event.objects[0]) if event.action == "trace.expire" else None
        if match is None:
            return None
        start, end = int(match[3]), int(match[4]) + 1
        months = next((int(each.after) for each in event.changes if each.attribute == "months"), 0)
        leaves = frozenset(start + at for at in _read(event.objects[1:]) if start + at < end)
        return Expired(int(match[1]), match[2], months, start, end, leaves)
    except (DmpError, ValueError):
        return None


class Teller:
    """Tells of acts, each once however often it is asked to."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: EntryDigests, log: AuditLog) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._log = log

    async def destroyed(self, health_id: int, at: datetime) -> Told:
        """That a dossier is destroyed: as it was told first, else at this time."""
        value = health_id.to_bytes(8, "big")
        return await self._once(
            "destroyed", value, Destroyed(health_id), lambda event_id: destroyed(event_id, health_id, at)
        )

    async def expired(self, act: Expired, at: datetime) -> Told:
        """That clear parts are given up: as it was told first, else at this time."""
        value = expired(b"", act, datetime.fromtimestamp(0, UTC)).SerializeToString(deterministic=True)
        return await self._once("retention", value, act, lambda event_id: expired(event_id, act, at))

    async def _once(
        self, use: str, value: bytes, act: Destroyed | Expired, make: Callable[[bytes], audit_pb2.AuditEvent]
    ) -> Told:
        ids = self._digests.event_ids(use, value)
        earlier = await self._find(ids)
        if earlier is not None:
            return earlier
        event = make(ids[0])
        [receipt] = await self._log.append(PRODUCER, audit_pb2.BatchAppendEventsRequest(events=[event]))
        if isinstance(receipt, DmpError):
            earlier = await self._find(ids) if receipt.reason == reasons.ERROR_REASON_EVENT_CONFLICT else None
            if earlier is None:
                raise receipt
            return earlier
        place = Place(receipt.log_id, receipt.leaf_index)
        return Told(place, event.event_time.ToDatetime(UTC), act)

    async def _find(self, event_ids: Iterable[bytes]) -> Told | None:
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            return await find_told(conn, self._keys, event_ids, self._log.log_count)


async def find_told(conn: Connection, keys: DossierKeys, event_ids: Iterable[bytes], log_count: int) -> Told | None:
    """What was told under one of these ids."""
    for event_id in event_ids:
        log_id = log_of(SYSTEM_HEALTH_ID, event_id, log_count)
        places = await store.places_of(conn, log_id, event_id, PRODUCER)
        for told in (await read_told(conn, keys, [Place(log_id, leaf_index) for leaf_index in places])).values():
            return told
    return None


async def read_told(conn: Connection, keys: DossierKeys, places: Iterable[Place]) -> dict[Place, Told]:
    """What is told at these places; those are left out where the log has no such event, whole and committed to."""
    found: dict[Place, Told] = {}
    wanted = sorted(set(places))
    if not wanted:
        return found
    known = await keys.for_read(conn, [SYSTEM_HEALTH_ID])
    if SYSTEM_HEALTH_ID not in known:
        return found
    for log_id in {place.log_id for place in wanted}:
        leaves = [place.leaf_index for place in wanted if place.log_id == log_id]
        for row in await tree_store.rows_at(conn, log_id, leaves):
            told = _opened(Place(log_id, row.leaf_index), row, known[SYSTEM_HEALTH_ID])
            if told is not None:
                found[told.place] = told
    return found


def told_in(place: Place, clear: bytes) -> Told | None:
    """What a clear part at a place tells; None if it is another event, or none."""
    try:
        event = audit_pb2.AuditEvent.FromString(clear)
    except DecodeError:
        return None
    return _told(place, event)


def _opened(place: Place, row: tree_store.StoredRow, key: DossierKey) -> Told | None:
    try:
        part = open_clear(key, row.sealed, EventPlace(SYSTEM_HEALTH_ID, row.event_id.bytes, place.log_id))
    except SealBroken:
        return None
    return told_in(place, part.clear) if row.leaf[17:] == commitment(part) else None


def _told(place: Place, event: audit_pb2.AuditEvent) -> Told | None:
    act = said(event)
    return None if act is None else Told(place, event.event_time.ToDatetime(UTC), act)


def _event(event_id: bytes, action: str, at: datetime, objects: Sequence[str]) -> audit_pb2.AuditEvent:
    event = audit_pb2.AuditEvent(
        event_id=event_id,
        health_id=SYSTEM_HEALTH_ID,
        action=action,
        actor=context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject=PRODUCER),
        objects=objects,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        basis=audit_pb2.ACCESS_BASIS_LAW,
    )
    event.event_time.FromDatetime(at)
    return event


def _written(start: int, leaves: Iterable[int]) -> Iterator[str]:
    """Leaves as runs counted from `start`, in texts that an event's object holds."""
    line = ""
    for first, last in _runs(sorted(leaves)):
        run = f"{first - start}-{last - start}" if last > first else f"{first - start}"
        if line and len(line) + 1 + len(run) > _LONGEST_OBJECT:
            yield line
            line = ""
        line += f",{run}" if line else run
    if line:
        yield line


def _runs(leaves: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = 0
    for at, leaf in enumerate(leaves):
        if at + 1 == len(leaves) or leaves[at + 1] != leaf + 1:
            yield leaves[first], leaf
            first = at + 1


def _read(texts: Iterable[str]) -> Iterator[int]:
    """The numbers in runs. ValueError for anything else."""
    for run in ",".join(texts).split(","):
        match = _RUN.fullmatch(run)
        if match is None:
            raise ValueError("not a run of leaves")
        yield from range(int(match[1]), int(match[2] or match[1]) + 1)
