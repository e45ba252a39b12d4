"""Requests of one caller to the running platform over HTTP, and documents as ITI-105 takes them."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx

from ops.session import Statement
from tests.conformance.fhir_day import digest, identifier
from tests.conformance.fhir_samples import FHIR, Json
from tests.platform_fixture import Patient, Platform


class Http:
    """Requests of one caller."""

    def __init__(self, platform: Platform, statement: Statement) -> None:
        self._platform = platform
        self._statement = statement

    async def send(
        self,
        method: str,
        path: str,
        resource: Json | None = None,
        headers: dict[str, str] | None = None,
        /,
        **parameters: Any,
    ) -> httpx.Response:
        """One request; `resource` is its body."""
        body = b"" if resource is None else json.dumps(resource).encode()
        return await self.send_bytes(method, path, body, {**FHIR, **(headers or {})}, **parameters)

    async def send_bytes(
        self, method: str, path: str, body: bytes, headers: dict[str, str], /, **parameters: Any
    ) -> httpx.Response:
        """The same with a body of another kind."""
        token = await self._platform.session.token(self._statement)
        return await self._platform.session.http.request(
            method,
            path,
            params=parameters or None,
            content=body,
            headers={**headers, "Authorization": f"Bearer {token}"},
        )


def of(platform: Platform, patient: Patient) -> Http:
    """Requests of the patient's physician."""
    return Http(platform, patient.caregiver.statement())


def simplified(patient: Patient, seed: int = 1, **more: Any) -> Json:
    """A document as ITI-105 takes it."""
    content = patient.cda(seed=seed)
    attachment = {"contentType": "text/xml", "data": base64.b64encode(content).decode(), **digest(content)}
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"identifier": identifier(patient)},
        "content": [{"attachment": attachment}],
        **more,
    }


def unique_id(content: str) -> str:
    """The uniqueId of a CDA in base64, as a search token."""
    found = re.search(rb'<id root="(2\.25\.\d+)"/>', base64.b64decode(content))
    assert found is not None
    return f"urn:ietf:rfc:3986|urn:oid:{found[1].decode()}"
