"""Of two open dossiers of one person one stays open, and the other is merged into it; parted again, each is open again.

Lives here: what follows from who is one person with whom (`linked_set`, as identity tells it), when it is told and when
a dossier is opened. The first of the person's dossiers stays open, the survivor's if it has one. What is new goes
there; what a merged dossier holds stays, and is read with it (`store.facts`). Each dossier's history says with which it
was one person's, from when until when: decisions depend on it (`linked.unite`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.common.v1.links_pb2 import LinkedSet
from services.consent import store
from services.consent.changes import Clock, outbox_row
from services.consent.history import LINK
from services.consent.mapping import write_time
from services.consent.values import GONE, READ_TOGETHER, Dossier, DossierState, LockedDossier, Refused
from services.runtime.identifiers import dossier_name, uuid7
from services.runtime.links import hold, linked_with
from services.runtime.outbox import put
from services.runtime.postgres import Connection

_ACTOR: Final = ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="identity", client_id="identity")


class Merging:
    """Follows what identity tells, in the transaction that keeps it."""

    def __init__(self, clock: Clock, kick: Callable[[], None]) -> None:
        self._clock = clock
        self._kick = kick

    async def follow(self, conn: Connection, told: Sequence[LinkedSet]) -> None:
        """Merge and part dossiers, as the newest sets known of these people want it."""
        known = await linked_with(conn, sorted({member for each in told for member in each.health_ids}))
        await settle(conn, sorted(set(known.values())), self._clock())
        self._kick()


async def refuse_merged(conn: Connection, health_id: int, locked: LockedDossier | None) -> tuple[int, ...]:
    """All who are one person with this one, for the rest of the transaction: a dossier opened beside a link that is
    being told would be open beside the survivor's. DOSSIER_MERGED for who was merged: the survivor's is opened."""
    members = await hold(conn, health_id)
    if members[0] != health_id:
        raise Refused(reasons.ERROR_REASON_DOSSIER_MERGED, locked.dossier.epoch if locked else 0, members[0])
    return members


async def settle(conn: Connection, sets: Iterable[Sequence[int]], now: datetime) -> None:
    """Merge and part dossiers until each set of linked people has at most one that is open, and each history says who
    is linked. (Who stands alone and is not told so has never been anything else.)"""
    held: dict[int, Dossier] = {}
    wanted = list(sets)
    for member in sorted({member for members in wanted for member in members}):
        locked = (await store.lock_dossier(conn, member, ())).locked
        if locked is not None:
            held[member] = locked.dossier
    for members in wanted:
        for member in members:
            if member in held:
                held[member] = await _remember_linked(conn, held[member], members, now)
        for dossier in settled([held[member] for member in members if member in held]):
            await _save(conn, dossier, now)


async def _remember_linked(conn: Connection, dossier: Dossier, members: Sequence[int], now: datetime) -> Dossier:
    """The dossier, with a line more in its history where that does not end with these others of its person."""
    others = [str(member) for member in members if member != dossier.health_id]
    known = await store.last_of_kind(conn, dossier.health_id, LINK)
    if dossier.state in GONE or others == (known["linked"] if known else []):
        return dossier
    linked = replace(dossier, epoch=dossier.epoch + 1)
    entry = _entry(LINK, {"linked": others}, linked.epoch, now)
    await store.save_dossier(conn, linked)
    await store.remember(conn, linked.health_id, linked.epoch, entry)
    return linked


def _entry(kind: str, payload: dict[str, object], epoch: int, now: datetime) -> store.HistoryEntry:
    return store.HistoryEntry(kind, json.dumps(payload), _ACTOR.SerializeToString(), f"{kind}-{epoch}", now)


def settled(dossiers: Sequence[Dossier]) -> list[Dossier]:
    """The next version of those that change, of one person's dossiers in the order of the set. Pure.

    A dossier merged into one that was closed since stays as it is: closing that one closed it.
    """
    states = {dossier.health_id: dossier.state for dossier in dossiers}
    alive = [
        dossier
        for dossier in dossiers
        if dossier.state in READ_TOGETHER and states.get(dossier.merged_into, DossierState.OPEN) in READ_TOGETHER
    ]
    changed = []
    for place, dossier in enumerate(alive):
        merged_into = alive[0].health_id if place else 0
        if dossier.merged_into != merged_into:
            state = DossierState.MERGED if merged_into else DossierState.OPEN
            changed.append(replace(dossier, state=state, merged_into=merged_into, epoch=dossier.epoch + 1))
    return changed


async def _save(conn: Connection, dossier: Dossier, now: datetime) -> None:
    kind = "dossier.merge" if dossier.merged_into else "dossier.part"
    event = audit_pb2.AuditEvent(
        event_id=uuid7().bytes,
        event_time=write_time(now),
        health_id=dossier.health_id,
        action=kind,
        actor=_ACTOR,
        objects=[dossier_name(each) for each in (dossier.health_id, dossier.merged_into) if each],
        outcome=audit_pb2.OUTCOME_SUCCESS,
        epoch=dossier.epoch,
    )
    entry = _entry(kind, {"merged_into": str(dossier.merged_into)}, dossier.epoch, now)
    await store.save_dossier(conn, dossier)
    await store.remember(conn, dossier.health_id, dossier.epoch, entry)
    await put(conn, [outbox_row(event, dossier.health_id)])
