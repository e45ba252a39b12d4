"""The HTTP face of IUA: server metadata (ITI-103), token (ITI-71) and the public key set."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.oauth.tokens import OAuthError, Tokens
from services.runtime.errors import DmpError

_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
_LARGEST_FORM = 32_768
_MOST_FIELDS = 16


def routes(tokens: Tokens, base_url: str, jwks_file: Path, scopes: frozenset[str]) -> list[Route]:
    """The routes; `base_url` is the issuer and the prefix of every URL given out."""

    async def metadata(_: Request) -> Response:
        return JSONResponse(
            {
                "issuer": base_url,
                "token_endpoint": f"{base_url}/token",
                "jwks_uri": f"{base_url}/jwks",
                "grant_types_supported": ["client_credentials"],
                "response_types_supported": [],
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                "token_endpoint_auth_signing_alg_values_supported": ["EdDSA", "ES256"],
                "access_token_format": "ihe-jwt",
                "scopes_supported": sorted(scopes),
            }
        )

    async def jwks(_: Request) -> Response:
        keys = await asyncio.to_thread(jwks_file.read_bytes)
        return Response(keys, media_type="application/json", headers={"cache-control": "max-age=60"})

    async def token(request: Request) -> Response:
        try:
            answer = await tokens.issue(await _form(request))
        except OAuthError as error:
            body = {"error": error.error, "error_description": error.description}
            return JSONResponse(body, error.status, headers=_NO_STORE)
        except DmpError as error:
            body = {"error": "temporarily_unavailable", "error_description": error.message}
            return JSONResponse(body, 503, headers={**_NO_STORE, "retry-after": "1"})
        granted = {
            "access_token": answer.access_token,
            "token_type": "Bearer",
            "expires_in": answer.expires_in,
            "scope": answer.scope,
        }
        return JSONResponse(granted, headers=_NO_STORE)

    return [
        Route("/.well-known/oauth-authorization-server", metadata, methods=["GET"]),
        Route("/jwks", jwks, methods=["GET"]),
        Route("/token", token, methods=["POST"]),
    ]


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; a field sent twice is refused (RFC 6749 §3.2)."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "the body is application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            raise OAuthError("invalid_request", "the body is too large", 413)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise OAuthError("invalid_request", "the body is not a form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise OAuthError("invalid_request", "a field is sent twice")
    return fields
