"""Opening a dossier (TD1.1) and opening it again (TD1.2), with the consent recorded; and opposition to any opening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, merging, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done, Moment, consent_payload, yes_or_no
from services.consent.functional_rights import Function, Right
from services.consent.mapping import check_consent, read_consent, write_dossier
from services.consent.terms import ConsentTerms
from services.consent.values import (
    CloseReason,
    ConsentRecord,
    Dossier,
    DossierState,
    Grantee,
    LockedDossier,
    Refused,
)
from services.runtime.errors import invalid
from services.runtime.postgres import Connection

_OPEN: Final = Function("TD1.1", "open")
_REOPEN: Final = Function("TD1.2", "reopen")
_CLOCK_SKEW: Final = timedelta(minutes=5)
_BY_OTHERS_THAN_THE_PATIENT: Final = frozenset({CloseReason.DEATH, CloseReason.ERROR})


@dataclass(frozen=True, slots=True)
class OpenDossier:
    """TD1.1: of two openings at once one succeeds, and the other finds the dossier open."""

    actor: Actor
    health_id: int
    request: pb.OpenDossierRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        facts = acts.enter_unopened(self.actor, self.health_id, locked, moment.now)
        acts.require(self.actor, facts, moment, _OPEN, Right.YES)

    def check(self) -> None:
        check_consent(self.request.consent)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.OpenDossierResponse]:
        members = await merging.refuse_merged(conn, self.health_id, locked)
        if locked is not None and locked.dossier.state is not DossierState.NONE:
            raise _refuse_second_opening(locked.dossier.state, locked.dossier.epoch)
        consent = _consent(self.request.consent, self.actor, self.health_id, moment.now)
        dossier = Dossier(
            health_id=self.health_id,
            state=DossierState.OPEN,
            epoch=1 if locked is None else locked.dossier.epoch + 1,
            opened_at=moment.now,
            closed_at=None,
            close_reason=None,
            break_glass_opposed=self.request.break_glass_opposed,
            regulation_opposed=self.request.regulation_opposed,
            masked_in_emergency=self.request.masked_shown_in_emergency,
            home_host=self.terms.home_host,
            consent=consent,
            region=self.terms.region,
        )
        if locked is not None:
            await store.save_dossier(conn, dossier)
        elif not await store.insert_dossier(conn, dossier):
            # Not locked here: the other opening's retry may hold the dossier and wait for this request_id.
            raise _refuse_second_opening(*await store.dossier_state(conn, self.health_id))
        if len(members) > 1:
            await merging.settle(conn, [members], moment.now)
        response = pb.OpenDossierResponse(dossier=write_dossier(dossier))
        return Done(response, dossier.epoch, _opened(dossier, consent, ""))


@dataclass(frozen=True, slots=True)
class ReopenDossier:
    """TD1.2: all that was archived comes back, blocks, oppositions and authorisations not expired among it."""

    actor: Actor
    health_id: int
    request: pb.ReopenDossierRequest

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        if acts.may_run(self.actor, locked, acts.OPERATOR):
            return
        facts = acts.enter(self.actor, self.health_id, locked, moment.now)
        acts.require(self.actor, facts, moment, _REOPEN, Right.YES)

    def check(self) -> None:
        check_consent(self.request.consent)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.ReopenDossierResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        members = await merging.refuse_merged(conn, self.health_id, locked)
        before = locked.dossier
        if before.state is DossierState.OPEN:
            raise Refused(reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS, before.epoch)
        by_others = before.close_reason in _BY_OTHERS_THAN_THE_PATIENT or before.died_at is not None
        if by_others is not bool(self.actor.platform):
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, before.epoch)
        consent = _consent(self.request.consent, self.actor, self.health_id, moment.now)
        dossier = replace(
            before,
            state=DossierState.OPEN,
            epoch=before.epoch + 1,
            closed_at=None,
            close_reason=None,
            closed_by="",
            died_at=None,
            destroy_at=None,
            destruction_requested=False,
            consent=consent,
        )
        await store.save_dossier(conn, dossier)
        await store.clear_deadline(conn, self.health_id, store.What.DESTRUCTION)
        if len(members) > 1:
            await merging.settle(conn, [members], moment.now)
        response = pb.ReopenDossierResponse(dossier=write_dossier(dossier))
        return Done(response, dossier.epoch, _opened(dossier, consent, before.state.value))


@dataclass(frozen=True, slots=True)
class OpposeOpening:
    """The person wants no dossier. Opposing twice changes nothing."""

    actor: Actor
    health_id: int
    request: pb.OpposeOpeningRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        _may_speak_of_opening(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        _check_consented(self.actor, consented=self.request.patient_consented)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.OpposeOpeningResponse]:
        if locked is None:
            dossier = _unopened(self.health_id, self.terms)
            if not await store.insert_dossier(conn, dossier):
                raise _refuse_opposition(*await store.dossier_state(conn, self.health_id))
        elif locked.dossier.state is DossierState.NONE:
            dossier = replace(locked.dossier, state=DossierState.OPPOSED, epoch=locked.dossier.epoch + 1)
            await store.save_dossier(conn, dossier)
        elif locked.dossier.state is DossierState.OPPOSED:
            same = pb.OpposeOpeningResponse(dossier=write_dossier(locked.dossier))
            return Done(same, locked.dossier.epoch, None)
        else:
            raise _refuse_opposition(locked.dossier.state, locked.dossier.epoch)
        payload: dict[str, object] = {"home_host": dossier.home_host, "region": dossier.region}
        change = Change(payload, (Attribute("state", DossierState.NONE.value, DossierState.OPPOSED.value),))
        return Done(pb.OpposeOpeningResponse(dossier=write_dossier(dossier)), dossier.epoch, change)


@dataclass(frozen=True, slots=True)
class WithdrawOpposition:
    """The person may have a dossier again; none is opened."""

    actor: Actor
    health_id: int
    request: pb.WithdrawOppositionRequest

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        _may_speak_of_opening(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        _check_consented(self.actor, consented=self.request.patient_consented)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.WithdrawOppositionResponse]:
        if locked is None or locked.dossier.state is not DossierState.OPPOSED:
            raise Refused(reasons.ERROR_REASON_NOTHING_TO_WITHDRAW, locked.dossier.epoch if locked else 0)
        dossier = replace(locked.dossier, state=DossierState.NONE, epoch=locked.dossier.epoch + 1)
        await store.save_dossier(conn, dossier)
        change = Change({}, (Attribute("state", DossierState.OPPOSED.value, DossierState.NONE.value),))
        return Done(pb.WithdrawOppositionResponse(epoch=dossier.epoch), dossier.epoch, change)


def _may_speak_of_opening(actor: Actor, health_id: int, locked: LockedDossier | None, moment: Moment) -> None:
    """The person himself, or who might open the dossier and was told so; an operator with a letter."""
    if actor.platform == acts.OPERATOR and actor.complete:
        return
    facts = acts.enter_unopened(actor, health_id, locked, moment.now)
    if not actor.in_person:
        acts.require(actor, facts, moment, _OPEN, Right.YES)


def _check_consented(actor: Actor, *, consented: bool) -> None:
    if not actor.in_person and not actor.platform and not consented:
        raise invalid("patient_consented", "required", "only what the person said himself is recorded")


def _consent(record: pb.ConsentRecord, actor: Actor, health_id: int, now: datetime) -> ConsentRecord:
    """The proof, collected by the caller if nobody else is named. INVALID_FIELD if it lies in the future."""
    consent = read_consent(record)
    if consent.collected_at > now + _CLOCK_SKEW:
        raise invalid("consent.collect_time", "consent.collected_before", "consent is collected before the opening")
    if consent.representative == health_id:
        raise invalid("consent.representative", "consent.other", "nobody is his own representative")
    return consent if consent.collector else replace(consent, collector=actor.professional or actor.structure)


def _unopened(health_id: int, terms: ConsentTerms) -> Dossier:
    """The row of a person who has no dossier, and wants none."""
    return Dossier(
        health_id=health_id,
        state=DossierState.OPPOSED,
        epoch=1,
        opened_at=None,
        closed_at=None,
        close_reason=None,
        break_glass_opposed=False,
        regulation_opposed=False,
        masked_in_emergency=False,
        home_host=terms.home_host,
        consent=None,
        region=terms.region,
    )


def _refuse_second_opening(state: DossierState, epoch: int) -> Refused:
    """Why there is no opening: open already, closed (reopening is another act), destroyed, or opposed."""
    return Refused(
        {
            DossierState.OPEN: reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS,
            DossierState.CLOSED: reasons.ERROR_REASON_DOSSIER_CLOSED,
            DossierState.OPPOSED: reasons.ERROR_REASON_OPENING_OPPOSED,
            DossierState.NONE: reasons.ERROR_REASON_CONCURRENT_CHANGE,
        }.get(state, reasons.ERROR_REASON_DOSSIER_DESTROYED),
        epoch,
    )


def _refuse_opposition(state: DossierState, epoch: int) -> Refused:
    """A dossier that is there is closed, not opposed."""
    if state in (DossierState.NONE, DossierState.OPPOSED):
        return Refused(reasons.ERROR_REASON_CONCURRENT_CHANGE, epoch)
    return _refuse_second_opening(state, epoch)


def _opened(dossier: Dossier, consent: ConsentRecord, before: str) -> Change:
    payload: dict[str, object] = {
        "home_host": dossier.home_host,
        "region": dossier.region,
        "break_glass_opposed": dossier.break_glass_opposed,
        "regulation_opposed": dossier.regulation_opposed,
        "masked_in_emergency": dossier.masked_in_emergency,
        "consent": consent_payload(consent),
    }
    collector = f" {consent.collector}" if consent.collector else ""
    attributes = (
        Attribute("consent", "", f"{consent.method} {consent.given_by} {consent.collected_at.isoformat()}{collector}"),
        Attribute("state", before, dossier.state.value),
        Attribute("break_glass_opposed", "", yes_or_no(dossier.break_glass_opposed)),
        Attribute("regulation_opposed", "", yes_or_no(dossier.regulation_opposed)),
    )
    return Change(payload, attributes)
