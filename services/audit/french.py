"""What a patient reads of the trail, in plain French: who, when, from where, what, and why it was allowed. Pure.

Tables of words, and the grouping of events: one summary for each person, day (in France), mode and ground. What was
allowed for another reason, or refused for another, is told on its own. English is for the code; these sentences are for
people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit.words import WORDS, Words

PARIS: Final = ZoneInfo("Europe/Paris")
_MOST_NAMES: Final = 200
_MOST_PLACES: Final = 16
_MONTHS: Final = (
    "janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre",
    "décembre",
)  # fmt: skip

PROFESSIONS: Final = {
    "10": "médecin", "21": "pharmacien", "26": "audioprothésiste", "28": "opticien-lunetier",
    "40": "chirurgien-dentiste",
    "50": "sage-femme", "60": "infirmier", "70": "masseur-kinésithérapeute", "80": "pédicure-podologue",
    "86": "technicien de laboratoire", "91": "orthophoniste", "92": "orthoptiste", "94": "ergothérapeute",
    "95": "diététicien", "96": "psychomotricien", "98": "manipulateur en radiologie",
}  # fmt: skip

BASES: Final[dict[int, str]] = {
    audit_pb2.ACCESS_BASIS_AUTHORIZATION: "l’autorisation que vous avez donnée",
    audit_pb2.ACCESS_BASIS_ATTENDING_PHYSICIAN: "son rôle de médecin traitant",
    audit_pb2.ACCESS_BASIS_BREAK_GLASS: "l’urgence, votre vie pouvant être en danger (« bris de glace »)",
    audit_pb2.ACCESS_BASIS_REGULATION: "la régulation médicale d’urgence (SAMU)",
    audit_pb2.ACCESS_BASIS_PATIENT: "votre propre accès",
    audit_pb2.ACCESS_BASIS_REPRESENTATIVE: "son rôle de représentant légal",
    audit_pb2.ACCESS_BASIS_FEEDING: "le droit d’alimenter un dossier ouvert",
    audit_pb2.ACCESS_BASIS_LAW: "une opération prévue par la loi",
    audit_pb2.ACCESS_BASIS_TAKEOVER: "la reprise des dossiers de votre hébergeur par un autre",
}

REFUSALS: Final[dict[int, str]] = {
    reasons.ERROR_REASON_BLOCKED: "vous avez bloqué cette personne",
    reasons.ERROR_REASON_AUTHORIZATION_MISSING: "vous ne lui avez pas donné d’autorisation",
    reasons.ERROR_REASON_AUTHORIZATION_EXPIRED: "son autorisation avait expiré",
    reasons.ERROR_REASON_EMERGENCY_OPPOSED: "vous vous êtes opposé à l’accès en urgence",
    reasons.ERROR_REASON_DOSSIER_CLOSED: "votre dossier est fermé",
    reasons.ERROR_REASON_DOSSIER_NOT_FOUND: "il n’y avait pas de dossier",
    reasons.ERROR_REASON_RIGHT_DENIED: "sa fonction ne le permet pas",
    reasons.ERROR_REASON_TYPE_DENIED: "sa profession ne permet pas de lire ce type de document",
    reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH: "la demande portait sur une autre personne",
    reasons.ERROR_REASON_CALLER_NOT_ALLOWED: "ce logiciel n’en a pas le droit",
    reasons.ERROR_REASON_SCOPE_MISSING: "ce logiciel n’en a pas le droit",
    reasons.ERROR_REASON_PATIENT_MISMATCH: "le document concernait une autre personne",
}

_MODES: Final = {
    context_pb2.ACCESS_MODE_BREAK_GLASS: audit_pb2.ACCESS_BASIS_BREAK_GLASS,
    context_pb2.ACCESS_MODE_REGULATION: audit_pb2.ACCESS_BASIS_REGULATION,
}
_KINDS: Final = {
    context_pb2.ACTOR_KIND_PATIENT: audit_pb2.ACCESS_BASIS_PATIENT,
    context_pb2.ACTOR_KIND_REPRESENTATIVE: audit_pb2.ACCESS_BASIS_REPRESENTATIVE,
    context_pb2.ACTOR_KIND_SYSTEM: audit_pb2.ACCESS_BASIS_LAW,
    context_pb2.ACTOR_KIND_OPERATOR: audit_pb2.ACCESS_BASIS_LAW,
}


class GroupKey(NamedTuple):
    """What the events of one summary have in common."""

    day: str
    subject: str
    structure: str
    mode: int
    secret: bool
    refused: bool
    ground: int


def group_key(event: audit_pb2.AuditEvent) -> GroupKey:
    """The group that an event belongs to."""
    actor = event.actor
    refused = event.outcome != audit_pb2.OUTCOME_SUCCESS
    return GroupKey(
        paris(event).strftime("%Y-%m-%d"),
        actor.subject,
        actor.structure,
        actor.access_mode or context_pb2.ACCESS_MODE_NORMAL,
        actor.secret_connection,
        refused,
        event.reason if refused else basis_of(event),
    )


def summarize(events: Iterable[audit_pb2.TrailEvent]) -> list[audit_pb2.AccessSummary]:
    """The summaries of these events, which come newest first; those of the newest events first."""
    groups: dict[GroupKey, list[audit_pb2.TrailEvent]] = {}
    for event in events:
        groups.setdefault(group_key(event.event), []).append(event)
    return [_summary(key, members) for key, members in groups.items()]


def basis_of(event: audit_pb2.AuditEvent) -> int:
    """Why an access was allowed: as recorded, else as the mode and the kind of actor tell."""
    actor = event.actor
    if event.basis:
        return event.basis
    found = _MODES.get(actor.access_mode) or _KINDS.get(actor.actor_kind)
    if found:
        return found
    return audit_pb2.ACCESS_BASIS_FEEDING if event.action == "document.submit" else audit_pb2.ACCESS_BASIS_AUTHORIZATION


def who(actor: context_pb2.ActingContext) -> str:
    """The person or structure."""
    if actor.actor_kind == context_pb2.ACTOR_KIND_PATIENT:
        return "vous-même"
    if actor.actor_kind == context_pb2.ACTOR_KIND_REPRESENTATIVE:
        return "votre représentant légal"
    if actor.takes_over_host and actor.subject_name:
        return actor.subject_name
    if actor.actor_kind in (context_pb2.ACTOR_KIND_SYSTEM, context_pb2.ACTOR_KIND_OPERATOR):
        return "l’hébergeur du dossier"
    name = actor.subject_name or (
        actor.structure_name if actor.actor_kind != context_pb2.ACTOR_KIND_PROFESSIONAL else ""
    )
    if not name:
        name = f"le professionnel nº {actor.subject}"
        if actor.actor_kind != context_pb2.ACTOR_KIND_PROFESSIONAL:
            name = f"l’établissement nº {actor.subject}"
    profession = PROFESSIONS.get(actor.profession)
    return f"{name}, {profession}" if profession else name


def spoken_day(day: datetime) -> str:
    """A day as one says it: `25 novembre 2026`."""
    number = "1er" if day.day == 1 else str(day.day)
    return f"{number} {_MONTHS[day.month - 1]} {day.year}"


def paris(event: audit_pb2.AuditEvent) -> datetime:
    """When it happened, in France."""
    return event.event_time.ToDatetime(tzinfo=UTC).astimezone(PARIS)


def _summary(key: GroupKey, members: list[audit_pb2.TrailEvent]) -> audit_pb2.AccessSummary:
    newest, oldest = members[0].event, members[-1].event
    person, where = who(newest.actor), _where(newest.actor)
    what, why = _what(members, key.refused), _why(newest, key.refused)
    summary = audit_pb2.AccessSummary(
        sentence=_sentence(key, members, person, where, what, why),
        who=person,
        where=where,
        what=what,
        why=why,
        day=key.day,
        access_mode=key.mode,  # type: ignore[arg-type]
        refused=key.refused,
        subject=key.subject,
        secret=key.secret,
        event_count=len(members),
        events=[member.name for member in members[:_MOST_NAMES]],
        network_addresses=sorted({m.event.network_address for m in members if m.event.network_address})[:_MOST_PLACES],
    )
    summary.first_time.CopyFrom(oldest.event_time)
    summary.last_time.CopyFrom(newest.event_time)
    return summary


def _what(members: list[audit_pb2.TrailEvent], refused: bool) -> list[str]:
    counts = Counter(member.event.action for member in reversed(members))
    if refused:
        return [WORDS[action].attempt if action in WORDS else f"faire « {action} »" for action in counts]
    phrases = []
    for action, count in counts.items():
        words = WORDS.get(action) or Words("", f"a fait « {action} »", f"a fait « {action} » {{n}} fois")
        phrases.append(words.once if count == 1 else words.several.format(n=count))
    return phrases


def _why(event: audit_pb2.AuditEvent, refused: bool) -> str:
    if refused:
        return REFUSALS.get(event.reason, "la demande n’était pas recevable")
    why = BASES[basis_of(event)]
    said = event.actor.break_glass_reason
    return f"{why} ; motif indiqué : « {said} »" if said else why


def _where(actor: context_pb2.ActingContext) -> str:
    if actor.structure_name:
        return actor.structure_name
    return f"l’établissement nº {actor.structure}" if actor.structure else ""


def _sentence(
    key: GroupKey, members: list[audit_pb2.TrailEvent], person: str, where: str, what: list[str], why: str
) -> str:
    first, last = paris(members[-1].event), paris(members[0].event)
    hours = (
        f"à {first:%H h %M}"
        if first.strftime("%H%M") == last.strftime("%H%M")
        else f"entre {first:%H h %M} et {last:%H h %M}"
    )
    place = f" ({where})" if where and where not in person else ""
    acts = what[0] if len(what) == 1 else f"{', '.join(what[:-1])} et {what[-1]}"
    begin = f"Le {spoken_day(first)} {hours}, {person}{place}"
    if key.refused:
        return f"{begin} n’a pas pu {' ni '.join(what)}. Refusé parce que {why}."
    if members[0].event.actor.actor_kind == context_pb2.ACTOR_KIND_PATIENT:
        acts = acts.replace("a ", "avez ", 1).replace(" et a ", " et avez ").replace(", a ", ", avez ")
        return f"Le {spoken_day(first)} {hours}, vous {acts}."
    return f"{begin} {acts}. Accès permis par {why}."
