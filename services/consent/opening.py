"""Opening a dossier (TD1.1), the consent recorded with it, and closing it (TD1.4). Reopening is another matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done
from services.consent.functional_rights import FunctionalRights
from services.consent.mapping import read_close_reason, read_opening, write_dossier
from services.consent.values import CloseReason, Dossier, DossierState, Grantee, LockedDossier
from services.runtime.errors import invalid
from services.runtime.postgres import Connection


@dataclass(frozen=True, slots=True)
class OpenDossier:
    """TD1.1: of two openings at once one succeeds, and the other finds the dossier open."""

    actor: Actor
    health_id: int
    request: pb.OpenDossierRequest
    rights: FunctionalRights
    home_host: str

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    def authorise(self, locked: LockedDossier | None, now: datetime) -> None:
        acts.may_open(self.actor, self.health_id, locked, self.rights, now)

    def check(self) -> None:
        read_opening(self.request)

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, now: datetime
    ) -> Done[pb.OpenDossierResponse]:
        if locked is not None:
            raise acts.refuse_second_opening(locked.dossier.state, locked.dossier.epoch)
        dossier = acts.open_dossier(self.health_id, read_opening(self.request), self.home_host, now)
        if not await store.insert_dossier(conn, dossier):
            # Not locked here: the other opening's retry may hold the dossier and wait for this request_id.
            raise acts.refuse_second_opening(*await store.dossier_state(conn, self.health_id))
        response = pb.OpenDossierResponse(dossier=write_dossier(dossier))
        return Done(response, dossier.epoch, _opened(dossier))


@dataclass(frozen=True, slots=True)
class CloseDossier:
    """TD1.4: the data stay, archived; nobody gets in. Authorisations and blocks stay too, without effect."""

    actor: Actor
    health_id: int
    request: pb.CloseDossierRequest
    rights: FunctionalRights

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def reason(self) -> CloseReason | None:
        """The reason stated."""
        return read_close_reason(self.request.reason)

    def authorise(self, locked: LockedDossier | None, now: datetime) -> None:
        acts.may_close(self.actor, self.health_id, locked, self.rights, now, self.reason)

    def check(self) -> None:
        if self.reason is None:
            raise invalid("reason", "enum.defined_only", "not a reason of the contract")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, now: datetime
    ) -> Done[pb.CloseDossierResponse]:
        assert locked is not None and self.reason is not None  # noqa: S101, PT018 (authorised, checked)
        acts.refuse_second_closing(locked)
        await store.close_dossier(conn, self.health_id, self.reason, now)
        epoch = await store.next_epoch(conn, self.health_id)
        closed = acts.closed(locked.dossier, self.reason, epoch, now)
        response = pb.CloseDossierResponse(dossier=write_dossier(closed))
        change = Change(
            {"reason": self.reason.value},
            (
                Attribute("state", DossierState.OPEN.value, DossierState.CLOSED.value),
                Attribute("close_reason", "", self.reason.value),
            ),
        )
        return Done(response, epoch, change)


def _opened(dossier: Dossier) -> Change:
    consent = dossier.consent
    payload: dict[str, object] = {
        "home_host": dossier.home_host,
        "break_glass_opposed": dossier.break_glass_opposed,
        "regulation_opposed": dossier.regulation_opposed,
        "masked_in_emergency": dossier.masked_in_emergency,
        "consent": {
            "collected_at": consent.collected_at.isoformat(),
            "method": consent.method.value,
            "given_by": consent.given_by.value,
        },
    }
    attributes = (
        Attribute("consent", "", f"{consent.method} {consent.given_by} {consent.collected_at.isoformat()}"),
        Attribute("state", "", dossier.state.value),
        Attribute("break_glass_opposed", "", _yes_or_no(dossier.break_glass_opposed)),
        Attribute("regulation_opposed", "", _yes_or_no(dossier.regulation_opposed)),
    )
    return Change(payload, attributes)


def _yes_or_no(value: bool) -> str:
    return "true" if value else "false"
