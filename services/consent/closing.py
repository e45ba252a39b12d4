"""Closing a dossier (TD1.4), on the patient's request or at his death, and the end of its archive.

A closed dossier is archived ten years, then destroyed (`destruction`); on request sooner. Whoever closes sets the
deadline in the same commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done, Moment, OfTheDossierAlone
from services.consent.functional_rights import Function, Right
from services.consent.mapping import read_close_reason, read_time, write_dossier
from services.consent.terms import ConsentTerms
from services.consent.values import CloseReason, Dossier, DossierState, Grantee, LockedDossier, Refused
from services.runtime.errors import invalid
from services.runtime.postgres import Connection

_CLOSE: Final = Function("TD1.4", "close")


@dataclass(frozen=True, slots=True)
class CloseDossier:
    """TD1.4: the data stay, archived; nobody gets in. Authorisations and blocks stay too, without effect."""

    actor: Actor
    health_id: int
    request: pb.CloseDossierRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    @property
    def reason(self) -> CloseReason | None:
        """The reason stated."""
        return read_close_reason(self.request.reason)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        """The patient; a professional on the patient's request only; of a death or an error, who runs the platform."""
        if acts.may_run(self.actor, locked, acts.OPERATOR, acts.SYSTEM):
            if self.reason is CloseReason.PATIENT_REQUEST:
                raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, locked.dossier.epoch if locked else 0)
            return
        facts = acts.enter(self.actor, self.health_id, locked, moment.now)
        if self.reason is CloseReason.DEATH:
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
        words = (Right.YES,) if self.reason is CloseReason.ERROR else (Right.YES, Right.ON_PATIENT_REQUEST)
        acts.require(self.actor, facts, moment, _CLOSE, *words)

    def check(self) -> None:
        if self.reason is None:
            raise invalid("reason", "enum.defined_only", "not a reason of the contract")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.CloseDossierResponse]:
        assert locked is not None and self.reason is not None  # noqa: S101, PT018 (authorised, checked)
        acts.require_unmerged(locked)
        before = locked.dossier
        if before.state is DossierState.CLOSED:
            raise Refused(reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED, before.epoch)
        died_at = moment.now if self.reason is CloseReason.DEATH else None
        dossier = _closed(before, self.reason, self.actor.name, died_at, moment.now, self.terms)
        await _save_closed(conn, dossier)
        return Done(pb.CloseDossierResponse(dossier=write_dossier(dossier)), dossier.epoch, _change(before, dossier))


@dataclass(frozen=True, slots=True)
class RecordDeath(OfTheDossierAlone):
    """The patient died: the dossier is closed, or was already; heirs and courts registered may read its archive."""

    actor: Actor
    health_id: int
    request: pb.RecordDeathRequest
    terms: ConsentTerms

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        if not acts.may_run(self.actor, locked, acts.OPERATOR, acts.SYSTEM):
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, locked.dossier.epoch if locked else 0)

    def check(self) -> None:
        read_time(self.request.death_time, "death_time")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.RecordDeathResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_unmerged(locked)
        before = locked.dossier
        died_at = read_time(self.request.death_time, "death_time")
        if died_at > moment.now:
            raise invalid("death_time", "death_time.past", "a death is recorded after it")
        if before.died_at is not None:
            raise Refused(reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED, before.epoch)
        if before.state is DossierState.CLOSED:
            dossier = replace(before, died_at=died_at, epoch=before.epoch + 1)
            await store.save_dossier(conn, dossier)
        else:
            dossier = _closed(before, CloseReason.DEATH, self.actor.name, died_at, moment.now, self.terms)
            await _save_closed(conn, dossier)
        return Done(pb.RecordDeathResponse(dossier=write_dossier(dossier)), dossier.epoch, _change(before, dossier))


@dataclass(frozen=True, slots=True)
class RequestDestruction:
    """The patient does not want the archive: it is destroyed within three months. Asking twice changes nothing."""

    actor: Actor
    health_id: int
    request: pb.RequestDestructionRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return ()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        _may_dispose(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        """Nothing but the contract's own rules."""

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.RequestDestructionResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_closed(locked)
        before = locked.dossier
        if before.destruction_requested:
            same = pb.RequestDestructionResponse(dossier=write_dossier(before))
            return Done(same, before.epoch, None)
        wanted = moment.now + self.terms.destruction_after
        destroy_at = wanted if before.destroy_at is None else min(wanted, before.destroy_at)
        dossier = replace(before, destruction_requested=True, destroy_at=destroy_at, epoch=before.epoch + 1)
        await _save_closed(conn, dossier)
        response = pb.RequestDestructionResponse(dossier=write_dossier(dossier))
        return Done(response, dossier.epoch, _change(before, dossier))


@dataclass(frozen=True, slots=True)
class WithdrawDestruction:
    """The archive is kept its ten years after all."""

    actor: Actor
    health_id: int
    request: pb.WithdrawDestructionRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return ()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        _may_dispose(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        """Nothing but the contract's own rules."""

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.WithdrawDestructionResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_closed(locked)
        before = locked.dossier
        if not before.destruction_requested or before.closed_at is None:
            raise Refused(reasons.ERROR_REASON_NOTHING_TO_WITHDRAW, before.epoch)
        destroy_at = self.terms.end_of_archive(before.closed_at)
        dossier = replace(before, destruction_requested=False, destroy_at=destroy_at, epoch=before.epoch + 1)
        await _save_closed(conn, dossier)
        response = pb.WithdrawDestructionResponse(dossier=write_dossier(dossier))
        return Done(response, dossier.epoch, _change(before, dossier))


def _may_dispose(actor: Actor, health_id: int, locked: LockedDossier | None, moment: Moment) -> None:
    """Who may close in person may do without the archive; an operator with the patient's letter."""
    if acts.may_run(actor, locked, acts.OPERATOR):
        return
    facts = acts.enter(actor, health_id, locked, moment.now)
    if not actor.in_person:
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
    acts.require(actor, facts, moment, _CLOSE, Right.YES)


def _closed(
    before: Dossier, reason: CloseReason, by: str, died_at: datetime | None, now: datetime, terms: ConsentTerms
) -> Dossier:
    return replace(
        before,
        state=DossierState.CLOSED,
        epoch=before.epoch + 1,
        closed_at=now,
        close_reason=reason,
        closed_by=by,
        died_at=died_at,
        destroy_at=terms.end_of_archive(now),
    )


async def _save_closed(conn: Connection, dossier: Dossier) -> None:
    """Writes a closed dossier, and the deadline of its archive."""
    assert dossier.destroy_at is not None  # noqa: S101 (every closing sets it)
    await store.save_dossier(conn, dossier)
    due = store.Deadline(dossier.health_id, store.What.DESTRUCTION, "", dossier.destroy_at)
    await store.set_deadline(conn, due)


def _change(before: Dossier, after: Dossier) -> Change:
    """What differs, of what an archive has."""
    old, new = _archive(before), _archive(after)
    payload: dict[str, object] = {"state": after.state.value, **new}
    attributes = [Attribute(name, old[name], new[name]) for name in new if old[name] != new[name]]
    if before.state is not after.state:
        attributes.insert(0, Attribute("state", before.state.value, after.state.value))
    return Change(payload, tuple(attributes))


def _archive(dossier: Dossier) -> dict[str, str]:
    def text(at: datetime | None) -> str:
        return "" if at is None else at.isoformat()

    return {
        "closed_at": text(dossier.closed_at),
        "close_reason": dossier.close_reason.value if dossier.close_reason else "",
        "closed_by": dossier.closed_by,
        "died_at": text(dossier.died_at),
        "destroy_at": text(dossier.destroy_at),
        "destruction_requested": "true" if dossier.destruction_requested else "false",
    }
