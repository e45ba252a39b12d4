"""Blocking a professional or a structure, whatever the mode, and lifting the block. The patient's own acts.

A block also ends the authorisation, so that lifting it gives none back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.authorizations import change_of, end
from services.consent.changes import Attribute, Change, Done, Moment
from services.consent.functional_rights import Function, Right
from services.consent.mapping import check_party, read_party
from services.consent.values import Grantee, LockedDossier
from services.runtime.postgres import Connection

_BLOCK: Final = Function("TD0.3", "block_a_professional")


@dataclass(frozen=True, slots=True)
class BlockProfessional:
    """Shuts a grantee out. Blocking twice changes nothing."""

    actor: Actor
    health_id: int
    request: pb.BlockProfessionalRequest

    @property
    def grantee(self) -> Grantee:
        """Who is shut out."""
        return read_party(self.request.grantee)

    @property
    def parties(self) -> Sequence[Grantee]:
        return (*self.actor.parties(), self.grantee)

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        _may_block(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        check_party(self.grantee)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.BlockProfessionalResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open_or_merged(locked)
        grantee = self.grantee
        if grantee in locked.blocked:
            return Done(pb.BlockProfessionalResponse(epoch=locked.dossier.epoch), locked.dossier.epoch, None)
        await store.block(conn, self.health_id, grantee, moment.now)
        ended = locked.authorizations.get(grantee)
        if ended is not None:
            await end(conn, self.health_id, grantee)
        epoch = await store.next_epoch(conn, self.health_id)
        attributes = [Attribute("block", "", str(grantee))]
        if ended is not None and not ended.secret:  # representatives are told of the block
            attributes.append(change_of(ended, None))
        change = Change(_payload(grantee), tuple(attributes))
        return Done(pb.BlockProfessionalResponse(epoch=epoch), epoch, change)


@dataclass(frozen=True, slots=True)
class UnblockProfessional:
    """Lets a grantee in again, once authorised. Lifting a block that is not there changes nothing."""

    actor: Actor
    health_id: int
    request: pb.UnblockProfessionalRequest

    @property
    def grantee(self) -> Grantee:
        """Who was shut out."""
        return read_party(self.request.grantee)

    @property
    def parties(self) -> Sequence[Grantee]:
        return (*self.actor.parties(), self.grantee)

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        _may_block(self.actor, self.health_id, locked, moment)

    def check(self) -> None:
        check_party(self.grantee)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.UnblockProfessionalResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open_or_merged(locked)
        grantee = self.grantee
        if grantee not in locked.blocked:
            return Done(pb.UnblockProfessionalResponse(epoch=locked.dossier.epoch), locked.dossier.epoch, None)
        await store.unblock(conn, self.health_id, grantee)
        epoch = await store.next_epoch(conn, self.health_id)
        change = Change(_payload(grantee), (Attribute("block", str(grantee), ""),))
        return Done(pb.UnblockProfessionalResponse(epoch=epoch), epoch, change)


def _payload(grantee: Grantee) -> dict[str, object]:
    return {"grantee_kind": grantee.kind.value, "grantee_id": grantee.id}


def _may_block(actor: Actor, health_id: int, locked: LockedDossier | None, moment: Moment) -> None:
    """Blocking and unblocking are the patient's (or representative's) own act."""
    facts = acts.enter(actor, health_id, locked, moment.now)
    acts.require(actor, facts, moment, _BLOCK, Right.YES)
