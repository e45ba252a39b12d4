"""Checking stored events against their entries: each column, and the sealed clear part. Returns places, no contents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import tree_store
from services.audit.endings import Endings, is_destroyed, read_endings, under_way
from services.audit.entry import Entry, EntryDigests, prepare
from services.audit.findings import Checked, Damage
from services.audit.leaf import LEAF_BYTES, LEAF_VERSION, ClearPart, EventPlace, commitment, open_clear
from services.audit.rules import PRODUCER, SYSTEM_HEALTH_ID
from services.audit.tags import Place
from services.audit.told import Destroyed, Told, told_in
from services.audit.tree import LogTree
from services.audit.tree_store import StoredRow
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.postgres import Connection, Pool
from services.runtime.sealing import SealBroken
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.note import NoteWrong, verified

_ACQUIRE_SECONDS: Final = 5.0
_UNKNOWN: Final = -1


class EntryChecker:
    """Checks ranges of a log's stored events."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: EntryDigests) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests

    async def check(self, tree: LogTree, start: int, count: int) -> Checked:
        """The entries at `count` places from `start` on, as far as there are events, and what is wrong with them.

        What is wrong with the log's head or checkpoint has the place -1. All of it is of one moment, so that what is
        appended, destroyed or given up meanwhile is no damage.
        """
        async with (
            self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            size = await tree_store.size_of(conn, tree.log_id)
            rows = {row.leaf_index: row for row in await tree_store.rows(conn, tree.log_id, start, start + count)}
            keys = await self._keys.for_read(conn, [row.health_id for row in rows.values()])
            checked = Checked(damages=[(_UNKNOWN, damage) for damage in await _check_head(conn, tree, size)])
            endings = await read_endings(conn, self._keys, self._digests.tags, tree.log_id, list(rows.values()), keys)
        high = max([min(size, start + count), *(index + 1 for index in rows)], default=start)
        told: list[tuple[int, Told]] = []
        for index in range(start, high):
            row = rows.get(index)
            if row is None:
                checked.entries.append(b"")
                checked.damages.append((index, Damage("leaf_index", _UNKNOWN, "there is no event at this place")))
                continue
            checked.entries.append(row.leaf)
            if index >= size:
                checked.damages.append((index, Damage("leaf_index", _UNKNOWN, "beyond the head of the log")))
            told += self._check(row, tree.log_id, keys, checked, endings)
        await self._check_told(told, checked)
        return checked

    def _check(
        self, row: StoredRow, log_id: int, keys: DossierKeyBatch, checked: Checked, endings: Endings
    ) -> Iterator[tuple[int, Told]]:
        """Checks a row; what it tells of this service's own acts, if that is what it is."""
        checked.damages += [(row.leaf_index, damage) for damage in _check_leaf(row)]
        if row.ended:
            endings.check(row, checked)
            return
        try:
            key = keys[row.health_id]
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_CONTENT_DESTROYED:
                endings.check_destroyed(row, checked)
            else:
                problem = "its dossier's key is missing or damaged (or the health id is)"
                checked.damages.append((row.leaf_index, Damage("dossier_key.wrapped", _UNKNOWN, problem)))
            return
        place = EventPlace(row.health_id, row.event_id.bytes, log_id)
        try:
            part = open_clear(key, row.sealed, place)
        except SealBroken:
            offset = 0 if row.sealed[:1] != b"\x01" else _UNKNOWN
            problem = "does not open under its dossier, event and log"
            checked.damages.append((row.leaf_index, Damage("sealed", offset, problem)))
            return
        checked.damages += [(row.leaf_index, damage) for damage in self._check_clear(row, part)]
        if row.health_id == SYSTEM_HEALTH_ID and row.producer == PRODUCER:
            told = told_in(Place(log_id, row.leaf_index), part.clear)
            if told is not None:
                yield row.leaf_index, told

    async def _check_told(self, told: Sequence[tuple[int, Told]], checked: Checked) -> None:
        """Whether what is told to be destroyed is."""
        said = [(index, each, each.act.health_id) for index, each in told if isinstance(each.act, Destroyed)]
        if not said:
            return
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            keys = await self._keys.for_read(conn, [health_id for *_, health_id in said])
        for index, each, health_id in said:
            if not is_destroyed(keys, health_id) and not under_way(each):
                problem = "says that a dossier is destroyed, and its key is there or its row is gone"
                checked.damages.append((index, Damage("dossier_key.wrapped", _UNKNOWN, problem)))

    def _check_clear(self, row: StoredRow, part: ClearPart) -> Iterator[Damage]:
        expected = commitment(part)
        if row.leaf[17:] != expected:
            yield Damage("leaf", 17 + _first_difference(row.leaf[17:], expected), "does not commit to the clear part")
        try:
            event = audit_pb2.AuditEvent.FromString(part.clear)
            entry = prepare(event, event.producer, self._digests)
        except (DecodeError, DmpError):
            yield Damage("sealed", _UNKNOWN, "the clear part is no event")
            return
        yield from _compare(row, entry, self._digests.contents(part.clear))


def _check_leaf(row: StoredRow) -> Iterator[Damage]:
    if len(row.leaf) != LEAF_BYTES:
        yield Damage("leaf", min(len(row.leaf), LEAF_BYTES), f"an entry has {LEAF_BYTES} bytes")
        return
    if row.leaf[:1] != LEAF_VERSION:
        yield Damage("leaf", 0, "the version is not 0x01")
    if row.leaf[1:17] != row.event_id.bytes:
        offset = 1 + _first_difference(row.leaf[1:17], row.event_id.bytes)
        yield Damage("leaf", offset, "the event id is not that of the column event_id")


def _compare(row: StoredRow, entry: Entry, contents: list[bytes]) -> Iterator[Damage]:
    """What the columns in clear say, against the clear part."""
    if row.event_id.bytes != entry.event_id:
        yield Damage("event_id", _first_difference(row.event_id.bytes, entry.event_id), "is not the event's")
    for column, stored, expected in (
        ("health_id", row.health_id, entry.health_id),
        ("producer", row.producer, entry.producer),
        ("event_time", row.event_time, entry.event_time),
        ("secret", row.secret, entry.secret),
    ):
        if stored != expected:
            yield Damage(column, _UNKNOWN, "is not the event's")
    if row.content_digest not in contents:
        yield Damage("content_digest", _nearest(row.content_digest, contents), "is not the digest of the clear part")
    if row.actor_digest != entry.actor_digest:
        yield Damage("actor_digest", _first_difference(row.actor_digest, entry.actor_digest), "is not the actor's")


async def _check_head(conn: Connection, tree: LogTree, size: int) -> list[Damage]:
    """The rows of the log itself: how far its head and its checkpoint agree with one another."""
    state = await tree_store.state(conn, tree.log_id)
    if state is None:
        return [Damage("checkpoint", _UNKNOWN, "there is no checkpoint")]
    found: list[Damage] = []
    if size < state.size or await tree_store.events_of(conn, tree.log_id) != size:
        found.append(Damage("log_head.size", _UNKNOWN, "is not one past the last event, or less than the tree"))
    for column, content, expected in (
        ("checkpoint.signed", state.signed, (state.size, state.root)),
        ("checkpoint.published", state.published, (state.published_size, None)),
    ):
        try:
            checkpoint, note = parse(content)
            signed = verified(note, [tree.signer.verifier])
            names = [name for name, each in tree.policy.witnesses.items() if verified(note, [each.key])]
        except NoteWrong as error:
            found.append(Damage(column, _UNKNOWN, str(error)))
            continue
        if not signed or checkpoint.origin != tree.origin:
            found.append(Damage(column, _UNKNOWN, "is not signed by the log"))
        elif checkpoint.size != expected[0] or expected[1] not in (None, checkpoint.root):
            found.append(Damage("checkpoint.tree_size or root", _UNKNOWN, "is not that of the signed note"))
        if column == "checkpoint.published" and sorted(names) != sorted(state.cosigners):
            found.append(Damage("checkpoint.cosigners", _UNKNOWN, "are not those of the published note"))
    return found


def _first_difference(found: bytes, expected: bytes) -> int:
    """The first byte at which two values differ; their common length if one begins with the other."""
    return next(
        (at for at, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )


def _nearest(found: bytes, expected: list[bytes]) -> int:
    return max((_first_difference(found, each) for each in expected), default=_UNKNOWN)
