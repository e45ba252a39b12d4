"""Requests made by schemathesis from a description of the OAuth endpoints, at the running platform: each is answered in
OAuth's own way, never with a 5xx, a cause or a stack.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

from tests.platform_fixture import Platform

FULL: Final = os.environ.get("DMP_CAMPAIGN", "") not in ("", "0")
_TRACE: Final = re.compile(r"Traceback|File \"/|\.py\b|asyncpg|joserfc")
_WORD: Final = {"type": "string", "maxLength": 64}
_JWT: Final = {"type": "string", "pattern": r"^[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}$"}
_GRANTS: Final = ["client_credentials", "authorization_code", "refresh_token", "password", "implicit", ""]
_CLIENT: Final = {
    "client_id": _WORD,
    "client_assertion_type": {
        "type": "string",
        "enum": ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "other"],
    },
    "client_assertion": _JWT,
}


def _form(required: list[str], **fields: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**_CLIENT, **fields}, "required": required}
    return {
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}},
        "responses": {"default": {"description": "an answer of OAuth"}},
    }


def _query(*names: str) -> dict[str, Any]:
    asked = [{"name": name, "in": "query", "required": False, "schema": _WORD} for name in names]
    return {"parameters": asked, "responses": {"default": {"description": "an answer of OAuth"}}}


_DESCRIPTION: Final = {
    "openapi": "3.1.0",
    "info": {"title": "OAuth", "version": "1"},
    "paths": {
        "/token": {
            "post": _form(
                ["grant_type"],
                grant_type={"type": "string", "enum": _GRANTS},
                scope=_WORD,
                code=_WORD,
                code_verifier=_WORD,
                redirect_uri=_WORD,
                refresh_token=_WORD,
            )
        },
        "/introspect": {"post": _form(["token"], token=_JWT, token_type_hint=_WORD)},
        "/revoke": {"post": _form(["token"], token=_JWT, token_type_hint=_WORD)},
        "/authorize": {
            "get": _query(
                "response_type",
                "client_id",
                "redirect_uri",
                "scope",
                "state",
                "nonce",
                "code_challenge",
                "code_challenge_method",
            )
        },
        "/sign-in/callback": {"get": _query("state", "code", "error", "iss")},
        "/.well-known/oauth-authorization-server": {"get": _query("x")},
    },
}
schema = schemathesis.openapi.from_dict(_DESCRIPTION)


@schema.parametrize()
@settings(
    max_examples=1_000 if FULL else 5,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not FULL,
    database=None,
)
def test_whatever_is_asked_of_oauth_is_answered_in_its_own_way(
    case: schemathesis.Case[Any], platform: Platform
) -> None:
    trust = str(platform.state.pki / "ca.pem")
    response = case.call(base_url=platform.session.endpoints.http, verify=trust, allow_redirects=False)
    case.validate_response(response, checks=[not_a_server_error])
    assert response.status_code not in (404, 405)
    assert not _TRACE.search(response.text), response.text[:500]
    if response.status_code >= 400 and case.path in ("/token", "/introspect", "/revoke"):
        assert set(response.json()) <= {"error", "error_description"}, response.text[:500]
