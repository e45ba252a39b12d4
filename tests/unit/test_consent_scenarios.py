"""The stories about access, played by the rules alone; and that every sentence of the rules has one."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import Actor, read_actor
from services.consent.checking import write_decision
from services.consent.decision import Case, decide
from services.consent.history import facts_at, replay
from services.consent.mapping import read_document, read_grantee, read_person
from tests.consent_scenarios import BEGINNING, Stage, Story, play, read, sentences
from tests.consent_service import RIGHTS, YEAR

STORIES, ELSEWHERE = read()


class Line:
    """One line of a history, as the service would write it."""

    def __init__(self, epoch: int, kind: str, payload: dict[str, Any]) -> None:
        self.epoch, self.kind, self.payload = epoch, kind, payload


class Rules(Stage):
    """The rules alone: what is done becomes a line of the history, from which each question is decided."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.lines: list[Line] = []

    async def wait(self, time: timedelta) -> None:
        self.now += time

    async def do(self, method: str, request: Message, actor: ActingContext, health_id: int) -> None:
        kind, payload = self._line(method, request, read_actor(actor))
        self.lines.append(Line(len(self.lines) + 1, kind, payload))

    async def ask(
        self,
        actor: ActingContext,
        action: pb.Action.ValueType,
        document: pb.DocumentAttributes | None,
        health_id: int,
    ) -> pb.Decision:
        acting = read_actor(actor)
        facts = facts_at(replay(self.lines), acting)
        about = None if document is None else read_document(document)
        return write_decision(decide(Case(acting, action, health_id, facts, RIGHTS, self.now, about)))

    def _line(self, method: str, request: Any, actor: Actor) -> tuple[str, dict[str, Any]]:
        if method in ("OpenDossier", "ReopenDossier", "UpdatePreferences"):
            return self._opened(method, request)
        if method in ("GrantAuthorization", "RevokeAuthorization", "RemoveAttendingPhysician"):
            grantee = read_grantee(request) or (actor.as_professional() if actor.professional else actor.as_structure())
            payload = {"grantee_kind": grantee.kind, "grantee_id": grantee.id}
            if method == "RevokeAuthorization":
                return "authorization.revoke", payload
            payload["expires_at"] = (self.now + YEAR).isoformat()
            attending = method == "GrantAuthorization" and request.attending_physician
            return "authorization.grant", {**payload, "attending_physician": attending}
        if method in ("BlockProfessional", "UnblockProfessional"):
            kind = "authorization.block" if method == "BlockProfessional" else "authorization.unblock"
            return kind, {"grantee_kind": "professional", "grantee_id": request.grantee.id}
        if method == "RegisterRepresentative":
            kind_name = pb.RepresentationKind.Name(request.kind).removeprefix("REPRESENTATION_KIND_").lower()
            ends_at = (self.now + timedelta(days=3 * 365)).isoformat() if kind_name == "parent" else ""
            payload = {"kind": kind_name, "starts_at": self.now.isoformat(), "ends_at": ends_at}
            return "representative.register", {"person": str(read_person(request.person)), **payload}
        died = {"died_at": self.now.isoformat()} if method == "RecordDeath" else {}
        return "dossier.close", dict(died)

    def _opened(self, method: str, request: Any) -> tuple[str, dict[str, Any]]:
        past = replay(self.lines)
        payload = {
            "break_glass_opposed": past.break_glass_opposed,
            "regulation_opposed": past.regulation_opposed,
            "masked_in_emergency": past.masked_in_emergency,
        }
        if method != "UpdatePreferences":
            return "dossier.open", payload
        for field, name in (
            ("break_glass_opposed", "break_glass_opposed"),
            ("regulation_opposed", "regulation_opposed"),
            ("masked_shown_in_emergency", "masked_in_emergency"),
        ):
            if request.HasField(field):
                payload[name] = getattr(request, field)
        return "dossier.update_preferences", payload


def told_to_the_rules(story: Story) -> Story:
    """Without what is refused to be done: who may change what is the service's to say."""
    changes = ("asks for", "keeps", "declares", "revokes", "closes", "reopens", "unblocks", "stops")
    steps = tuple(
        step
        for step in story.steps
        if not any(f" {verb}" in step.text for verb in changes)
        or (step.ends == "yes" and not step.text.endswith(("the destruction", "the archive")))
    )
    return Story(story.name, story.says, steps)


@pytest.mark.parametrize("story", STORIES, ids=[story.name for story in STORIES])
async def test_the_rules_decide_as_the_story_tells(story: Story) -> None:
    assert await play(told_to_the_rules(story), Rules()) == []


def test_every_sentence_of_the_rules_has_a_story_or_a_test_elsewhere() -> None:
    told = {story.says for story in STORIES} | {each.says for each in ELSEWHERE}
    assert [sentence for sentence in sentences() if sentence not in told] == []


def test_what_is_held_elsewhere_is_there() -> None:
    assert [each.test for each in ELSEWHERE if not is_a_test(each.test)] == []


def is_a_test(named: str) -> bool:
    """Whether `file::function` is a test of this project."""
    file, _, function = named.partition("::")
    if not function.startswith("test_") or not Path(file).exists():
        return False
    parsed = ast.parse(Path(file).read_text(encoding="utf-8"))
    return any(
        isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name == function for each in parsed.body
    )
