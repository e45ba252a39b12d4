"""Who acts for the patient, from when, until when: registered on documents seen, ended at once.

A parent represents until the child's majority; heirs and courts read the archive of a closed dossier, and are
registered by operators (docs/decisions/0016). A representative gives nobody else that role, and the patient takes it
from nobody: both are the law's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done, Moment
from services.consent.functional_rights import Right
from services.consent.mapping import read_person, read_representation_kind, read_time, write_representative
from services.consent.terms import ConsentTerms, years_after
from services.consent.values import (
    ARCHIVE_READERS,
    Grantee,
    LockedDossier,
    Refused,
    Representation,
    RepresentationKind,
)
from services.runtime.errors import invalid
from services.runtime.postgres import Connection

KINDS: Final = frozenset(pb.RepresentationKind.values()) - {pb.REPRESENTATION_KIND_UNSPECIFIED}
"""By what titles somebody acts for the patient."""
_LONGEST_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RegisterRepresentative:
    """By a professional who is authorised and saw the documents, or by an operator."""

    actor: Actor
    health_id: int
    request: pb.RegisterRepresentativeRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return (*acts.persons_of(self.actor), read_person(self.request.person))

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        if acts.may_run(self.actor, locked, acts.OPERATOR):
            return
        _professional_may(self.actor, self.health_id, locked, moment)
        kind = read_representation_kind(self.request.kind)
        if kind in ARCHIVE_READERS:
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, locked.dossier.epoch if locked else 0)

    def check(self) -> None:
        if not self.request.documents_seen:
            raise invalid("documents_seen", "required", "a representation is recorded on documents that were seen")
        if read_person(self.request.person) == self.health_id:
            raise invalid("person", "representative.other", "nobody is his own representative")
        if self.request.HasField("start_time"):
            read_time(self.request.start_time, "start_time")
        if self.request.HasField("end_time"):
            read_time(self.request.end_time, "end_time")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.RegisterRepresentativeResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        representation = self._representation(moment)
        if representation.kind not in ARCHIVE_READERS:
            acts.require_open(locked)
        await keep(conn, self.health_id, representation)
        epoch = await store.next_epoch(conn, self.health_id)
        before = locked.representations.get(representation.person)
        response = pb.RegisterRepresentativeResponse(
            representative=write_representative(representation, moment.now), epoch=epoch
        )
        return Done(response, epoch, Change(payload(representation), (change_of(before, representation),)))

    def _representation(self, moment: Moment) -> Representation:
        request, now = self.request, moment.now
        kind = read_representation_kind(request.kind)
        # At once means at once on every replica, and their clocks differ (docs/decisions/0017).
        at_once = now - _LONGEST_SKEW
        starts_at = read_time(request.start_time, "start_time") if request.HasField("start_time") else at_once
        ends_at = read_time(request.end_time, "end_time") if request.HasField("end_time") else None
        if ends_at is not None and ends_at <= max(starts_at, now):
            raise invalid("end_time", "representative.period", "it ends after it began, and is not over already")
        if kind is RepresentationKind.PARENT:
            if ends_at is None:
                raise invalid("end_time", "representative.majority", "a parent represents until the child's majority")
            if ends_at > years_after(now, self.terms.minority_years) + _LONGEST_SKEW:
                raise invalid("end_time", "representative.majority", "no child is so long under age")
        return Representation(read_person(request.person), kind, starts_at, ends_at)


@dataclass(frozen=True, slots=True)
class EndRepresentation:
    """By who could register it, or by the representative himself."""

    actor: Actor
    health_id: int
    request: pb.EndRepresentationRequest

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return (*acts.persons_of(self.actor), read_person(self.request.person))

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        if acts.may_run(self.actor, locked, acts.OPERATOR):
            return
        if self.actor.in_person:
            facts = acts.enter(self.actor, self.health_id, locked, moment.now)
            if self.actor.representative != read_person(self.request.person):
                raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
            return
        _professional_may(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        """Nothing but the contract's own rules."""

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.EndRepresentationResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        person = read_person(self.request.person)
        ended = locked.representations.get(person)
        if ended is None:
            raise Refused(reasons.ERROR_REASON_REPRESENTATION_MISSING, locked.dossier.epoch)
        await store.end_representation(conn, self.health_id, person)
        await store.clear_deadline(conn, self.health_id, store.What.REPRESENTATION, str(person))
        epoch = await store.next_epoch(conn, self.health_id)
        change = Change(payload(ended), (change_of(ended, None),))
        return Done(pb.EndRepresentationResponse(epoch=epoch), epoch, change)


def _professional_may(actor: Actor, health_id: int, locked: LockedDossier | None, moment: Moment) -> None:
    facts = acts.enter(actor, health_id, locked, moment.now)
    if actor.in_person:
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
    acts.require(actor, facts, moment, acts.CHANGE_ADMINISTRATIVE, Right.YES)
    acts.require_authorised(actor, facts, moment.now)


async def keep(conn: Connection, health_id: int, representation: Representation) -> None:
    """Writes a representation over another of the same person, and when it ends."""
    await store.represent(conn, health_id, representation)
    whose = str(representation.person)
    if representation.ends_at is None:
        await store.clear_deadline(conn, health_id, store.What.REPRESENTATION, whose)
    else:
        due = store.Deadline(health_id, store.What.REPRESENTATION, whose, representation.ends_at)
        await store.set_deadline(conn, due)


def change_of(before: Representation | None, after: Representation | None) -> Attribute:
    """A representation before and after, for the trail."""
    return Attribute("representation", _text(before), _text(after))


def payload(held: Representation) -> dict[str, object]:
    """A representation, for the history."""
    return {
        "person": str(held.person),
        "kind": held.kind.value,
        "starts_at": held.starts_at.isoformat(),
        "ends_at": "" if held.ends_at is None else held.ends_at.isoformat(),
    }


def _text(held: Representation | None) -> str:
    """Without the person: the trail names nobody by a health id but the patient."""
    if held is None:
        return ""
    until = "" if held.ends_at is None else f" until {held.ends_at.isoformat()}"
    return f"{held.kind} from {held.starts_at.isoformat()}{until}"
