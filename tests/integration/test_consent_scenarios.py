"""The stories about access, played by the consent service on a real PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf.message import Message

from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from tests.consent_scenarios import Stage, Story, play, read
from tests.consent_service import Consent

STORIES = read()[0]


class Service(Stage):
    """The service; the clock is the test's."""

    def __init__(self, consent: Consent) -> None:
        self._consent = consent

        self.now = consent.now[0]

    async def wait(self, time: timedelta) -> None:
        self._consent.now[0] += time
        self.now = self._consent.now[0]

    async def do(self, method: str, request: Message, actor: ActingContext, health_id: int) -> None:
        await self._consent.do(method, request, actor, health_id)

    async def ask(
        self,
        actor: ActingContext,
        action: pb.Action.ValueType,
        document: pb.DocumentAttributes | None,
        health_id: int,
    ) -> pb.Decision:
        context = context_pb2.ItemContext(actor=actor)
        check = pb.CheckAccessRequest(context=context, health_id=health_id, action=action, document=document)
        return (await self._consent.batch([check])).results[0].decision


@pytest.mark.parametrize("story", STORIES, ids=[story.name for story in STORIES])
async def test_the_service_decides_as_the_story_tells(consent: Consent, story: Story) -> None:
    assert await play(story, Service(consent)) == []
