"""Authorising and revoking (TD0.3), by the professional's explicit act or by the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done
from services.consent.functional_rights import FunctionalRights
from services.consent.mapping import check_party, read_grantee, write_authorization
from services.consent.values import Authorization, Grantee, LockedDossier
from services.runtime.postgres import Connection


@dataclass(frozen=True, slots=True)
class GrantAuthorization:
    """TD0.3: the caller's own authorisation, or one that the patient gives; for `validity` from now."""

    actor: Actor
    health_id: int
    request: pb.GrantAuthorizationRequest
    rights: FunctionalRights
    validity: timedelta

    @property
    def parties(self) -> Sequence[Grantee]:
        return _with_named(self.actor, read_grantee(self.request))

    def authorise(self, locked: LockedDossier | None, now: datetime) -> None:
        self._grantee(locked, now)

    def check(self) -> None:
        check_party(read_grantee(self.request))

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, now: datetime
    ) -> Done[pb.GrantAuthorizationResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open(locked)
        authorization = acts.authorise(
            self.actor,
            locked,
            self._grantee(locked, now),
            attending_physician=self.request.attending_physician,
            patient_consented=self.request.patient_consented,
            now=now,
            validity=self.validity,
        )
        await store.authorise(conn, self.health_id, authorization)
        epoch = await store.next_epoch(conn, self.health_id)
        response = pb.GrantAuthorizationResponse(authorization=write_authorization(authorization), epoch=epoch)
        before = locked.authorizations.get(authorization.grantee)
        return Done(response, epoch, Change(_payload(authorization), (change_of(before, authorization),)))

    def _grantee(self, locked: LockedDossier | None, now: datetime) -> Grantee | None:
        named = read_grantee(self.request)
        return acts.may_authorise(self.actor, self.health_id, locked, self.rights, now, named, declaring=True)


@dataclass(frozen=True, slots=True)
class RevokeAuthorization:
    """TD0.3: an authorisation ends at once."""

    actor: Actor
    health_id: int
    request: pb.RevokeAuthorizationRequest
    rights: FunctionalRights

    @property
    def parties(self) -> Sequence[Grantee]:
        return _with_named(self.actor, read_grantee(self.request))

    def authorise(self, locked: LockedDossier | None, now: datetime) -> None:
        self._grantee(locked, now)

    def check(self) -> None:
        check_party(read_grantee(self.request))

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, now: datetime
    ) -> Done[pb.RevokeAuthorizationResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open(locked)
        ended = acts.revoke(locked, self._grantee(locked, now))
        await store.revoke(conn, self.health_id, ended.grantee)
        epoch = await store.next_epoch(conn, self.health_id)
        change = Change(_payload(ended), (change_of(ended, None),))
        return Done(pb.RevokeAuthorizationResponse(epoch=epoch), epoch, change)

    def _grantee(self, locked: LockedDossier | None, now: datetime) -> Grantee | None:
        named = read_grantee(self.request)
        return acts.may_authorise(self.actor, self.health_id, locked, self.rights, now, named, declaring=False)


def change_of(before: Authorization | None, after: Authorization | None) -> Attribute:
    """An authorisation before and after, for the trail."""
    return Attribute("authorization", _text(before), _text(after))


def _with_named(actor: Actor, named: Grantee | None) -> Sequence[Grantee]:
    return actor.parties() if named is None else (*actor.parties(), named)


def _payload(authorization: Authorization) -> dict[str, object]:
    return {
        "grantee_kind": authorization.grantee.kind.value,
        "grantee_id": authorization.grantee.id,
        "granted_at": authorization.granted_at.isoformat(),
        "expires_at": authorization.expires_at.isoformat(),
        "attending_physician": authorization.attending_physician,
    }


def _text(authorization: Authorization | None) -> str:
    if authorization is None:
        return ""
    role = ", attending physician" if authorization.attending_physician else ""
    return f"{authorization.grantee} until {authorization.expires_at.isoformat()}{role}"
