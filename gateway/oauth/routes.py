"""The HTTP face of IUA: server metadata (ITI-103), authorization, token (ITI-71), introspection (ITI-102), revocation,
and the public key set.

`OAuthForms` are the endpoints that take a form, whichever port it came by: HTTPS for all, or mutual TLS (RFC 8705 §5,
`gateway.oauth.mutual_tls`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from gateway.oauth.errors import OAuthError
from gateway.oauth.sign_in import CALLBACK, COOKIE, SIGN_IN_LIFE, Departure, NowhereToSend, SignIn
from gateway.oauth.standing_tokens import StandingTokens
from gateway.oauth.tokens import Tokens
from services.runtime.errors import DmpError

NO_STORE: Final = {"cache-control": "no-store", "pragma": "no-cache"}
LARGEST_FORM: Final = 64 << 10
_MOST_FIELDS: Final = 16
_LONGEST_QUERY: Final = 8 << 10

Form = Callable[[Mapping[str, str], tuple[str, ...]], Awaitable[Response]]
Refused = Callable[[str, str], None]
"""Told of a request without an authenticated client: the endpoint, and which rule it broke."""


@dataclass(frozen=True, slots=True)
class ServerNames:
    """What the metadata says of this server. `mutual_tls_url` is empty where there is no such port."""

    base_url: str
    mutual_tls_url: str
    scopes: frozenset[str]
    signs_in: bool
    """Whether there is a provider at which people sign in."""


class OAuthForms:
    """The endpoints that take a form: from a form and the certificate's names to an answer."""

    def __init__(self, tokens: Tokens, standing: StandingTokens, refused: Refused) -> None:
        self._refused = refused
        self.by_path: Final[Mapping[str, Form]] = {
            "/token": lambda form, uris: self._answered("token", self._token(tokens, form, uris)),
            "/introspect": lambda form, uris: self._answered("introspect", self._introspect(standing, form, uris)),
            "/revoke": lambda form, uris: self._answered("revoke", self._revoke(standing, form, uris)),
        }

    async def _token(self, tokens: Tokens, form: Mapping[str, str], uris: tuple[str, ...]) -> Response:
        answer = await tokens.issue(form, uris)
        granted: dict[str, Any] = {
            "access_token": answer.access_token,
            "token_type": "Bearer",
            "expires_in": answer.expires_in,
            "scope": answer.scope,
        }
        if answer.refresh_token:
            granted["refresh_token"] = answer.refresh_token
        return JSONResponse(granted, headers=NO_STORE)

    async def _introspect(self, standing: StandingTokens, form: Mapping[str, str], uris: tuple[str, ...]) -> Response:
        return JSONResponse(dict(await standing.introspect(form, uris)), headers=NO_STORE)

    async def _revoke(self, standing: StandingTokens, form: Mapping[str, str], uris: tuple[str, ...]) -> Response:
        await standing.revoke(form, uris)
        return Response(b"", 200, headers=NO_STORE)

    async def _answered(self, endpoint: str, work: Awaitable[Response]) -> Response:
        try:
            return await work
        except OAuthError as error:
            if error.error == "invalid_client":
                self._refused(endpoint, "CLIENT_INVALID")
            return refusal(error)
        except DmpError as error:
            description = f"{error.message} ({error.reason_name.lower()})"
            return refusal(OAuthError("temporarily_unavailable", description, 503, retry_after=error.retry_after or 1))


def refusal(error: OAuthError) -> Response:
    """An error as RFC 6749 §5.2 has it."""
    headers = dict(NO_STORE)
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="dmp", error="invalid_client"'
    return JSONResponse({"error": error.error, "error_description": error.description}, error.status, headers=headers)


class SignInPages:
    """What a browser asks for on its way to a provider and back."""

    def __init__(self, sign_in: SignIn, refused: Refused) -> None:
        self._sign_in = sign_in
        self._refused = refused

    async def authorize(self, request: Request) -> Response:
        """The authorization endpoint."""
        try:
            outcome = await self._sign_in.depart(_query(request))
        except NowhereToSend as error:
            self._refused("authorize", "CLIENT_INVALID")
            return _page(400, "Demande de connexion refusée", str(error))
        except DmpError:
            return _page(503, "Service momentanément indisponible", "")
        response = _redirect(outcome.location)
        if isinstance(outcome, Departure):
            response.set_cookie(
                COOKIE,
                outcome.cookie,
                max_age=int(SIGN_IN_LIFE.total_seconds()),
                path="/",
                secure=True,
                httponly=True,
                samesite="lax",
            )
        return response

    async def arrived(self, request: Request) -> Response:
        """Where the provider sends the browser back to."""
        try:
            outcome = await self._sign_in.arrive(_query(request), request.cookies.get(COOKIE, ""))
        except NowhereToSend as error:
            self._refused("sign-in", "CLIENT_INVALID")
            return _page(400, "Connexion refusée", str(error))
        except DmpError:
            return _page(503, "Service momentanément indisponible", "")
        if outcome.refusal:
            self._refused("sign-in", "TOKEN_INVALID")
        response = _redirect(outcome.location)
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response


def routes(forms: OAuthForms, pages: SignInPages, names: ServerNames, jwks_file: Path) -> list[Route]:
    """The routes of the HTTPS port."""
    metadata_answer = server_metadata(names)

    async def metadata(_: Request) -> Response:
        return JSONResponse(metadata_answer, headers={"cache-control": "max-age=300"})

    async def jwks(_: Request) -> Response:
        keys = await asyncio.to_thread(jwks_file.read_bytes)
        return Response(keys, media_type="application/json", headers={"cache-control": "max-age=60"})

    return [
        Route("/.well-known/oauth-authorization-server", metadata, methods=["GET"]),
        Route("/jwks", jwks, methods=["GET"]),
        Route("/authorize", pages.authorize, methods=["GET"]),
        Route(CALLBACK, pages.arrived, methods=["GET"]),
        *(_form_route(path, answer) for path, answer in forms.by_path.items()),
    ]


def _form_route(path: str, answer: Form) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            fields = await _form(request)
        except OAuthError as error:
            return refusal(error)
        except ClientDisconnect:
            return Response(b"", 400)
        return await answer(fields, ())

    return Route(path, endpoint, methods=["POST"])


def server_metadata(names: ServerNames) -> dict[str, Any]:
    """RFC 8414 and IUA ITI-103. True to the code: every name in it is an endpoint or a check of this package."""
    base = names.base_url
    methods = ["private_key_jwt", *(["tls_client_auth"] if names.mutual_tls_url else [])]
    algorithms = ["EdDSA", "ES256"]
    found: dict[str, Any] = {
        "issuer": base,
        "token_endpoint": f"{base}/token",
        "introspection_endpoint": f"{base}/introspect",
        "revocation_endpoint": f"{base}/revoke",
        "jwks_uri": f"{base}/jwks",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "access_token_format": "ihe-jwt",
        "scopes_supported": sorted(names.scopes),
    }
    if names.signs_in:
        found |= {
            "authorization_endpoint": f"{base}/authorize",
            "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
    if names.mutual_tls_url:
        found["mtls_endpoint_aliases"] = {
            "token_endpoint": f"{names.mutual_tls_url}/token",
            "introspection_endpoint": f"{names.mutual_tls_url}/introspect",
            "revocation_endpoint": f"{names.mutual_tls_url}/revoke",
        }
    return found


def parse_form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form; a field sent twice is refused (RFC 6749 §3.2)."""
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "the body is application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise OAuthError("invalid_request", "the body is not a form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise OAuthError("invalid_request", "a field is sent twice")
    return fields


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise OAuthError("invalid_request", "the body is too large", 413)
    return parse_form(request.headers.get("content-type", ""), bytes(body))


def _query(request: Request) -> dict[str, str]:
    """The query's parameters; one that is sent twice is as if it were not there."""
    raw: bytes = request.scope["query_string"]
    try:
        pairs = parse_qsl(raw[:_LONGEST_QUERY].decode("ascii"), max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        return {}
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def _redirect(location: str) -> Response:
    return RedirectResponse(location, 303, headers={**NO_STORE, "referrer-policy": "no-referrer"})


def _page(status: int, title: str, rule: str) -> Response:
    """What a person sees whose browser can be sent nowhere."""
    detail = f"<p>Code&nbsp;: <code>{escape(rule)}</code></p>" if rule else ""
    body = (
        f'<!doctype html><html lang="fr"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
        f"<body><h1>{escape(title)}</h1><p>Revenez au logiciel d'où vous venez et recommencez. Si cela se reproduit, "
        f"donnez ce code à son éditeur.</p>{detail}</body></html>"
    )
    policy = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'", "x-frame-options": "DENY"}
    return HTMLResponse(body, status, headers={**NO_STORE, **policy})
