"""The endpoints of the local provider: OpenID Connect Core 1.0, the authorization code flow of Pro Santé Connect.

A realm is an issuer with its paths (Keycloak's, as there). Who signs in is chosen on a page instead of with a card;
everything else is as strict as the real one: exact redirect URI, codes of one minute used once, client authentication,
nonce, `acr`. What is under way is in memory: a restart forgets it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CALLBACK_SUFFIX: Final = "/sign-in/callback"
_CODE_SECONDS: Final = 60
_TOKEN_SECONDS: Final = 120
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client: known by a secret, or by the keys that verify its assertions."""

    client_id: str
    secret: str = ""
    keys: KeySet | None = None


@dataclass(slots=True)
class Realm:
    """An issuer. `find` gives the claims of someone by what they sign in with, `listed` whom the page offers."""

    path: str
    base: str
    key: RSAKey
    client: Client
    acr: str
    find: Callable[[str], Mapping[str, Any] | None]
    listed: Callable[[], Sequence[str]]
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, tuple[Mapping[str, Any], float]] = field(default_factory=dict)
    used_jti: set[str] = field(default_factory=set)

    @property
    def issuer(self) -> str:
        """The issuer's name."""
        return f"{self.base}{self.path}"

    def url(self, endpoint: str) -> str:
        """The address of an endpoint, as Keycloak has them."""
        return f"{self.issuer}/protocol/openid-connect/{endpoint}"


def application(realms: Sequence[Realm]) -> Starlette:
    """The ASGI application of all realms."""
    return Starlette(routes=[route for realm in realms for route in _routes(realm)])


def _routes(realm: Realm) -> list[Route]:
    endpoints = _Endpoints(realm)
    openid = f"{realm.path}/protocol/openid-connect"
    return [
        Route(f"{realm.path}/.well-known/openid-configuration", endpoints.metadata),
        Route(f"{openid}/certs", endpoints.certs),
        Route(f"{openid}/auth", endpoints.auth, methods=["GET"]),
        Route(f"{openid}/auth", endpoints.chosen, methods=["POST"]),
        Route(f"{openid}/token", endpoints.token, methods=["POST"]),
        Route(f"{openid}/userinfo", endpoints.userinfo, methods=["GET", "POST"]),
    ]


class _Endpoints:
    def __init__(self, realm: Realm) -> None:
        self._realm = realm

    async def metadata(self, _: Request) -> Response:
        realm = self._realm
        return JSONResponse(
            {
                "issuer": realm.issuer,
                "authorization_endpoint": realm.url("auth"),
                "token_endpoint": realm.url("token"),
                "userinfo_endpoint": realm.url("userinfo"),
                "jwks_uri": realm.url("certs"),
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
                "acr_values_supported": [realm.acr] if realm.acr else [],
            }
        )

    async def certs(self, _: Request) -> Response:
        return JSONResponse({"keys": [self._realm.key.as_dict(private=False)]})

    async def auth(self, request: Request) -> Response:
        """The page on which someone says who they are."""
        problem = self._wrong(request.query_params)
        if problem:
            return HTMLResponse(f"<h1>Requête refusée</h1><p>{escape(problem)}</p>", 400)
        options = "".join(f'<option value="{escape(who)}">{escape(who)}</option>' for who in self._realm.listed())
        who = f'<select name="who">{options}</select>' if options else '<input name="who" placeholder="health id">'
        action = f"?{escape(request.url.query)}"
        return HTMLResponse(
            '<!doctype html><html lang="fr"><meta charset="utf-8"><title>Connexion (développement)</title>'
            f'<h1>Qui êtes-vous ?</h1><form method="post" action="{action}">{who}<button>Se connecter</button></form>'
        )

    async def chosen(self, request: Request) -> Response:
        """Someone has said who they are: back to the client with a code, or with the provider's own refusal."""
        query = request.query_params
        problem = self._wrong(query)
        if problem:
            return HTMLResponse(f"<h1>Requête refusée</h1><p>{escape(problem)}</p>", 400)
        form = dict(parse_qsl((await request.body()).decode()))
        claims = self._realm.find(form.get("who", ""))
        answer = {"state": query["state"], "iss": self._realm.issuer}
        if claims is None:
            answer["error"] = "access_denied"
        else:
            code = answer["code"] = secrets.token_urlsafe(32)
            self._realm.codes[code] = {
                "claims": claims,
                "until": time.time() + _CODE_SECONDS,
                **{name: query[name] for name in ("redirect_uri", "nonce", "code_challenge")},
            }
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(answer)}", 302)

    async def token(self, request: Request) -> Response:
        """The code for an ID token and an access token."""
        form = dict(parse_qsl((await request.body()).decode()))
        if not self._is_client(form):
            return _error("invalid_client", 401)
        if form.get("grant_type") != "authorization_code":
            return _error("unsupported_grant_type")
        known = self._realm.codes.pop(form.get("code", ""), None)
        verifier = form.get("code_verifier", "")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if (
            known is None
            or known["until"] < time.time()
            or known["redirect_uri"] != form.get("redirect_uri")
            or not secrets.compare_digest(known["code_challenge"], challenge)
        ):
            return _error("invalid_grant")
        access = secrets.token_urlsafe(32)
        self._realm.tokens[access] = (known["claims"], time.time() + _TOKEN_SECONDS)
        return JSONResponse(
            {
                "access_token": access,
                "token_type": "Bearer",
                "expires_in": _TOKEN_SECONDS,
                "id_token": self._id_token(known["claims"]["sub"], known["nonce"]),
            },
            headers={"cache-control": "no-store"},
        )

    async def userinfo(self, request: Request) -> Response:
        """Who the access token is about."""
        _, _, token = request.headers.get("authorization", "").partition(" ")
        claims, until = self._realm.tokens.get(token, (None, 0.0))
        if claims is None or until < time.time():
            return _error("invalid_token", 401)
        return JSONResponse(dict(claims))

    def _id_token(self, sub: str, nonce: str) -> str:
        realm, now = self._realm, int(time.time())
        claims = {
            "iss": realm.issuer,
            "sub": sub,
            "aud": realm.client.client_id,
            "azp": realm.client.client_id,
            "exp": now + _TOKEN_SECONDS,
            "iat": now,
            "auth_time": now,
            "nonce": nonce,
            "sid": secrets.token_hex(16),
        }
        if realm.acr:
            claims["acr"] = realm.acr
        return jwt.encode({"alg": "RS256", "typ": "JWT", "kid": realm.key.kid}, claims, realm.key)

    def _wrong(self, query: Mapping[str, str]) -> str:
        """Why an authorization request cannot be served; empty when it can."""
        realm = self._realm
        if query.get("client_id") != realm.client.client_id:
            return "client_id"
        if not query.get("redirect_uri", "").endswith(CALLBACK_SUFFIX):
            return "redirect_uri"
        if query.get("response_type") != "code" or "openid" not in query.get("scope", "").split():
            return "response_type, scope"
        if query.get("code_challenge_method") != "S256":
            return "code_challenge_method"
        if realm.acr and query.get("acr_values") != realm.acr:
            return "acr_values"
        return next((name for name in ("state", "nonce", "code_challenge") if not query.get(name)), "")

    def _is_client(self, form: Mapping[str, str]) -> bool:
        client = self._realm.client
        if form.get("client_id") != client.client_id:
            return False
        if client.keys is None:
            return secrets.compare_digest(form.get("client_secret", ""), client.secret)
        if form.get("client_assertion_type") != _ASSERTION_TYPE:
            return False
        try:
            claims = jwt.decode(form.get("client_assertion", ""), client.keys, algorithms=["ES256"]).claims
        except (JoseError, ValueError):
            return False
        fresh = claims.get("jti") not in self._realm.used_jti
        self._realm.used_jti.add(str(claims.get("jti")))
        mine = claims.get("iss") == claims.get("sub") == client.client_id
        return bool(fresh and mine and claims.get("aud") == self._realm.url("token") and claims["exp"] > time.time())


def _error(code: str, status: int = 400) -> Response:
    return Response(json.dumps({"error": code}), status, media_type="application/json")
