"""Blocking a professional or a structure, whatever the mode, and lifting the block. The patient's own acts.

A block also ends the authorisation, so that lifting it gives none back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.authorizations import change_of
from services.consent.changes import Attribute, Change, Done
from services.consent.functional_rights import FunctionalRights
from services.consent.mapping import check_party, read_party
from services.consent.values import Grantee, LockedDossier
from services.runtime.postgres import Connection


@dataclass(frozen=True, slots=True)
class BlockProfessional:
    """Shuts a grantee out. Blocking twice changes nothing."""

    actor: Actor
    health_id: int
    request: pb.BlockProfessionalRequest
    rights: FunctionalRights

    @property
    def grantee(self) -> Grantee:
        """Who is shut out."""
        return read_party(self.request.grantee)

    @property
    def parties(self) -> Sequence[Grantee]:
        return (*self.actor.parties(), self.grantee)

    def authorise(self, locked: LockedDossier | None, now: datetime) -> None:
        acts.may_block(self.actor, self.health_id, locked, self.rights, now)

    def check(self) -> None:
        check_party(self.grantee)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, now: datetime
    ) -> Done[pb.BlockProfessionalResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open(locked)
        grantee = self.grantee
        if grantee in locked.blocked:
            return Done(pb.BlockProfessionalResponse(epoch=locked.dossier.epoch), locked.dossier.epoch, None)
        await store.block(conn, self.health_id, grantee, now)
        ended = locked.authorizations.get(grantee)
        if ended is not None:
            await store.revoke(conn, self.health_id, grantee)
        epoch = await store.next_epoch(conn, self.health_id)
        attributes = [Attribute("block", "", str(grantee))]
        if ended is not None:
            attributes.append(change_of(ended, None))
        change = Change(_payload(grantee), tuple(attributes))
        return Done(pb.BlockProfessionalResponse(epoch=epoch), epoch, change)


@dataclass(frozen=True, slots=True)
class UnblockProfessional:
    """Lets a grantee in again, once authorised. Lifting a block that is not there changes nothing."""

    actor: Actor
    health_id: int
    request: pb.UnblockProfessionalRequest
    rights: FunctionalRights

    @property
    def grantee(self) -> Grantee:
        """Who was shut out."""
        return read_party(self.request.grantee)

    @property
    def parties(self) -> Sequence[Grantee]:
        return (*self.actor.parties(), self.grantee)

    def authorise(self, locked: LockedDossier | None, now: datetime) -> None:
        acts.may_block(self.actor, self.health_id, locked, self.rights, now)

    def check(self) -> None:
        check_party(self.grantee)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, now: datetime
    ) -> Done[pb.UnblockProfessionalResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open(locked)
        grantee = self.grantee
        if grantee not in locked.blocked:
            return Done(pb.UnblockProfessionalResponse(epoch=locked.dossier.epoch), locked.dossier.epoch, None)
        await store.unblock(conn, self.health_id, grantee)
        epoch = await store.next_epoch(conn, self.health_id)
        change = Change(_payload(grantee), (Attribute("block", str(grantee), ""),))
        return Done(pb.UnblockProfessionalResponse(epoch=epoch), epoch, change)


def _payload(grantee: Grantee) -> dict[str, object]:
    return {"grantee_kind": grantee.kind.value, "grantee_id": grantee.id}
