"""Stories about access (tests/scenarios/*.yaml), read and played: what each sentence asks for, and who it is about.

Lives here: the grammar of a step, the cast, the requests that a step becomes, and the player. Where a story is played
(the rules alone, the service, the platform) is a `Stage` of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import yaml
from google.protobuf.message import Message

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, format_health_id, new_health_id, person_name
from tests.consent_service import NOW, consent_record

SCENARIOS: Final = Path("tests/scenarios")
YEAR: Final = timedelta(days=366)
MAJORITY: Final = timedelta(days=3 * 365)

_MODES: Final[Mapping[str, Mapping[str, Any]]] = {
    "": {},
    "by break-glass": {"access_mode": context_pb2.ACCESS_MODE_BREAK_GLASS, "break_glass_reason": "unconscious"},
    "by break-glass without a reason": {"access_mode": context_pb2.ACCESS_MODE_BREAK_GLASS},
    "as the call centre": {"access_mode": context_pb2.ACCESS_MODE_REGULATION},
    "in secret": {"secret_connection": True},
}
_CHECKS: Final[Mapping[str, pb.Action.ValueType]] = {
    "reads all traces": pb.ACTION_READ_TRACES,
    "reads the traces": pb.ACTION_READ_TRACES,
    "reads": pb.ACTION_READ,
    "searches": pb.ACTION_SEARCH,
    "feeds": pb.ACTION_SUBMIT,
    "looks up a reference": pb.ACTION_SEARCH_REFERENCE,
    "masks": pb.ACTION_MASK,
    "unmasks": pb.ACTION_UNMASK,
    "makes visible": pb.ACTION_MAKE_VISIBLE,
    "deletes": pb.ACTION_DELETE,
    "lists the authorised": pb.ACTION_LIST_AUTHORIZATIONS,
}
_THINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "a document": {},
    "a document of his own": {"authored_by_caller": True},
    "a document of another": {},
    "a document of its structure": {"authored_by_structure": True},
    "a masked document of another": {"masked": True},
    "a masked document of his own": {"masked": True, "authored_by_caller": True},
    "a document not yet visible to the patient": {"invisible_to_patient": True},
    "a document hidden from representatives": {"hidden_from_representatives": True},
}
_PROFESSIONALS: Final[Mapping[str, tuple[str, str, str]]] = {
    "Dr Martin": ("899700000001", "10", "1750000001"),
    "Dr Leroy": ("899700000002", "10", "1750000002"),
    "Nurse Petit": ("899700000003", "60", "1750000003"),
    "Pharmacist Roux": ("899700000004", "21", "1750000004"),
    "Dr Usine": ("899700000005", "10", "1750000005"),
    "Dr Assur": ("899700000006", "10", "1750000006"),
}
_CLINIC: Final = "1750000001"
_PERSONS: Final = {
    "the mother": pb.REPRESENTATION_KIND_PARENT,
    "the heir": pb.REPRESENTATION_KIND_HEIR,
    "the court": pb.REPRESENTATION_KIND_COURT,
}
_SUBJECTS: Final = (
    *_PROFESSIONALS,
    "the secretary",
    "the clinic",
    "the patient",
    *_PERSONS,
    "the registry",
    "the operator",
)
_STEP: Final = re.compile(rf"(?P<who>{'|'.join(_SUBJECTS)})(?:, (?P<how>[^,]+),)? (?P<what>.+)", re.DOTALL)
_PASSING: Final = {"a year passes": YEAR, "the majority passes": MAJORITY}


@dataclass(frozen=True, slots=True)
class Step:
    """Something done or asked, and how it ends: `yes`, `no`, or the reason of a no."""

    text: str
    ends: str


@dataclass(frozen=True, slots=True)
class Story:
    """A story, the sentence that it is about, and its steps."""

    name: str
    says: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A sentence that other tests hold."""

    says: str
    test: str


def read() -> tuple[list[Story], list[Elsewhere]]:
    """Every story of the directory."""
    stories: list[Story] = []
    elsewhere: list[Elsewhere] = []
    for file in sorted(SCENARIOS.glob("*.yaml")):
        for item in yaml.safe_load(file.read_text(encoding="utf-8")):
            if "elsewhere" in item:
                elsewhere.append(Elsewhere(item["says"], item["elsewhere"]))
            else:
                stories.append(Story(item["story"], item["says"], tuple(map(_step, item["steps"]))))
    return stories, elsewhere


def _step(item: Any) -> Step:
    if isinstance(item, str):
        return Step(item, "yes")
    [(text, ends)] = item.items()
    return Step(text, {True: "yes", False: "no"}.get(ends, ends))


@dataclass(slots=True)
class Cast:
    """The people of one telling: the patient's dossier, and the others who are people themselves."""

    dossier: int = field(default_factory=new_health_id)
    persons: dict[str, int] = field(default_factory=lambda: {name: new_health_id() for name in _PERSONS})

    def acting(self, who: str, how: str) -> ActingContext:
        """Somebody of the cast, in a manner."""
        context = ActingContext(**_MODES[how])
        if who in _PROFESSIONALS:
            subject, profession, structure = _PROFESSIONALS[who]
            context.actor_kind = context_pb2.ACTOR_KIND_PROFESSIONAL
            context.subject, context.profession, context.structure = subject, profession, structure
            context.authentication_mode = context_pb2.AUTHENTICATION_MODE_DIRECT
            context.occupational_physician = who == "Dr Usine"
            context.purpose_of_use = "COVERAGE" if who == "Dr Assur" else "TREAT"
        elif who in ("the secretary", "the clinic"):
            staff = who == "the secretary"
            context.actor_kind = context_pb2.ACTOR_KIND_STRUCTURE_STAFF if staff else context_pb2.ACTOR_KIND_STRUCTURE
            context.subject, context.structure = ("staff-7" if staff else _CLINIC), _CLINIC
        elif who in ("the patient", *_PERSONS):
            patient = who == "the patient"
            context.actor_kind = context_pb2.ACTOR_KIND_PATIENT if patient else context_pb2.ACTOR_KIND_REPRESENTATIVE
            context.subject = format_health_id(self.dossier if patient else self.persons[who])
            context.patient_health_id = self.dossier
        else:
            registry = who == "the registry"
            context.actor_kind = context_pb2.ACTOR_KIND_SYSTEM if registry else context_pb2.ACTOR_KIND_OPERATOR
            context.subject = who.removeprefix("the ")
        return context

    def change(self, what: str, now: datetime) -> tuple[str, Message] | None:
        """The RPC and the request of something that is done; None for something asked."""
        name = dossier_name(self.dossier)
        plain: dict[str, tuple[str, Message]] = {
            "opens the dossier": ("OpenDossier", pb.OpenDossierRequest(name=name, consent=consent_record(now))),
            "reopens the dossier": ("ReopenDossier", pb.ReopenDossierRequest(name=name, consent=consent_record(now))),
            "closes the dossier": (
                "CloseDossier",
                pb.CloseDossierRequest(name=name, reason=pb.CLOSE_REASON_PATIENT_REQUEST),
            ),
            "declares himself": ("GrantAuthorization", _grant(name)),
            "declares himself attending physician": ("GrantAuthorization", _grant(name, attending_physician=True)),
            "revokes himself": ("RevokeAuthorization", pb.RevokeAuthorizationRequest(parent=name)),
            "stops being attending physician": (
                "RemoveAttendingPhysician",
                pb.RemoveAttendingPhysicianRequest(parent=name),
            ),
            "opposes break-glass": _preference(name, break_glass_opposed=True),
            "allows break-glass": _preference(name, break_glass_opposed=False),
            "opposes the call centre": _preference(name, regulation_opposed=True),
            "allows the call centre": _preference(name, regulation_opposed=False),
            "shows masked documents in emergencies": _preference(name, masked_shown_in_emergency=True),
            "hides masked documents in emergencies": _preference(name, masked_shown_in_emergency=False),
            "asks for the destruction": ("RequestDestruction", pb.RequestDestructionRequest(name=name)),
            "keeps the archive": ("WithdrawDestruction", pb.WithdrawDestructionRequest(name=name)),
            "records the death": (
                "RecordDeath",
                pb.RecordDeathRequest(name=name, death_time=write_time(now - timedelta(hours=1))),
            ),
        }
        return plain.get(what) or self._about_somebody(what, name, now)

    def _about_somebody(self, what: str, name: str, now: datetime) -> tuple[str, Message] | None:
        verb, _, somebody = what.partition(" ")
        if verb == "registers":
            return "RegisterRepresentative", self._registration(name, somebody, now)
        grantee = _PROFESSIONALS.get(somebody)
        if grantee is None:
            return None
        whom = pb.Grantee(kind=pb.GRANTEE_KIND_PROFESSIONAL, id=grantee[0])
        made: dict[str, tuple[str, Message]] = {
            "authorises": ("GrantAuthorization", _grant(name, grantee=whom)),
            "revokes": ("RevokeAuthorization", pb.RevokeAuthorizationRequest(parent=name, grantee=whom)),
            "blocks": ("BlockProfessional", pb.BlockProfessionalRequest(parent=name, grantee=whom)),
            "unblocks": ("UnblockProfessional", pb.UnblockProfessionalRequest(parent=name, grantee=whom)),
        }
        return made.get(verb)

    def _registration(self, name: str, somebody: str, now: datetime) -> Message:
        request = pb.RegisterRepresentativeRequest(
            parent=name, person=person_name(self.persons[somebody]), kind=_PERSONS[somebody], documents_seen=True
        )
        if somebody == "the mother":
            request.end_time.CopyFrom(write_time(now + MAJORITY))
        return request


def _grant(name: str, **more: Any) -> pb.GrantAuthorizationRequest:
    return pb.GrantAuthorizationRequest(parent=name, patient_consented=True, **more)


def _preference(name: str, **chosen: bool) -> tuple[str, Message]:
    return "UpdatePreferences", pb.UpdatePreferencesRequest(name=name, **chosen)  # type: ignore[arg-type]


class Stage(Protocol):
    """Where a story is played. What is refused raises DmpError; a check may also answer no."""

    now: datetime

    async def wait(self, time: timedelta) -> None: ...
    async def do(self, method: str, request: Message, actor: ActingContext, health_id: int) -> None: ...

    async def ask(
        self,
        actor: ActingContext,
        action: pb.Action.ValueType,
        document: pb.DocumentAttributes | None,
        health_id: int,
    ) -> pb.Decision: ...


async def play(story: Story, stage: Stage, cast: Cast | None = None) -> list[str]:
    """What came out differently than the story tells; empty when all is told right. `cast` is new unless given."""
    cast, wrong = cast or Cast(), []
    for step in story.steps:
        if step.text in _PASSING:
            await stage.wait(_PASSING[step.text])
            continue
        ended = await _end(step, stage, cast)
        if ended != step.ends and not (step.ends == "no" and ended.startswith("no")):
            wrong.append(f"{story.name}: “{step.text}” is told “{step.ends}”, and ends “{ended}”")
    return wrong


async def _end(step: Step, stage: Stage, cast: Cast) -> str:
    told = _STEP.fullmatch(step.text)
    if told is None:
        raise ValueError(f"nobody of the cast: {step.text}")
    actor = cast.acting(told["who"], told["how"] or "")
    changed = cast.change(told["what"], stage.now)
    try:
        if changed is not None:
            await stage.do(*changed, actor, cast.dossier)
            return "yes"
        verb = next((verb for verb in _CHECKS if told["what"].startswith(verb)), None)
        if verb is None:
            raise ValueError(f"nothing that is done or asked: {step.text}")
        thing = told["what"].removeprefix(verb).strip()
        decision = await stage.ask(actor, _CHECKS[verb], _document(thing), cast.dossier)
    except DmpError as error:
        return f"no, {_words(error.reason)}"
    if not decision.permitted:
        return f"no, {_words(decision.reason)}"
    if verb == "reads all traces" and decision.filter.traces != pb.TRACE_VIEW_ALL:
        return "no"
    return "yes"


def _document(thing: str) -> pb.DocumentAttributes | None:
    if not thing:
        return None
    typed = thing.removeprefix("a document of type ")
    if typed != thing:
        return pb.DocumentAttributes(type_code=typed)
    return pb.DocumentAttributes(type_code="11488-4", **_THINGS[thing])


def _words(reason: int) -> str:
    name = reasons.ErrorReason.Name(reason)  # type: ignore[arg-type]
    return name.removeprefix("ERROR_REASON_").lower().replace("_", " ")


def sentences(file: Path = Path("docs/reference/domain.md")) -> Iterator[str]:
    """The sentences of domain §3."""
    section = file.read_text(encoding="utf-8").partition("## 3. Rules of access")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("- "):
            yield from (part.strip().rstrip(".") for part in re.split(r"(?<=[.])\s+(?=[A-Z*])", line[2:]))


BEGINNING: Final = NOW
