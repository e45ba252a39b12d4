"""A dossier as it was at an epoch, worked out again from its history alone. Pure; no I/O, no clock.

Every change of consent is one line (`consent_event`), written in the commit of the change; `replay` reads the lines up
to an epoch, `facts_at` gives the facts that a decision about one actor rested on then. The tables of the present state
are never asked. Of who was one person with whom each history has its lines too, so that the others' histories (`until`
the instant of the decision) say what they shut out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from services.consent.acting import Actor
from services.consent.values import DossierState, Facts, Grantee, GranteeKind, Representation, RepresentationKind

Payload = Mapping[str, Any]
LINK: Final = "dossier.link"
"""The kind of the lines that say which other dossiers are the same person's, from there on."""


class Line(Protocol):
    """One line of a history."""

    @property
    def epoch(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def payload(self) -> Payload: ...


class Dated(Line, Protocol):
    """One line, and when it was written."""

    @property
    def recorded_at(self) -> datetime: ...


L = TypeVar("L", bound=Dated)


@dataclass(slots=True)
class Past:
    """What was in force at an epoch: until when each grantee was authorised, and whether as MT; who was blocked.
    `secret` are those authorised in a secret connection; `linked` the person's other dossiers, in the order of the
    set."""

    epoch: int = 0
    state: DossierState = DossierState.NONE
    break_glass_opposed: bool = False
    regulation_opposed: bool = False
    masked_in_emergency: bool = False
    died: bool = False
    merged_into: int = 0
    home_host: str = ""
    authorized: dict[Grantee, tuple[datetime, bool]] = field(default_factory=dict)
    secret: set[Grantee] = field(default_factory=set)
    blocked: set[Grantee] = field(default_factory=set)
    representations: dict[int, Representation] = field(default_factory=dict)
    linked: tuple[int, ...] = ()


class HistoryBroken(Exception):
    """A line is missing, or of a kind that is not known; nothing can be worked out."""


def replay(lines: Iterable[Line]) -> Past:
    """The dossier after these lines, which begin at epoch 1 and leave none out. Raises HistoryBroken."""
    past = Past()
    for line in lines:
        if line.epoch != past.epoch + 1:
            raise HistoryBroken("a line is missing")
        apply = _APPLY.get(line.kind)
        if apply is None:
            raise HistoryBroken(f"a line of an unknown kind: {line.kind}")
        apply(past, line.payload)
        past.epoch = line.epoch
    return past


def until(lines: Sequence[L], now: datetime) -> Sequence[L]:
    """The lines of an instant: up to the last that had been written, whatever the clocks of its writers said."""
    written = [number for number, line in enumerate(lines, start=1) if line.recorded_at <= now]
    return lines[: max(written, default=0)]


def facts_at(past: Past, actor: Actor) -> Facts | None:
    """The facts about one actor; None where there was no line at all."""
    if past.epoch == 0:
        return None
    own = past.authorized.get(actor.as_professional())
    structure = past.authorized.get(actor.as_structure())
    return Facts(
        state=past.state,
        epoch=past.epoch,
        break_glass_opposed=past.break_glass_opposed,
        regulation_opposed=past.regulation_opposed,
        masked_in_emergency=past.masked_in_emergency,
        blocked=any(party in past.blocked for party in actor.parties()),
        professional_until=own[0] if own else None,
        attending_physician=own[1] if own else False,
        structure_until=structure[0] if structure else None,
        representation=past.representations.get(actor.representative),
        died=past.died,
        merged_into=past.merged_into,
        home_host=past.home_host,
    )


def without(facts: Facts, actor: Actor, secret: set[Grantee]) -> Facts:
    """The facts about an actor as who may not know of these authorisations is told them."""
    if actor.as_professional() in secret:
        facts = replace(facts, professional_until=None, attending_physician=False)
    return replace(facts, structure_until=None) if actor.as_structure() in secret else facts


def _opened(past: Past, payload: Payload) -> None:
    past.state = DossierState.OPEN
    past.died = False
    _moved(past, payload)
    _preferred(past, payload)


def _preferred(past: Past, payload: Payload) -> None:
    past.break_glass_opposed = payload["break_glass_opposed"]
    past.regulation_opposed = payload["regulation_opposed"]
    past.masked_in_emergency = payload["masked_in_emergency"]


def _moved(past: Past, payload: Payload) -> None:
    past.home_host = payload.get("home_host", past.home_host)


def _archived(past: Past, payload: Payload) -> None:
    past.state = DossierState.CLOSED
    past.merged_into = 0
    past.died = bool(payload.get("died_at"))


def _merged(past: Past, payload: Payload) -> None:
    past.merged_into = int(payload["merged_into"])
    past.state = DossierState.MERGED if past.merged_into else DossierState.OPEN


def _linked(past: Past, payload: Payload) -> None:
    past.linked = tuple(int(each) for each in payload["linked"])


def _opposed(past: Past, payload: Payload) -> None:
    past.state = DossierState.OPPOSED
    _moved(past, payload)


def _unopposed(past: Past, _payload: Payload) -> None:
    past.state = DossierState.NONE


def _authorized(past: Past, payload: Payload) -> None:
    grantee = _grantee(payload)
    past.authorized[grantee] = datetime.fromisoformat(payload["expires_at"]), payload["attending_physician"]
    past.secret.discard(grantee)
    if payload.get("secret"):
        past.secret.add(grantee)


def _revoked(past: Past, payload: Payload) -> None:
    past.authorized.pop(_grantee(payload), None)


def _blocked(past: Past, payload: Payload) -> None:
    past.blocked.add(_grantee(payload))
    past.authorized.pop(_grantee(payload), None)


def _unblocked(past: Past, payload: Payload) -> None:
    past.blocked.discard(_grantee(payload))


def _represented(past: Past, payload: Payload) -> None:
    person, ends_at = int(payload["person"]), payload["ends_at"]
    past.representations[person] = Representation(
        person,
        RepresentationKind(payload["kind"]),
        datetime.fromisoformat(payload["starts_at"]),
        datetime.fromisoformat(ends_at) if ends_at else None,
    )


def _unrepresented(past: Past, payload: Payload) -> None:
    past.representations.pop(int(payload["person"]), None)


def _destroyed(past: Past, payload: Payload) -> None:
    past.state = DossierState.DESTROYING if payload["step"] == "begun" else DossierState.DESTROYED


def _taken_in(past: Past, payload: Payload) -> None:
    past.state = DossierState(payload["state"])
    past.died = bool(payload["died_at"])
    past.merged_into = int(payload["merged_into"])
    _moved(past, payload)
    _preferred(past, payload)
    for block in payload["blocks"]:
        _blocked(past, block)
    for authorization in payload["authorizations"]:
        _authorized(past, authorization)
    for representation in payload["representations"]:
        _represented(past, representation)


def _unchanged(_past: Past, _payload: Payload) -> None:
    """Says that something happened which no decision rests on (an expiry is judged by the time)."""


def _grantee(payload: Payload) -> Grantee:
    return Grantee(GranteeKind(payload["grantee_kind"]), payload["grantee_id"])


_APPLY: Final[Mapping[str, Callable[[Past, Payload], None]]] = {
    "dossier.open": _opened,
    "dossier.take_in": _taken_in,
    "dossier.reopen": _opened,
    "dossier.close": _archived,
    "dossier.death": _archived,
    "dossier.request_destruction": _archived,
    "dossier.withdraw_destruction": _archived,
    "dossier.oppose": _opposed,
    "dossier.withdraw_opposition": _unopposed,
    "dossier.update_preferences": _preferred,
    "dossier.merge": _merged,
    "dossier.part": _merged,
    LINK: _linked,
    "dossier.move": _moved,
    "dossier.destroy": _destroyed,
    "authorization.grant": _authorized,
    "authorization.remove_attending": _authorized,
    "authorization.revoke": _revoked,
    "authorization.expire": _unchanged,
    "authorization.block": _blocked,
    "authorization.unblock": _unblocked,
    "representative.register": _represented,
    "representative.end": _unrepresented,
    "representative.expire": _unchanged,
}
