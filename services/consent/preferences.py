"""What the patient decided about emergencies (TD1.3), and where a dossier has its home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done, Moment, OfTheDossierAlone, yes_or_no
from services.consent.functional_rights import Right
from services.consent.mapping import write_dossier
from services.consent.values import Grantee, LockedDossier, Refused
from services.runtime.errors import invalid
from services.runtime.postgres import Connection


@dataclass(frozen=True, slots=True)
class UpdatePreferences:
    """Oppositions to break-glass and to the call centre, and whether masked documents are shown then."""

    actor: Actor
    health_id: int
    request: pb.UpdatePreferencesRequest

    @property
    def parties(self) -> Sequence[Grantee]:
        return self.actor.parties()

    @property
    def persons(self) -> Sequence[int]:
        return acts.persons_of(self.actor)

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        """The patient; a professional who is authorised and was told so; an operator with a letter."""
        if acts.may_run(self.actor, locked, acts.OPERATOR):
            return
        facts = acts.enter(self.actor, self.health_id, locked, moment.now)
        acts.require(self.actor, facts, moment, acts.CHANGE_ADMINISTRATIVE, Right.YES)
        acts.require_authorised(self.actor, facts, moment.now)

    def check(self) -> None:
        if not (self.actor.in_person or self.actor.platform or self.request.patient_consented):
            raise invalid("patient_consented", "required", "only what the patient said himself is recorded")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.UpdatePreferencesResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        acts.require_open(locked)
        before, wanted = locked.dossier, self.request
        dossier = replace(
            before,
            break_glass_opposed=_chosen(wanted, "break_glass_opposed", before.break_glass_opposed),
            regulation_opposed=_chosen(wanted, "regulation_opposed", before.regulation_opposed),
            masked_in_emergency=_chosen(wanted, "masked_shown_in_emergency", before.masked_in_emergency),
        )
        if dossier == before:
            return Done(pb.UpdatePreferencesResponse(dossier=write_dossier(before)), before.epoch, None)
        dossier = replace(dossier, epoch=before.epoch + 1)
        await store.save_dossier(conn, dossier)
        names = ("break_glass_opposed", "regulation_opposed", "masked_in_emergency")
        payload: dict[str, object] = {name: getattr(dossier, name) for name in names}
        attributes = tuple(
            Attribute(name, yes_or_no(getattr(before, name)), yes_or_no(getattr(dossier, name)))
            for name in names
            if getattr(before, name) != getattr(dossier, name)
        )
        response = pb.UpdatePreferencesResponse(dossier=write_dossier(dossier))
        return Done(response, dossier.epoch, Change(payload, attributes))


@dataclass(frozen=True, slots=True)
class MoveDossier(OfTheDossierAlone):
    """Another home host or region. Who may enter, and what is kept where, does not follow from it."""

    actor: Actor
    health_id: int
    request: pb.MoveDossierRequest

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        if not acts.may_run(self.actor, locked, acts.OPERATOR):
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED, locked.dossier.epoch if locked else 0)

    def check(self) -> None:
        """Nothing but the contract's own rules."""

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.MoveDossierResponse]:
        assert locked is not None  # noqa: S101 (authorised)
        before = locked.dossier
        dossier = replace(before, home_host=self.request.home_host, region=self.request.region)
        if dossier == before:
            return Done(pb.MoveDossierResponse(dossier=write_dossier(before)), before.epoch, None)
        dossier = replace(dossier, epoch=before.epoch + 1)
        await store.save_dossier(conn, dossier)
        change = Change(
            {"home_host": dossier.home_host, "region": dossier.region},
            (
                Attribute("home_host", before.home_host, dossier.home_host),
                Attribute("region", before.region, dossier.region),
            ),
        )
        return Done(pb.MoveDossierResponse(dossier=write_dossier(dossier)), dossier.epoch, change)


def _chosen(request: pb.UpdatePreferencesRequest, field: str, before: bool) -> bool:
    return bool(getattr(request, field)) if request.HasField(field) else before  # type: ignore[arg-type]
