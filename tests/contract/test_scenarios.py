"""The stories about access, played by the whole platform: tokens and changes through the gateway.

A question is asked by its own subject through the relay (`ExplainAccess`, which decides as every check does). Stories
in which time passes are played where the clock can be moved.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from ops.session import TokenRefused
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from tests.consent_scenarios import Stage, Story, play, read
from tests.platform_fixture import Platform, method
from tests.platform_statements import statement

STORIES = [story for story in read()[0] if not story.moves_time]
_NOT_NOW = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What a busy machine may say, and means neither yes nor no."""


class Gateway(Stage):
    """The platform; time is real."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.now = datetime.now(UTC)

    async def do(self, method: str, request: Message, actor: ActingContext, health_id: int) -> None:
        request.request_id = f"story-{uuid.uuid4()}"  # type: ignore[attr-defined]
        await self._call(method, request, actor)

    async def ask(
        self,
        actor: ActingContext,
        action: pb.Action.ValueType,
        document: pb.DocumentAttributes | None,
        health_id: int,
    ) -> pb.Decision:
        request = pb.ExplainAccessRequest(name=dossier_name(health_id), action=action, document=document)
        response = await self._call("ExplainAccess", request, actor)
        decision: pb.Decision = response.decision
        return decision

    async def _call(self, name: str, request: Message, actor: ActingContext) -> Any:
        patience = time.monotonic() + 30.0
        while True:
            try:
                return await self._platform.session.call(
                    "consent", name, request, method(name).response, statement(actor)
                )
            except TokenRefused as refused:  # what the gateway does not even give a token for
                raise DmpError(reasons.ERROR_REASON_ACTING_CONTEXT_INVALID) from refused
            except DmpError as error:
                if error.code not in _NOT_NOW or time.monotonic() > patience:
                    raise
                await asyncio.sleep(0.2)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("story", STORIES, ids=[story.name for story in STORIES])
async def test_the_platform_decides_as_the_story_tells(platform: Platform, story: Story) -> None:
    assert await play(story, Gateway(platform)) == []
