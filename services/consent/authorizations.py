"""Authorising and revoking (TD0.3), by the professional's explicit act or by the patient; the role of MT; care team."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import PHYSICIAN, Actor
from services.consent.changes import Attribute, Change, Done, Moment
from services.consent.functional_rights import Function, Right
from services.consent.mapping import check_party, read_grantee, read_term, write_authorization
from services.consent.terms import ConsentTerms
from services.consent.values import Authorization, Grantee, LockedDossier, Refused, Term
from services.runtime.errors import invalid
from services.runtime.postgres import Connection

_DECLARE: Final = Function("TD0.3", "auth_self_declare")
_REMOVE: Final = Function("TD0.3", "auth_self_remove")
_LEAVE_ROLE: Final = Function("TD0.3", "mt_self_remove")
_AUTHORISE_OTHER: Final = Function("TD0.3", "authorise_a_professional")


@dataclass(frozen=True, slots=True)
class GrantAuthorization:
    """TD0.3: the caller's own authorisation, or one that the patient gives; for a year, or for this visit."""

    actor: Actor
    health_id: int
    request: pb.GrantAuthorizationRequest
    terms: ConsentTerms

    @property
    def parties(self) -> Sequence[Grantee]:
        return _with_named(self.actor, read_grantee(self.request))

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        self._grantee(locked, moment)

    def check(self) -> None:
        check_party(read_grantee(self.request))
        if self.request.care_team and read_term(self.request.term) is Term.VISIT:
            raise invalid("care_team", "authorization.care_team", "the care team is not for a single visit")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.GrantAuthorizationResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open(locked)
        authorization = self._authorise(locked, self._grantee(locked, moment), moment.now)
        before = _known(self.actor, locked.authorizations.get(authorization.grantee))
        if before is not None and before.secret and not authorization.secret:
            before = None  # what is given now may be known, what was given in secret not
        await keep(conn, self.health_id, authorization)
        epoch = await store.next_epoch(conn, self.health_id)
        response = pb.GrantAuthorizationResponse(authorization=write_authorization(authorization), epoch=epoch)
        return Done(response, epoch, Change(payload(authorization), (change_of(before, authorization),)))

    def _grantee(self, locked: LockedDossier | None, moment: Moment) -> Grantee | None:
        named = read_grantee(self.request)
        return _may_authorise(self.actor, self.health_id, locked, moment, named, _DECLARE)

    def _authorise(self, locked: LockedDossier, grantee: Grantee | None, now: datetime) -> Authorization:
        """The authorisation granted: only from NONE or EXPIRED, with the patient's consent to this very act."""
        if grantee is None:
            raise invalid("grantee", "required", "the patient names whom to authorise")
        if not self._consented(locked, grantee, now):
            raise invalid("patient_consented", "authorization.consent", "the patient's consent to this act is required")
        attending = self.request.attending_physician
        if attending and not (self.actor.profession == PHYSICIAN and grantee == self.actor.as_professional()):
            raise invalid(
                "attending_physician", "authorization.physician", "only a physician takes on this role, himself"
            )
        if locked.shuts_out(grantee):
            raise Refused(reasons.ERROR_REASON_BLOCKED, locked.dossier.epoch)
        term = read_term(self.request.term)
        existing = _known(self.actor, locked.authorizations.get(grantee))
        longer = existing is not None and existing.term is Term.VISIT and term is Term.YEAR
        if existing is not None and existing.expires_at > now and not longer:
            raise Refused(reasons.ERROR_REASON_AUTHORIZATION_EXISTS, locked.dossier.epoch)
        validity = self.terms.visit_validity if term is Term.VISIT else self.terms.authorization_validity
        member = self.request.care_team or (existing is not None and existing.care_team and term is Term.YEAR)
        return Authorization(grantee, now, now + validity, attending, term, member, self.actor.secret)

    def _consented(self, locked: LockedDossier, grantee: Grantee, now: datetime) -> bool:
        """Stated for this act; or given before, to the care team that the professional belongs to and renews within."""
        if self.actor.in_person or self.request.patient_consented:
            return True
        if self.request.attending_physician or self.request.care_team or read_term(self.request.term) is Term.VISIT:
            return False
        own = locked.authorizations.get(grantee)
        structure = locked.authorizations.get(self.actor.as_structure())
        through_structure = structure is not None and structure.care_team and structure.expires_at > now
        return through_structure or (own is not None and own.care_team)


@dataclass(frozen=True, slots=True)
class RevokeAuthorization:
    """TD0.3: an authorisation ends at once."""

    actor: Actor
    health_id: int
    request: pb.RevokeAuthorizationRequest

    @property
    def parties(self) -> Sequence[Grantee]:
        return _with_named(self.actor, read_grantee(self.request))

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        self._grantee(locked, moment)

    def check(self) -> None:
        check_party(read_grantee(self.request))

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.RevokeAuthorizationResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open_or_merged(locked)
        ended = _existing(self.actor, locked, self._grantee(locked, moment))
        await end(conn, self.health_id, ended.grantee)
        epoch = await store.next_epoch(conn, self.health_id)
        change = Change(payload(ended), (change_of(ended, None),), secret=ended.secret)
        return Done(pb.RevokeAuthorizationResponse(epoch=epoch), epoch, change)

    def _grantee(self, locked: LockedDossier | None, moment: Moment) -> Grantee | None:
        named = read_grantee(self.request)
        return _may_authorise(self.actor, self.health_id, locked, moment, named, _REMOVE)


@dataclass(frozen=True, slots=True)
class RemoveAttendingPhysician:
    """TD0.3: the physician is MT no longer, and keeps his access."""

    actor: Actor
    health_id: int
    request: pb.RemoveAttendingPhysicianRequest

    @property
    def parties(self) -> Sequence[Grantee]:
        return _with_named(self.actor, read_grantee(self.request))

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        self._grantee(locked, moment)

    def check(self) -> None:
        check_party(read_grantee(self.request))

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.RemoveAttendingPhysicianResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open_or_merged(locked)
        before = _existing(self.actor, locked, self._grantee(locked, moment))
        if not before.attending_physician:
            raise Refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING, locked.dossier.epoch)
        after = replace(before, attending_physician=False)
        await store.authorise(conn, self.health_id, after)
        epoch = await store.next_epoch(conn, self.health_id)
        response = pb.RemoveAttendingPhysicianResponse(authorization=write_authorization(after), epoch=epoch)
        return Done(response, epoch, Change(payload(after), (change_of(before, after),), secret=before.secret))

    def _grantee(self, locked: LockedDossier | None, moment: Moment) -> Grantee | None:
        named = read_grantee(self.request)
        return _may_authorise(self.actor, self.health_id, locked, moment, named, _LEAVE_ROLE)


def _may_authorise(
    actor: Actor,
    health_id: int,
    locked: LockedDossier | None,
    moment: Moment,
    named: Grantee | None,
    function: Function,
) -> Grantee | None:
    """Whose authorisation the act is about (TD0.3); None where the patient named nobody.

    A professional acts for himself, in normal mode; a staff card declares its structure. Only the patient may name
    someone else.
    """
    facts = acts.enter(actor, health_id, locked, moment.now)
    if actor.in_person:
        acts.require(actor, facts, moment, _AUTHORISE_OTHER, Right.YES)
        return named
    words = (Right.YES, Right.GRANTS_TO_STRUCTURE) if function == _DECLARE else (Right.YES,)
    right = acts.require(actor, facts, moment, function, *words)
    own = actor.as_structure() if right is Right.GRANTS_TO_STRUCTURE else actor.as_professional()
    if named not in (None, own):
        raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, facts.epoch)
    return own


def _known(actor: Actor, authorization: Authorization | None) -> Authorization | None:
    """What was given in a secret connection is not there for representatives."""
    hidden = authorization is not None and authorization.secret and actor.is_representative
    return None if hidden else authorization


def _existing(actor: Actor, locked: LockedDossier, grantee: Grantee | None) -> Authorization:
    """The authorisation of a grantee, expired or not."""
    if grantee is None:
        raise invalid("grantee", "required", "the patient names whose authorisation it is")
    existing = _known(actor, locked.authorizations.get(grantee))
    if existing is None:
        raise Refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING, locked.dossier.epoch)
    return existing


async def keep(conn: Connection, health_id: int, authorization: Authorization) -> None:
    """Writes an authorisation, and when it ends."""
    await store.authorise(conn, health_id, authorization)
    due = store.Deadline(health_id, store.What.AUTHORIZATION, str(authorization.grantee), authorization.expires_at)
    await store.set_deadline(conn, due)


async def end(conn: Connection, health_id: int, grantee: Grantee) -> None:
    """Ends an authorisation, and its deadline with it."""
    await store.revoke(conn, health_id, grantee)
    await store.clear_deadline(conn, health_id, store.What.AUTHORIZATION, str(grantee))


def change_of(before: Authorization | None, after: Authorization | None) -> Attribute:
    """An authorisation before and after, for the trail."""
    return Attribute("authorization", _text(before), _text(after))


def _with_named(actor: Actor, named: Grantee | None) -> Sequence[Grantee]:
    return actor.parties() if named is None else (*actor.parties(), named)


def payload(authorization: Authorization) -> dict[str, object]:
    """An authorisation, for the history."""
    return {
        "grantee_kind": authorization.grantee.kind.value,
        "grantee_id": authorization.grantee.id,
        "granted_at": authorization.granted_at.isoformat(),
        "expires_at": authorization.expires_at.isoformat(),
        "attending_physician": authorization.attending_physician,
        "term": authorization.term.value,
        "care_team": authorization.care_team,
        "secret": authorization.secret,
    }


def _text(authorization: Authorization | None) -> str:
    if authorization is None:
        return ""
    role = ", attending physician" if authorization.attending_physician else ""
    team = ", care team" if authorization.care_team else ""
    return f"{authorization.grantee} until {authorization.expires_at.isoformat()}{role}{team}"
