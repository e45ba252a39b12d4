"""What becomes due by the passing of time, and is done once: archives that end, authorisations and representations
that expire.

A duty takes its deadline away in the commit that does it, with a line in the history and an event for the trail, so a
crash before the commit leaves the deadline, and one after it leaves nothing to do. Whether an authorisation is valid
never waits for these: decisions compare times.

Destroying has three steps, because two other services take part. The dossier is first `destroying`, from which nothing
comes back; then document and audit destroy what they keep (each idempotent by request_id); then what consent keeps
goes, and the dossier is `destroyed`. A crash leaves it `destroying`, and the next run goes on. Events about it are
written among those about no dossier: the dossier's own can no longer be sealed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from services.consent import store
from services.consent.changes import Attribute, as_in_secret, outbox_row
from services.consent.mapping import write_time
from services.consent.store import Deadline, What
from services.consent.values import Dossier, DossierState, Grantee, GranteeKind
from services.runtime import faults
from services.runtime.identifiers import dossier_name, uuid7
from services.runtime.links import linked_with
from services.runtime.outbox import put
from services.runtime.postgres import Connection, Pool, transaction

Destroy = Callable[[int, str], Awaitable[None]]
"""Destroys what another service keeps of a dossier (health id, request id); returns once that is durable."""

_BATCH: Final = 100
_BEGINNING: Final = datetime(1, 1, 1, tzinfo=UTC)
_ACTOR: Final = ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="consent", client_id="consent")
_EXPIRIES: Final = {
    What.AUTHORIZATION: "authorization.expire",
    What.REPRESENTATION: "representative.expire",
}
_log = structlog.get_logger("consent")


class Duties:
    """Does what is due. `destroyers` are called in order; without any, no dossier is destroyed."""

    def __init__(self, pool: Pool, destroyers: tuple[Destroy, ...], kick: Callable[[], None]) -> None:
        self._pool = pool
        self._destroyers = destroyers
        self._kick = kick

    async def run(self, now: datetime) -> None:
        """All that is due by `now`; what fails is tried again at the next run, and holds up nothing else."""
        after, failed = (_BEGINNING, 0), 0
        while due := await store.due_deadlines(self._pool, now, after, _BATCH):
            for deadline in due:
                try:
                    await self._do(deadline, now)
                except Exception as error:  # noqa: BLE001 (a boundary: one dossier's trouble is not the others')
                    failed += 1
                    _log.warning("duty_failed", job=deadline.what.value, error_type=type(error).__name__)
            after = (due[-1].due_at, due[-1].health_id)
        if failed:
            raise RuntimeError(f"{failed} deadlines could not be met; they are tried again")

    async def _do(self, deadline: Deadline, now: datetime) -> None:
        if deadline.what is What.DESTRUCTION:
            if self._destroyers:
                await self._destroy(deadline.health_id, now)
        else:
            await self._expire(deadline, now)

    async def _expire(self, deadline: Deadline, now: datetime) -> None:
        """Says once that an authorisation or a representation has run out."""
        async with transaction(self._pool) as conn:
            grantee = _grantee(deadline) if deadline.what is What.AUTHORIZATION else None
            parties = () if grantee is None else (grantee,)
            held = (await store.lock_dossier(conn, deadline.health_id, parties)).locked
            due_at = await store.clear_deadline(conn, deadline.health_id, deadline.what, deadline.whose)
            if due_at is None or due_at > now or held is None:
                if due_at is not None and due_at > now:  # moved since it was read
                    await store.set_deadline(conn, replace(deadline, due_at=due_at))
                return
            epoch = await store.next_epoch(conn, deadline.health_id)
            kind = _EXPIRIES[deadline.what]
            payload, text = _expired(deadline)
            expired = None if grantee is None else held.authorizations.get(grantee)
            actor = as_in_secret(_ACTOR) if expired is not None and expired.secret else _ACTOR
            await _remember(conn, deadline.health_id, epoch, kind, payload, now, actor)
            change = Attribute(deadline.what.value, text, "")
            event = _event(kind, epoch, now, change, health_id=deadline.health_id, actor=actor)
            await put(conn, [outbox_row(event, deadline.health_id)])
            faults.point("consent.before_commit")
        faults.point("consent.after_commit")
        self._kick()

    async def _destroy(self, health_id: int, now: datetime) -> None:
        dossier = await self._begin_destroying(health_id, now)
        if dossier is None:
            return
        self._kick()
        if await store.undelivered(self._pool, health_id):
            return  # its last events are on their way to its trail; the next run goes on
        for destroy in self._destroyers:
            await destroy(health_id, f"destroy-{health_id}-{dossier.epoch}")
        await self._end_destroying(health_id, now)
        self._kick()

    async def _begin_destroying(self, health_id: int, now: datetime) -> Dossier | None:
        """The dossier from which nothing comes back; None where the deadline has moved, or the dossier was reopened."""
        async with transaction(self._pool) as conn:
            held = (await store.lock_dossier(conn, health_id, ())).locked
            if held is None:
                return None
            dossier = held.dossier
            if dossier.state is DossierState.DESTROYING:
                return dossier
            if dossier.state is not DossierState.CLOSED or dossier.destroy_at is None or dossier.destroy_at > now:
                return None
            begun = replace(dossier, state=DossierState.DESTROYING, epoch=dossier.epoch + 1)
            await store.save_dossier(conn, begun)
            await _remember(conn, health_id, begun.epoch, "dossier.destroy", {"step": "begun"}, now)
            await self._close_merged(conn, dossier, now)
            change = Attribute("state", dossier.state.value, begun.state.value)
            await put(
                conn, [outbox_row(_event("dossier.destroy", begun.epoch, now, change, about=health_id), health_id)]
            )
            faults.point("consent.before_commit")
        faults.point("consent.after_commit")
        return begun

    async def _close_merged(self, conn: Connection, into: Dossier, now: datetime) -> None:
        """What was merged into a dossier goes with it: closed and due now, to be destroyed as any other."""
        for member in (await linked_with(conn, [into.health_id]))[into.health_id]:
            held = None if member == into.health_id else (await store.lock_dossier(conn, member, ())).locked
            if held is None or held.dossier.merged_into != into.health_id:
                continue
            closed = replace(
                held.dossier,
                state=DossierState.CLOSED,
                merged_into=0,
                epoch=held.dossier.epoch + 1,
                closed_at=into.closed_at,
                close_reason=into.close_reason,
                closed_by=into.closed_by,
                destroy_at=now,
            )
            await store.save_dossier(conn, closed)
            await store.set_deadline(conn, Deadline(member, What.DESTRUCTION, "", now))
            await _remember(conn, member, closed.epoch, "dossier.close", {"state": closed.state.value}, now)
            change = Attribute("state", held.dossier.state.value, closed.state.value)
            event = _event("dossier.close", closed.epoch, now, change, health_id=member)
            await put(conn, [outbox_row(event, member)])

    async def _end_destroying(self, health_id: int, now: datetime) -> None:
        async with transaction(self._pool) as conn:
            held = (await store.lock_dossier(conn, health_id, ())).locked
            if held is None or held.dossier.state is not DossierState.DESTROYING:
                return
            ended = replace(held.dossier, state=DossierState.DESTROYED, epoch=held.dossier.epoch + 1, destroy_at=now)
            await store.drop_dossier(conn, health_id)
            await store.save_dossier(conn, ended)
            await _remember(conn, health_id, ended.epoch, "dossier.destroy", {"step": "ended"}, now)
            change = Attribute("state", DossierState.DESTROYING.value, ended.state.value)
            await put(
                conn, [outbox_row(_event("dossier.destroy", ended.epoch, now, change, about=health_id), health_id)]
            )
            faults.point("consent.before_commit")
        faults.point("consent.after_commit")


def _expired(deadline: Deadline) -> tuple[dict[str, object], str]:
    """What ran out, for the history and for the trail (which names nobody by a health id but the patient)."""
    if deadline.what is What.AUTHORIZATION:
        grantee = _grantee(deadline)
        return {"grantee_kind": grantee.kind.value, "grantee_id": grantee.id}, str(grantee)
    return {"person": deadline.whose}, "representation"


def _grantee(deadline: Deadline) -> Grantee:
    kind, _, grantee_id = deadline.whose.partition("/")
    return Grantee(GranteeKind(kind), grantee_id)


async def _remember(
    conn: Connection,
    health_id: int,
    epoch: int,
    kind: str,
    payload: dict[str, object],
    now: datetime,
    actor: ActingContext = _ACTOR,
) -> None:
    entry = store.HistoryEntry(kind, json.dumps(payload), actor.SerializeToString(), f"duty-{uuid.uuid4()}", now)
    await store.remember(conn, health_id, epoch, entry)


def _event(
    kind: str,
    epoch: int,
    now: datetime,
    change: Attribute,
    *,
    health_id: int = 0,
    about: int = 0,
    actor: ActingContext = _ACTOR,
) -> audit_pb2.AuditEvent:
    """The event of a duty: of a dossier's own trail, or `about` one whose trail is closed."""
    return audit_pb2.AuditEvent(
        event_id=uuid7().bytes,
        event_time=write_time(now),
        health_id=health_id,
        action=kind,
        actor=actor,
        objects=[dossier_name(health_id or about)],
        outcome=audit_pb2.OUTCOME_SUCCESS,
        epoch=epoch,
        changes=[audit_pb2.AttributeChange(attribute=change.name, before=change.before, after=change.after)],
    )
