"""Taking a dossier over from another home host (domain §6): all that its host held of it, in one commit.

So there is no instant at which somebody is authorised and not yet shut out. By who takes over that host's dossiers
(decision 0040); what an act here would have to be asked for (consent, documents seen, the patient's own word) was asked
for at the other host. What no host could have granted is refused all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, authorizations, merging, representatives, store
from services.consent.acting import Actor
from services.consent.changes import Attribute, Change, Done, Moment, OfTheDossierAlone, consent_payload, yes_or_no
from services.consent.decision import refuse_entry
from services.consent.functional_rights import Function, Right
from services.consent.mapping import (
    read_close_reason,
    read_consent,
    read_party,
    read_person,
    read_representation_kind,
    read_term,
    read_time,
    write_dossier,
)
from services.consent.terms import ConsentTerms
from services.consent.values import (
    GONE,
    Authorization,
    CloseReason,
    Dossier,
    DossierState,
    Grantee,
    LockedDossier,
    Refused,
    Representation,
    Term,
)
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import dossier_of
from services.runtime.links import hold
from services.runtime.postgres import Connection

_TAKE_IN: Final = Function("TD1.1", "take_in")
_WORD: Final = re.compile(r"[0-9A-Za-z./-]{0,64}")
_SKEW: Final = timedelta(minutes=5)
_LONGEST: Final = timedelta(days=366)
"""For how long an authorisation is given anywhere (domain: TD0.3, one year)."""
_STATES: Final = {
    pb.DOSSIER_STATE_OPEN: DossierState.OPEN,
    pb.DOSSIER_STATE_CLOSED: DossierState.CLOSED,
    pb.DOSSIER_STATE_OPPOSED: DossierState.OPPOSED,
    pb.DOSSIER_STATE_MERGED: DossierState.MERGED,
}
_HERE: Final = frozenset({DossierState.OPEN, DossierState.CLOSED, DossierState.MERGED, DossierState.OPPOSED})
"""States in which a dossier of the host is here already."""


@dataclass(frozen=True, slots=True)
class Held:
    """Who is shut out since when, who is authorised, and who represents the patient."""

    blocks: tuple[tuple[Grantee, datetime], ...]
    authorizations: tuple[Authorization, ...]
    representations: tuple[Representation, ...]


@dataclass(frozen=True, slots=True)
class TakeInDossier(OfTheDossierAlone):
    """A dossier of a host that is taken over."""

    actor: Actor
    health_id: int
    request: pb.TakeInDossierRequest
    terms: ConsentTerms

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        """Who takes over a host; of it alone, whatever else the person has here."""
        if not self.actor.takes_over:
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED)
        refusal = refuse_entry(self.actor, self.health_id, None, moment.now)
        if refusal not in (None, reasons.ERROR_REASON_DOSSIER_NOT_FOUND):
            raise Refused(refusal or reasons.ERROR_REASON_RIGHT_DENIED)
        acts.require(self.actor, None, moment, _TAKE_IN, Right.YES)

    def check(self) -> None:
        """What does not depend on the time."""
        dossier = self.request.taken.dossier
        if dossier.home_host != self.actor.takes_over:
            raise invalid("taken.dossier.home_host", "host.taken_over", "the host that the token takes over")
        if dossier.state not in _STATES:
            raise invalid("taken.dossier.state", "enum", "open, closed, merged or opposed")
        for field, text in (("region", dossier.region), ("closed_by", dossier.closed_by)):
            if not _WORD.fullmatch(text):
                raise invalid(f"taken.dossier.{field}", "pattern", "at most 64 letters, digits, . / and -")
        if self.request.taken.HasField("consent"):
            try:
                consent = read_consent(self.request.taken.consent)
            except DmpError as error:
                raise _inside(error) from None
            if consent.representative == self.health_id:
                raise invalid("taken.consent.representative", "consent.other", "nobody is his own representative")
        held = self._held()
        _once("taken.standings", [*(who for who, _ in held.blocks), *(each.grantee for each in held.authorizations)])
        _once("taken.representatives", [each.person for each in held.representations])
        if any(each.kind not in representatives.KINDS for each in self.request.taken.representatives):
            raise invalid("taken.representatives.kind", "enum", "a kind of the contract")
        if any(each.person in (0, self.health_id) for each in held.representations):
            raise invalid("taken.representatives", "representative.other", "nobody is his own representative")

    async def perform(
        self, conn: Connection, locked: LockedDossier | None, moment: Moment
    ) -> Done[pb.TakeInDossierResponse]:
        if locked is not None and locked.dossier.state is not DossierState.NONE:
            return self._already(locked.dossier)
        held = self._held()
        self._check_times(held, moment.now)
        members = await hold(conn, self.health_id)
        dossier = self._dossier(1 if locked is None else locked.dossier.epoch + 1, members)
        if dossier.merged_into and (await store.lock_dossier(conn, dossier.merged_into, ())).locked is None:
            raise invalid("taken.dossier.merged_into", "dossier.survivor_first", "where it went comes first")
        if locked is not None:
            await store.save_dossier(conn, dossier)
        elif not await store.insert_dossier(conn, dossier):
            raise Refused(reasons.ERROR_REASON_CONCURRENT_CHANGE)
        await self._keep(conn, dossier, held)
        if len(members) > 1:
            await merging.settle(conn, [members], moment.now)
        change = _change(dossier, held)
        return Done(pb.TakeInDossierResponse(dossier=write_dossier(dossier)), dossier.epoch, change)

    def _already(self, before: Dossier) -> Done[pb.TakeInDossierResponse]:
        """Left as it is when it is that host's: what changed here since stays changed. Another one is in the way."""
        if before.state in GONE:
            raise Refused(reasons.ERROR_REASON_DOSSIER_DESTROYED, before.epoch)
        if before.home_host != self.actor.takes_over:
            opposed = before.state is DossierState.OPPOSED
            reason = reasons.ERROR_REASON_OPENING_OPPOSED if opposed else reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS
            raise Refused(reason, before.epoch)
        response = pb.TakeInDossierResponse(dossier=write_dossier(before), existed=True)
        return Done(response, before.epoch, None)

    def _dossier(self, epoch: int, members: Sequence[int]) -> Dossier:
        said = self.request.taken.dossier
        state = _STATES[said.state]
        closed = state is DossierState.CLOSED
        merged = state is DossierState.MERGED
        if merged and (members[0] == self.health_id or dossier_of(said.merged_into, "merged_into") not in members):
            raise invalid("taken.dossier.merged_into", "dossier.linked_first", "the two people are linked first")
        opened = state is not DossierState.OPPOSED
        closed_at = _time(said, "close_time") if closed else None
        destroy_at = _time(said, "destroy_time") if closed else None
        if closed_at is not None and destroy_at is None:
            destroy_at = self.terms.end_of_archive(closed_at)
        return Dossier(
            health_id=self.health_id,
            state=state,
            epoch=epoch,
            opened_at=_time(said, "open_time") if opened else None,
            closed_at=closed_at,
            close_reason=(read_close_reason(said.close_reason) or CloseReason.PATIENT_REQUEST) if closed else None,
            break_glass_opposed=said.break_glass_opposed,
            regulation_opposed=said.regulation_opposed,
            masked_in_emergency=said.masked_shown_in_emergency,
            home_host=said.home_host,
            consent=read_consent(self.request.taken.consent)
            if opened and self.request.taken.HasField("consent")
            else None,
            region=said.region,
            closed_by=said.closed_by if closed else "",
            died_at=_time(said, "death_time") if closed else None,
            destroy_at=destroy_at,
            destruction_requested=closed and said.destruction_requested,
            merged_into=members[0] if merged else 0,
        )

    def _held(self) -> Held:
        blocks, given = [], []
        for index, standing in enumerate(self.request.taken.standings):
            grantee, path = read_party(standing.grantee), f"taken.standings[{index}]"
            if not acts.grantee_kind_fits(grantee):
                raise invalid(f"{path}.grantee.id", "grantee.kind", "it does not begin like one of this kind")
            if standing.state == pb.AUTHORIZATION_STATE_FORBIDDEN:
                blocks.append((grantee, _required(standing, "block_time", path)))
            else:
                given.append(_authorization(grantee, standing.authorization, f"{path}.authorization"))
        represented = [
            Representation(
                read_person(each.person),
                read_representation_kind(each.kind),
                _required(each, "start_time", f"taken.representatives[{index}]"),
                _time(each, "end_time"),
            )
            for index, each in enumerate(self.request.taken.representatives)
        ]
        return Held(tuple(blocks), tuple(given), tuple(represented))

    def _check_times(self, held: Held, now: datetime) -> None:
        """What any host's dossier keeps to: it was opened, closed and consented to before now, in this order."""
        said, latest = self.request.taken.dossier, now + _SKEW
        state = _STATES[said.state]
        if state is not DossierState.OPPOSED:
            if not self.request.taken.HasField("consent"):
                raise invalid("taken.consent", "required", "a dossier was opened on a consent")
            opened = _required(said, "open_time", "taken.dossier")
            _before(opened, latest, "taken.dossier.open_time")
            collected = read_time(self.request.taken.consent.collect_time, "taken.consent.collect_time")
            _before(collected, latest, "taken.consent.collect_time")
            if state is DossierState.CLOSED:
                closed = _required(said, "close_time", "taken.dossier")
                _before(closed, latest, "taken.dossier.close_time")
                _before(opened, closed, "taken.dossier.open_time")
                if said.HasField("death_time"):
                    _before(read_time(said.death_time, "taken.dossier.death_time"), latest, "taken.dossier.death_time")
        elif held.authorizations or held.blocks or held.representations:
            raise invalid("taken.dossier.state", "dossier.opposed", "nobody is authorised where there is no dossier")
        for _, since in held.blocks:
            _before(since, latest, "taken.standings.block_time")
        for each in held.authorizations:
            _before(each.granted_at, latest, "taken.standings.authorization.grant_time")

    async def _keep(self, conn: Connection, dossier: Dossier, held: Held) -> None:
        for grantee, since in held.blocks:
            await store.block(conn, self.health_id, grantee, since)
        for authorization in held.authorizations:
            await authorizations.keep(conn, self.health_id, authorization)
        for representation in held.representations:
            await representatives.keep(conn, self.health_id, representation)
        if dossier.destroy_at is not None:
            due = store.Deadline(self.health_id, store.What.DESTRUCTION, "", dossier.destroy_at)
            await store.set_deadline(conn, due)


def _authorization(grantee: Grantee, said: pb.Authorization, path: str) -> Authorization:
    granted, expires = _required(said, "grant_time", path), _required(said, "expire_time", path)
    term = read_term(said.term)
    if not granted < expires <= granted + _LONGEST:
        raise invalid(f"{path}.expire_time", "authorization.term", "it ends after it began, within a year")
    if said.care_team and term is Term.VISIT:
        raise invalid(f"{path}.care_team", "authorization.care_team", "the care team is not for a single visit")
    return Authorization(grantee, granted, expires, said.attending_physician, term, said.care_team, said.secret)


def _time(
    message: pb.Dossier | pb.GranteeStanding | pb.Representative | pb.Authorization, field: str
) -> datetime | None:
    return read_time(getattr(message, field), field) if message.HasField(field) else None  # type: ignore[arg-type]


def _required(
    message: pb.Dossier | pb.GranteeStanding | pb.Representative | pb.Authorization, field: str, path: str
) -> datetime:
    found = _time(message, field)
    if found is None:
        raise invalid(f"{path}.{field}", "required", "the time is kept, so it is said")
    return found


def _before(at: datetime, other: datetime, field: str) -> None:
    if at > other:
        raise invalid(field, "order", "what happened lies in the past, in its order")


def _once(field: str, keys: Sequence[object]) -> None:
    if len(set(keys)) != len(keys):
        raise invalid(field, "unique", "each is named once")


def _inside(error: DmpError) -> DmpError:
    """The same refusal, of a field of this request."""
    return DmpError(error.reason, fields=[replace(each, field=f"taken.{each.field}") for each in error.fields])


def _change(dossier: Dossier, held: Held) -> Change:
    """The whole in the history; in the trail what it became, and how many may enter or not."""
    payload: dict[str, object] = {
        "state": dossier.state.value,
        "home_host": dossier.home_host,
        "region": dossier.region,
        "break_glass_opposed": dossier.break_glass_opposed,
        "regulation_opposed": dossier.regulation_opposed,
        "masked_in_emergency": dossier.masked_in_emergency,
        "consent": None if dossier.consent is None else consent_payload(dossier.consent),
        "died_at": dossier.died_at.isoformat() if dossier.died_at else "",
        "merged_into": str(dossier.merged_into),
        "blocks": [{"grantee_kind": who.kind.value, "grantee_id": who.id} for who, _ in held.blocks],
        "authorizations": [authorizations.payload(each) for each in held.authorizations],
        "representations": [representatives.payload(each) for each in held.representations],
    }
    return Change(payload, tuple(_attributes(dossier, held)))


def _attributes(dossier: Dossier, held: Held) -> Iterator[Attribute]:
    yield Attribute("state", DossierState.NONE.value, dossier.state.value)
    yield Attribute("home_host", "", dossier.home_host)
    yield Attribute("break_glass_opposed", "", yes_or_no(dossier.break_glass_opposed))
    yield Attribute("regulation_opposed", "", yes_or_no(dossier.regulation_opposed))
    for who, _ in held.blocks:
        yield Attribute("block", "", str(who))
    for authorization in held.authorizations:
        if not authorization.secret:
            yield authorizations.change_of(None, authorization)
    for representation in held.representations:
        yield representatives.change_of(None, representation)
