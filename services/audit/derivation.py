"""What is made of the trail: counts by day, notices, unusual accesses. In the background, behind the log, exactly once.

A step opens the next events, and keeps what they make in the transaction that moves the cursor. It rests as long as it
works, and for a second while events are appended: they come first, until what waits has waited for a minute. Everything
it keeps can be made again from the log, but for what people decided.

One event that cannot be looked at holds up no other and ends nothing: the events of its step are taken one by one, and
it alone is set aside, alarmed, and tried again until it goes through.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

import grpc
import structlog
from google.protobuf.message import DecodeError

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import derived_store, notice_store
from services.audit.derived_store import CountKey, UnderivedRow, WindowRow
from services.audit.detectors import Detector, Finding, Measure, find
from services.audit.leaf import EventPlace, open_clear
from services.audit.notice_store import NewNotice, NewUnusual
from services.audit.notices import emergency_text, item_aad, notice_aad, notice_id, waiting_text
from services.audit.sights import Opened, Seen, first_sights
from services.audit.tags import RowTags
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import event_name, uuid8
from services.runtime.jobs import Lease
from services.runtime.keyring import Keyring
from services.runtime.metrics import Metrics
from services.runtime.postgres import Connection, Pool, is_transient, transaction
from services.runtime.sealing import SealBroken, seal

_log = structlog.get_logger("derivation")

Claim = Callable[[Connection], Awaitable[bool]]
"""Takes events as looked at, inside the transaction that keeps what they make; False if another process did."""
SameNames = Callable[[Sequence[tuple[int, str]]], Awaitable[list[bool]]]
"""Whether each name is that of the patient of the dossier beside it."""

_STEP: Final = 512
"""Events of one step: it makes a score of statements, however many they are."""
_PIECE: Final = 32
_IDLE: Final = 0.5
_AGAIN: Final = timedelta(minutes=10)
_NOT_NOW: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)
_BEHIND_APPENDS: Final = 1.0
_LATE: Final = 60.0
"""Seconds for which an event may have to wait for appends: patients are told what is found here."""
_ACQUIRE_SECONDS: Final = 5.0
_KEPT: Final = timedelta(hours=49)
_ACTOR: Final = "dmp/audit/actor-window/v1"
_EMERGENCIES: Final = frozenset({audit_pb2.ACCESS_BASIS_BREAK_GLASS, audit_pb2.ACCESS_BASIS_REGULATION})
"""Whatever such an access reached, be it a summary or a list of medicines, its patient and MT are told (domain §3)."""
WAITING_ACTION: Final = "document.waiting"
"""The event by which the document service says that an announced document waits unread for two weeks."""
_BOTH: Final = (notice_pb2.NOTICE_RECIPIENT_PATIENT, notice_pb2.NOTICE_RECIPIENT_ATTENDING_PHYSICIAN)
_PATIENT: Final = (notice_pb2.NOTICE_RECIPIENT_PATIENT,)
_PHYSICIAN: Final = (notice_pb2.NOTICE_RECIPIENT_ATTENDING_PHYSICIAN,)


class _Noted(NamedTuple):
    """Places: of a first time in a dossier, of the beginning of an emergency, of somebody with the patient's name."""

    firsts: set[int]
    episodes: set[int]
    namesakes: set[int]


@dataclass(slots=True)
class _Acts:
    """What one actor did in the events of one step."""

    last: Opened
    added: Counter[Measure] = field(default_factory=Counter)


class Derivation:
    """Looks at one log. Several processes may; one at a time works."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        keyring: Keyring,
        log_id: int,
        detectors: Sequence[Detector],
        metrics: Metrics,
        lease: Lease,
        busy: Callable[[], bool] = lambda: False,
        same_names: SameNames | None = None,
    ) -> None:
        """`busy` tells whether events are being appended: `rest_after`. `same_names` tells who bears the patient's
        name; without it nobody is found to."""
        self._pool = pool
        self._keys = keys
        self._keyring = keyring
        self._tags = RowTags(keyring)
        self._log_id = log_id
        self._detectors = detectors
        self._lease = lease
        self._busy = busy
        self._same_names = same_names
        self._seen = Seen()
        self._behind = 0
        self._one_by_one = 0
        self._age = 0.0
        self._set_aside = 0
        self._unusual = metrics.counter("dmp_audit_unusual_total")
        metrics.gauge("dmp_audit_underived_events", lambda: self._behind, str(log_id))
        metrics.gauge("dmp_audit_set_aside_events", lambda: self._set_aside, str(log_id))

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.keep())
            group.create_task(self._drive())

    async def _drive(self) -> None:
        while True:
            started = time.monotonic()
            more = False
            if self._lease.held:
                try:
                    more = await self.step()
                except Exception as error:
                    if not _passes(error):
                        raise
                    _log.warning("derivation_delayed", log=self._log_id, exc_info=error)
            took = time.monotonic() - started if more else None
            gives_way = self._busy() and not self._one_by_one
            await asyncio.sleep(rest_after(took, self._age if more else 0.0, gives_way=gives_way))

    async def step(self) -> bool:
        """Looks at the next events; whether there may be more."""
        limit = 1 if self._one_by_one else _STEP
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            start = await derived_store.next_leaf(conn, self._tags, self._log_id)
            rows = await derived_store.rows(conn, self._log_id, start, limit)
        if not rows:
            self._behind = self._one_by_one = 0
            return await self._try_again()
        self._age = (datetime.now(UTC) - rows[0].event_time).total_seconds()

        async def move_on(conn: Connection) -> bool:
            return await derived_store.move(conn, self._tags, self._log_id, start, rows[-1].leaf_index + 1)

        try:
            await self._derive(rows, move_on)
        except Exception as error:
            if _passes(error):
                raise
            if len(rows) > 1:
                self._one_by_one = len(rows)
                return True
            await self._put_aside(rows[0], error, move_on)
        self._one_by_one = max(0, self._one_by_one - len(rows))
        self._behind = len(rows) if len(rows) == limit else 0
        return len(rows) == limit

    async def _derive(self, rows: Sequence[UnderivedRow], claim: Claim) -> None:
        """Keeps what these events make, with the claim, or nothing."""
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            keys = await self._keys.for_read(conn, [row.health_id for row in rows])
            opened = await self._open(rows, keys)
            firsts = await first_sights(conn, keys, self._log_id, opened, self._seen)
        namesakes = await self._namesakes(opened, firsts)
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            if not await claim(conn):
                return
            await derived_store.count(conn, self._tags, self._log_id, _counted(opened))
            await derived_store.account(conn, self._tags, self._log_id, counted=len(opened))
            episodes = await self._notify(conn, opened)
            await self._detect(conn, opened, _Noted(firsts, episodes, namesakes))

    async def _put_aside(self, row: UnderivedRow, error: Exception, claim: Claim) -> None:
        _log.critical("event_set_aside", log=self._log_id, leaf_index=row.leaf_index, exc_info=error)
        async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as conn:
            if await claim(conn):
                kind = type(error).__name__
                await derived_store.set_aside(conn, self._tags, self._log_id, row.leaf_index, kind, _AGAIN)

    async def _try_again(self) -> bool:
        """Looks at the first of the events set aside whose time has come; whether there was one."""
        async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
            kept = await derived_store.all_set_aside(conn, self._log_id)
            self._set_aside = len(kept)
            place = next((place for place, due in kept if due), None)
            if place is None:
                return False
            rows = await derived_store.row_at(conn, self._log_id, place)

        async def take_back(conn: Connection) -> bool:
            return await derived_store.take_back(conn, self._tags, self._log_id, place)

        try:
            await self._derive(rows, take_back)
        except Exception as error:
            if _passes(error):
                raise
            _log.critical("event_still_set_aside", log=self._log_id, leaf_index=place, exc_info=error)
            kind = type(error).__name__
            async with transaction(self._pool, timeout=_ACQUIRE_SECONDS) as held:
                await derived_store.set_aside(held, self._tags, self._log_id, place, kind, _AGAIN)
        return True

    async def _open(self, rows: Sequence[UnderivedRow], keys: DossierKeyBatch) -> list[Opened]:
        """The events that can be opened; a destroyed one is passed over, a damaged one found by verification."""
        opened: list[Opened] = []
        for number, row in enumerate(rows):
            if number % _PIECE == 0:
                await asyncio.sleep(0)
            try:
                place = EventPlace(row.health_id, row.event_id.bytes, self._log_id)
                part = open_clear(keys[row.health_id], row.sealed, place)
                opened.append(Opened(row, audit_pb2.AuditEvent.FromString(part.clear)))
            except (DmpError, SealBroken, DecodeError):
                continue
        return opened

    async def _namesakes(self, opened: Sequence[Opened], firsts: set[int]) -> set[int]:
        """The places at which somebody with the patient's name entered a dossier for the first time.

        Raises DmpError when that cannot be told now: the step is tried again, and nothing is kept of it.
        """
        first = [o for o in opened if o.row.leaf_index in firsts and o.event.actor.subject_name and o.row.health_id]
        if self._same_names is None or not first:
            return set()
        same = await self._same_names([(o.row.health_id, o.event.actor.subject_name) for o in first])
        return {o.row.leaf_index for o, is_same in zip(first, same, strict=True) if is_same}

    async def _notify(self, conn: Connection, opened: Sequence[Opened]) -> set[int]:
        """Adds the notices of these events; the places at which an emergency episode began."""
        wanted = [each for each in opened if _notice_kind(each.event)]
        if not wanted:
            return set()
        keys = await self._keys.for_write(conn, [each.row.health_id for each in wanted])
        episodes: set[int] = set()
        for each in wanted:
            kind = _notice_kind(each.event)
            emergency = kind == notice_pb2.NOTICE_KIND_EMERGENCY_ACCESS
            for recipient in _recipients(each.event, emergency):
                text = emergency_text(each.event, recipient) if emergency else waiting_text()
                if await self._add_notice(conn, keys, each, kind, recipient, text) and emergency:
                    episodes.add(each.row.leaf_index)
        return episodes

    async def _add_notice(
        self, conn: Connection, keys: DossierKeyBatch, each: Opened, kind: int, recipient: int, text: str
    ) -> bool:
        row = each.row
        number = notice_id(row.event_id, recipient)
        try:
            sealed = seal(keys[row.health_id], text.encode(), notice_aad(row.health_id, number))
        except DmpError:
            return False
        return await notice_store.add_notice(
            conn,
            self._tags,
            NewNotice(
                row.health_id,
                number,
                kind,
                recipient,
                row.actor_digest,
                self._log_id,
                row.leaf_index,
                row.event_time,
                sealed,
            ),
        )

    async def _detect(self, conn: Connection, opened: Sequence[Opened], noted: _Noted) -> None:
        acts: dict[tuple[str, datetime], _Acts] = {}
        for each in opened:
            if added := _measured(each, noted):
                hour = each.row.event_time.replace(minute=0, second=0, microsecond=0)
                mine = acts.setdefault((each.event.actor.subject, hour), _Acts(each))
                mine.last = each
                mine.added.update(added)
        if not acts:
            return
        actors = {subject: self._keyring.digest(_ACTOR, subject.encode()) for subject, _ in acts}
        oldest = min(hour for _, hour in acts) - timedelta(hours=48)
        # Added first, read afterwards: the rows are held from then on, so that of two logs looked at side by side one
        # crosses the threshold; and what this step adds in an earlier hour counts for a later one.
        await derived_store.add_windows(
            conn,
            self._tags,
            [
                WindowRow(actors[subject], hour, mine.added["new_dossiers"], mine.added["break_glass"])
                for (subject, hour), mine in acts.items()
            ],
        )
        known = await derived_store.windows(conn, list(actors.values()), oldest)
        for (subject, hour), mine in acts.items():
            before = self._before([row for row in known if row.actor == actors[subject]], hour, mine.added)
            for finding in find(self._detectors, before, mine.added):
                await self._report(conn, mine.last, finding)
        await derived_store.purge_windows(conn, datetime.now(UTC) - _KEPT)

    def _before(
        self, rows: Sequence[WindowRow], hour: datetime, added: Counter[Measure]
    ) -> dict[tuple[Measure, int], int]:
        """What an actor had done, by measure and hours, up to and with this hour, before what was `added` to it."""
        found: Counter[tuple[Measure, int]] = Counter()
        for hours in {detector.hours for detector in self._detectors if detector.hours}:
            found["new_dossiers", hours] -= added["new_dossiers"]
            found["break_glass", hours] -= added["break_glass"]
            for row in rows:
                if hour - timedelta(hours=hours) < row.hour <= hour:
                    found["new_dossiers", hours] += row.new_dossiers
                    found["break_glass", hours] += row.break_glass
        return dict(found)

    async def _report(self, conn: Connection, each: Opened, finding: Finding) -> None:
        row = each.row
        digest = sha256(f"{self._log_id}/{row.leaf_index}/{finding.detector}".encode()).digest()
        item = uuid8(digest)
        keys = await self._keys.for_write(conn, [row.health_id])
        content = notice_pb2.UnusualAccess(
            explanation=finding.explanation,
            subject=each.event.actor.subject,
            event=event_name(row.health_id, row.event_id) if row.health_id else "",
        )
        try:
            sealed = seal(keys[row.health_id], content.SerializeToString(), item_aad(row.health_id, item))
        except DmpError:
            return
        found = NewUnusual(item, row.health_id, self._log_id, row.leaf_index, finding.detector, sealed)
        if await notice_store.add_unusual(conn, self._tags, found):
            self._unusual.add(1)


def _passes(error: Exception) -> bool:
    """Whether it may go away by itself: the database or another service does not answer now."""
    return is_transient(error) or (isinstance(error, DmpError) and error.code in _NOT_NOW)


def _counted(opened: Sequence[Opened]) -> Counter[CountKey]:
    return Counter(
        (each.row.event_time.date(), each.event.action, each.event.outcome, each.event.actor.access_mode)
        for each in opened
    )


def _notice_kind(event: audit_pb2.AuditEvent) -> int:
    """The kind of the notice that an event makes; 0 for none."""
    if not event.health_id or event.outcome != audit_pb2.OUTCOME_SUCCESS:
        return 0
    if event.action == WAITING_ACTION:
        return notice_pb2.NOTICE_KIND_DOCUMENT_WAITING
    return notice_pb2.NOTICE_KIND_EMERGENCY_ACCESS if event.basis in _EMERGENCIES else 0


def rest_after(took: float | None, age: float, *, gives_way: bool) -> float:
    """Seconds to rest after a step of `took` seconds, None when nothing more waits. With appends under way a second at
    least, unless the oldest event of the step had waited `age` seconds, and that is too long."""
    rest = _IDLE if took is None else took
    return max(rest, _BEHIND_APPENDS) if gives_way and age < _LATE else rest


def _recipients(event: audit_pb2.AuditEvent, emergency: bool) -> tuple[int, ...]:
    """What is secret is not told to the patient's contact, which may be that of the representatives: of a document that
    waits nobody is told then, since it is for the patient alone."""
    if event.actor.secret_connection:
        return _PHYSICIAN if emergency else ()
    return _BOTH if emergency else _PATIENT


def _measured(each: Opened, noted: _Noted) -> dict[Measure, int]:
    measured: dict[Measure, int] = {}
    if each.row.leaf_index in noted.firsts:
        measured["new_dossiers"] = 1
    if each.row.leaf_index in noted.episodes and each.event.actor.access_mode == context_pb2.ACCESS_MODE_BREAK_GLASS:
        measured["break_glass"] = 1
    if each.event.reason == reasons.ERROR_REASON_BLOCKED and each.event.health_id:
        measured["blocked"] = 1
    if each.row.leaf_index in noted.namesakes:
        measured["same_name"] = 1
    return measured
