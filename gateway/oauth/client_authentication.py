"""Which client asks: by a signed assertion (`private_key_jwt`), or by its certificate on the mutual-TLS port (RFC 8705,
`tls_client_auth` by URI name). There are no secrets to share and no public clients.

Order: authenticated, then not suspended, then within its quota. What is refused before the first is in the security
log; after it, in the trail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.clients import Clients, Found
from gateway.events import Refusals
from gateway.oauth.assertion import Assertions, refused
from gateway.oauth.errors import OAuthError
from gateway.quotas import Quotas
from gateway.registration import Registration, itself
from services.runtime.errors import DmpError
from services.runtime.limits import CARE

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Client:
    """A client that has proved who it is, and the extensions of its assertion."""

    registration: Registration
    extensions: dict[str, Any]


class ClientAuthentication:
    """Authenticates clients at the token, introspection and revocation endpoints."""

    def __init__(self, assertions: Assertions, clients: Clients, quotas: Quotas, refusals: Refusals) -> None:
        self._assertions = assertions
        self._clients = clients
        self._quotas = quotas
        self._refusals = refusals

    async def authenticate(self, form: Mapping[str, str], certificate_uris: tuple[str, ...]) -> Client:
        """The client behind a form. OAuthError `invalid_client` or `slow_down`; DmpError when nothing can be decided.

        `certificate_uris` are the URI names of the connection's certificate, empty without one.
        """
        try:
            if "client_assertion" in form or "client_assertion_type" in form:
                found, extensions = await self._by_assertion(form)
            else:
                found, extensions = await self._by_certificate(form, certificate_uris)
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_CLIENT_INVALID:
                rule = error.metadata.get("rule", "client")
                raise OAuthError("invalid_client", f"{error.message} ({rule})", 401) from None
            raise
        registration = found.registration
        if form.get("client_id", registration.client_id) != registration.client_id:
            raise OAuthError("invalid_client", "client_id is not that of the client that was authenticated", 401)
        verdict = await self._quotas.take(registration.client_id, registration.quota, CARE)
        if verdict.retry_after is not None:
            raise OAuthError("slow_down", "the quota is used up", 429, retry_after=verdict.retry_after)
        if found.refusal is not None:
            await self._refusals.record(itself(registration), "token.issue", found.refusal)
            raise OAuthError("invalid_client", "The client is suspended. (client_suspended)", 401)
        return Client(registration, extensions)

    async def _by_assertion(self, form: Mapping[str, str]) -> tuple[Found, dict[str, Any]]:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise OAuthError("invalid_request", f"client_assertion_type must be {ASSERTION_TYPE}")
        if "extensions" in form:
            raise OAuthError("invalid_request", "extensions belong in the signed assertion")
        verified = await self._assertions.verify(form.get("client_assertion", ""))
        return verified.client, verified.extensions

    async def _by_certificate(
        self, form: Mapping[str, str], certificate_uris: tuple[str, ...]
    ) -> tuple[Found, dict[str, Any]]:
        client_id = form.get("client_id", "")
        if not certificate_uris or not client_id or "\0" in client_id:
            raise refused("client.assertion_or_certificate")
        found, _ = await self._clients.with_keys(client_id)
        if not found.registration.certificate_uri or certificate_uris != (found.registration.certificate_uri,):
            raise refused("client.certificate")
        try:
            extensions = json.loads(form.get("extensions", "{}"))
        except (ValueError, RecursionError):
            extensions = None
        if not isinstance(extensions, dict):
            raise OAuthError("invalid_request", "extensions is not a JSON object")
        return found, extensions
