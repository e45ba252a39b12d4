"""The stories about access, played by the whole platform: tokens, changes and questions through the gateway.

What has a FHIR form is done over FHIR: a dossier's operations; and a plain document is really fed, searched and read.
Of any other, its own subject asks through the relay (`ExplainAccess`, which decides as every check does). The clock is
the world's: when time passes in a story, what its dossier holds is made so much older in the database of consent.
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import httpx
import pytest
from google.protobuf.message import Message

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from gateway.fhir.codesystems import IDNPS
from ops.session import TokenRefused
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from tests.consent_scenarios import Cast, Stage, Story, play, read
from tests.consent_service import patient, professional
from tests.platform_calls import outcome_reason
from tests.platform_fixture import Patient, Platform, method
from tests.platform_statements import statement

STORIES = read()[0]
_NOT_NOW = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What a busy machine may say, and means neither yes nor no."""


_OPERATIONS: Final = {
    "OpenDossier": "open",
    "ReopenDossier": "reopen",
    "CloseDossier": "close",
    "GrantAuthorization": "authorise",
    "RevokeAuthorization": "revoke",
    "RemoveAttendingPhysician": "stop-attending",
    "BlockProfessional": "block",
    "UnblockProfessional": "unblock",
    "UpdatePreferences": "preferences",
}
_PARAMETERS: Final = {
    "attending_physician": "attendingPhysician",
    "patient_consented": "patientConsented",
    "break_glass_opposed": "breakGlassOpposed",
    "regulation_opposed": "regulationOpposed",
    "masked_shown_in_emergency": "maskedShownInEmergency",
}


_AGEING: Final = (
    "UPDATE access_grant SET granted_at = granted_at - $1::interval, expires_at = expires_at - $1 WHERE health_id = $2",
    "UPDATE grantee_dossier SET granted_at = granted_at - $1::interval WHERE health_id = $2",
    "UPDATE representation SET starts_at = starts_at - $1::interval, ends_at = ends_at - $1 WHERE health_id = $2",
    "UPDATE dossier SET opened_at = opened_at - $1::interval WHERE health_id = $2",
)
"""What `time` ago would look like today."""


class Gateway(Stage):
    """The platform."""

    def __init__(self, platform: Platform, health_id: int) -> None:
        self._platform = platform
        self._health_id = health_id
        self.now = datetime.now(UTC)

    async def wait(self, time: timedelta) -> None:
        """Only of the dossiers that this story made."""
        async with self._platform.database("consent") as database:
            for ageing in _AGEING:
                await database.execute(ageing, time, self._health_id)

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


class Fhir(Gateway):
    """The platform over FHIR, wherever there is a form for it."""

    def __init__(self, platform: Platform, patient: Patient) -> None:
        super().__init__(platform, patient.health_id)
        self._patient = patient
        self._binary = ""

    async def do(self, method: str, request: Message, actor: ActingContext, health_id: int) -> None:
        operation = _OPERATIONS.get(method)
        if operation is None:
            await super().do(method, request, actor, health_id)
            return
        answer = await self._send("POST", f"/Patient/$dossier-{operation}", actor, json=self._said(request))
        _raise_refusal(answer)
        if method == "OpenDossier":
            self._binary = await self._fed()

    async def ask(
        self,
        actor: ActingContext,
        action: pb.Action.ValueType,
        document: pb.DocumentAttributes | None,
        health_id: int,
    ) -> pb.Decision:
        whose = {"patient.identifier": self._patient.identifier}
        plain = document is None or document == pb.DocumentAttributes(type_code="11488-4")
        if action == pb.ACTION_SUBMIT:
            answer = await self._feed(actor)
        elif action == pb.ACTION_LIST_AUTHORIZATIONS:
            answer = await self._send("GET", "/Consent", actor, params=whose)
        elif action == pb.ACTION_READ and plain and self._binary:
            answer = await self._send("GET", self._binary, actor)
        elif action == pb.ACTION_SEARCH and plain:
            answer = await self._send("GET", "/DocumentReference", actor, params=whose)
        else:
            return await super().ask(actor, action, document, health_id)
        _raise_refusal(answer)
        return pb.Decision(permitted=True)

    async def _fed(self) -> str:
        """Where the bytes of a document lie that somebody else of the field has fed."""
        answer = await self._feed(professional("899700000099", structure="1750000099"))
        _raise_refusal(answer)
        shown = await self._send("GET", answer.headers["location"], patient(self._patient.health_id))
        return str(shown.json()["content"][0]["attachment"]["url"])

    async def _feed(self, actor: ActingContext) -> httpx.Response:
        content = self._patient.cda(seed=random.randrange(1 << 30))
        system, _, value = self._patient.identifier.partition("|")
        attachment = {"contentType": "text/xml", "data": base64.b64encode(content).decode(), "size": len(content)}
        resource = {
            "resourceType": "DocumentReference",
            "status": "current",
            "subject": {"identifier": {"system": system, "value": value}},
            "content": [{"attachment": attachment}],
        }
        return await self._send("POST", "/DocumentReference", actor, json=resource)

    def _said(self, request: Any) -> dict[str, Any]:
        """A request of consent as the parameters of an operation."""
        system, _, value = self._patient.identifier.partition("|")
        said: list[dict[str, Any]] = [{"name": "patient", "valueIdentifier": {"system": system, "value": value}}]
        for field, value in request.ListFields():
            name = _PARAMETERS.get(field.name)
            if name is not None:
                said.append({"name": name, "valueBoolean": value})
            elif field.name == "grantee":
                said.append({"name": "grantee", "valueIdentifier": {"system": f"urn:oid:{IDNPS}", "value": value.id}})
        return {"resourceType": "Parameters", "parameter": said}

    async def _send(self, verb: str, path: str, actor: ActingContext, **more: Any) -> httpx.Response:
        """The answer. What may have been cut on its way is asked again as software of the field does: with the key
        that makes it the same request."""
        http, patience = self._platform.session.http, time.monotonic() + 30.0
        try:
            token = await self._platform.session.token(statement(actor))
        except TokenRefused as refused:  # what the gateway does not even give a token for
            raise DmpError(reasons.ERROR_REASON_ACTING_CONTEXT_INVALID) from refused
        headers = {"authorization": f"Bearer {token}", "idempotency-key": f"story-{uuid.uuid4()}"}
        while True:
            try:
                answer = await http.request(verb, path, headers=headers, **more)
            except httpx.TransportError:  # the connection ended: whether the request was done is not known
                if time.monotonic() > patience:
                    raise
            else:
                if answer.status_code not in (503, 504) or time.monotonic() > patience:
                    return answer
            await asyncio.sleep(0.2)


def _raise_refusal(answer: httpx.Response) -> None:
    if answer.status_code >= 400:
        name = outcome_reason(answer.json())
        raise DmpError(reasons.ErrorReason.Value(f"ERROR_REASON_{name}"))


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("story", STORIES, ids=[story.name for story in STORIES])
async def test_the_platform_decides_as_the_story_tells(platform: Platform, story: Story) -> None:
    registered = await platform.registered()
    stage = Fhir(platform, registered)
    assert await play(story, stage, Cast(registered.health_id)) == []
