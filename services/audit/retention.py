"""How long what happened can be read: by policy (`retention.csv`), by kind of event. Entries are kept for ever.

A job gives up clear parts whose time has come: sealed bytes and keyed digests go, the leaf stays, and so do every tile,
every checkpoint and every receipt that was handed out. It goes along each log once for each kind, behind a cursor. An
event names the leaves and the period (`told`); then each row is emptied and names that event, and verification takes an
empty clear part for given up only where such an event lists it and it was old enough when that was said.

A producer's clock may be wrong, so consecutive events are due together: up to the last that is old enough, when most of
those before it are. One wrong clock neither stops nor hastens it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Final

from google.protobuf.message import DecodeError

from dmp.audit.v1 import audit_pb2
from services.audit import ending_store, notice_store
from services.audit import retention_store as store
from services.audit.append import AuditLog
from services.audit.entry import EntryDigests
from services.audit.leaf import EventPlace, open_clear
from services.audit.told import Expired, Teller, said
from services.audit.tree_store import StoredRow
from services.runtime import faults
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.postgres import Pool, transaction
from services.runtime.sealing import SealBroken

_ACQUIRE_SECONDS: Final = 5.0
STEP: Final = 2000
"""Events looked at together."""


class PolicyUnusable(Exception):
    """The table of kinds cannot be used; the message names the line."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the policy. Without months, for ever."""

    name: str
    actions: tuple[str, ...]
    months: int

    def cutoff(self, now: datetime) -> datetime | None:
        """Events before this are given up; None if none ever is."""
        if not self.months:
            return None
        year, month = divmod(now.year * 12 + now.month - 1 - self.months, 12)
        return now.replace(year=year, month=month + 1, day=min(now.day, 28))


def read_policy(text: str | None = None) -> tuple[Kind, ...]:
    """The kinds of a table, by default the one beside this module. An action is of the first that names it.

    Raises PolicyUnusable, also when an action could be of no kind.
    """
    content = text if text is not None else (files("services.audit") / "retention.csv").read_text("utf-8")
    try:
        kinds = tuple(
            Kind(row["kind"], tuple(row["actions"].split()), int(row["months"]))
            for row in csv.DictReader(content.splitlines())
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PolicyUnusable(f"the table has the columns kind, actions, months: {error}") from None
    for kind in kinds:
        if not 0 < len(kind.name) <= 64 or "/" in kind.name or not kind.actions or not 0 <= kind.months <= 12_000:
            raise PolicyUnusable(f"{kind.name}: a kind has a name without /, actions, and 0 to 12,000 months")
    if len({kind.name for kind in kinds}) != len(kinds) or not kinds or "*" not in kinds[-1].actions:
        raise PolicyUnusable("each kind once, the last of them for every action (*)")
    return kinds


def kind_of(action: str, policy: Sequence[Kind]) -> Kind:
    """The kind that an action is of."""
    return next(kind for kind in policy if any(fnmatchcase(action, pattern) for pattern in kind.actions))


class Retention:
    """The job, over all logs of the service."""

    def __init__(
        self, pool: Pool, keys: DossierKeys, digests: EntryDigests, log: AuditLog, policy: Sequence[Kind]
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._tags = digests.tags
        self._teller = Teller(pool, keys, digests, log)
        self._log_count = log.log_count
        self._policy = tuple(policy)

    async def run(self, now: datetime) -> None:
        """Gives up what is due at `now`. May be cancelled and repeated."""
        for log_id in range(self._log_count):
            for kind in self._policy:
                cutoff = kind.cutoff(now)
                if cutoff is not None:
                    await self._run(log_id, kind, now, cutoff)

    async def _run(self, log_id: int, kind: Kind, now: datetime, cutoff: datetime) -> None:
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            reached = await store.cursor(conn, log_id, kind.name)
        while (end := await self._step(log_id, kind, now, cutoff, reached)) > reached:
            reached = end
        limited = [each.name for each in self._policy if each.months]
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            before = min(await store.cursors(conn, log_id, limited))
            await notice_store.forget_before(conn, self._tags, log_id, before)

    async def _step(self, log_id: int, kind: Kind, now: datetime, cutoff: datetime, start: int) -> int:
        """Where the cursor is then: where it was, when nothing more is due."""
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            rows = due(await store.aged(conn, log_id, start, STEP), cutoff)
            if not rows:
                return start
            keys = await self._keys.for_read(conn, [row.health_id for row in rows])
        mine = [row for row in rows if self._is(kind, row, log_id, keys)]
        end = rows[-1].leaf_index + 1
        leaves, ends = [row.leaf_index for row in mine], list[bytes]()
        if mine:
            told = await self._teller.expired(
                Expired(log_id, kind.name, kind.months, start, end, frozenset(leaves)), now
            )
            faults.point("retention.told")
            ends = [self._tags.end(row.kept(log_id, b""), told.place) for row in mine]
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            await ending_store.give_up(conn, log_id, leaves, ends)
            await store.move(conn, self._tags, log_id, kind.name, end)
        return end

    def _is(self, kind: Kind, row: StoredRow, log_id: int, keys: DossierKeyBatch) -> bool:
        """Whether the event is of the kind. What does not open is left for those who verify; and what tells why others
        are gone is never given up, whatever a policy says."""
        if row.ended:
            return False
        try:
            part = open_clear(keys[row.health_id], row.sealed, EventPlace(row.health_id, row.event_id.bytes, log_id))
            event = audit_pb2.AuditEvent.FromString(part.clear)
        except (DmpError, SealBroken, DecodeError):
            return False
        return said(event) is None and kind_of(event.action, self._policy) is kind


def due(rows: Sequence[StoredRow], cutoff: datetime) -> Sequence[StoredRow]:
    """Those, from the first on, that were kept long enough: the last of them was, and most of the others."""
    old = end = 0
    for number, row in enumerate(rows, 1):
        if row.event_time.tzinfo is not None and row.event_time < cutoff:  # without one: infinity, a damage
            old += 1
            end = number if 2 * old > number else end
    return rows[:end]
