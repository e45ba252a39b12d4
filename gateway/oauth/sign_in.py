"""The authorization endpoint: a person leaves for an OpenID provider and comes back, and the client gets a code.

RFC 6749 §4.1 with PKCE S256 and `state`, both demanded of every client (RFC 9700 §2.1.1); `iss` in the answer
(RFC 9207). Nothing is sent to an address that is not registered, character by character. The way back is bound to the
browser that left by a cookie, so that nobody can be signed in as somebody else. What the client asked for, and who came
back, wait in the database by digest of what will be shown for it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.clients import Clients
from gateway.oauth import identity
from gateway.oauth.errors import ErrorCode, OAuthError
from gateway.oauth.provider import Provider, SignInRefused
from gateway.registration import Registration
from gateway.store import CodeRow, SignInRow, SignIns
from services.runtime.errors import DmpError

COOKIE: Final = "__Host-dmp-sign-in"
CALLBACK: Final = "/sign-in/callback"
SIGN_IN_LIFE: Final = timedelta(minutes=10)
CODE_LIFE: Final = timedelta(seconds=60)

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_LONGEST_STATE: Final = 1024
_READERS: Final = {"professionals": identity.professional, "patients": identity.patient}

Clock = Callable[[], datetime]


class NowhereToSend(Exception):
    """The client or its redirect URI is not known: the person is told, and sent nowhere."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the browser goes, and the cookie that it is to bring back."""

    location: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where the browser goes with the code, or with an error; `refusal` is the check that failed, else empty."""

    location: str
    client_id: str
    refusal: str = ""


class SignIn:
    """The two steps of signing in."""

    def __init__(
        self, clients: Clients, sign_ins: SignIns, providers: Mapping[str, Provider], base_url: str, clock: Clock
    ) -> None:
        self._clients = clients
        self._sign_ins = sign_ins
        self._providers = providers
        self._base_url = base_url
        self._clock = clock

    async def depart(self, query: Mapping[str, str]) -> Departure | Arrival:
        """Begin. NowhereToSend; an Arrival when the client is told at once what is wrong."""
        registration = await self._client(query)
        redirect_uri, state = query["redirect_uri"], query.get("state", "")
        try:
            request = _request(query, registration)
        except OAuthError as error:
            return self._back(registration, redirect_uri, state, error=error.error, rule=error.description)
        provider = self._providers.get(registration.login)
        if provider is None:
            return self._back(registration, redirect_uri, state, error="temporarily_unavailable", rule="no provider")
        upstream, browser = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        nonce, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        try:
            location = await provider.authorization_url(
                self._base_url + CALLBACK, upstream, nonce, challenge_of(verifier)
            )
        except (DmpError, SignInRefused):
            return self._back(registration, redirect_uri, state, error="temporarily_unavailable", rule="provider")
        row = SignInRow(digest(browser), registration.login, nonce, verifier, request, self._clock() + SIGN_IN_LIFE)
        await self._sign_ins.begin(digest(upstream), row)
        return Departure(location, browser)

    async def arrive(self, query: Mapping[str, str], cookie: str) -> Arrival:
        """Come back from the provider. NowhereToSend when nobody is expected with this state and this cookie."""
        row = await self._sign_ins.take(digest(query.get("state", "")))
        if row is None or row.expires_at <= self._clock() or not secrets.compare_digest(row.browser, digest(cookie)):
            raise NowhereToSend("sign_in.state")
        redirect_uri, state = row.request["redirect_uri"], row.request["state"]
        registration = await self._client(row.request)
        provider = self._providers.get(row.realm)
        if provider is None or (not provider.is_issuer(query.get("iss", "")) and "iss" in query):
            return self._back(registration, redirect_uri, state, error="access_denied", rule="provider.iss")
        if "code" not in query:
            return self._back(registration, redirect_uri, state, error="access_denied", rule="provider.error")
        try:
            claims = await provider.signed_in(query["code"], row.verifier, self._base_url + CALLBACK, row.nonce)
            who = _READERS[row.realm](claims)
        except (SignInRefused, identity.IdentityRefused) as refusal:
            return self._back(registration, redirect_uri, state, error="access_denied", rule=str(refusal))
        except DmpError:
            return self._back(registration, redirect_uri, state, error="temporarily_unavailable", rule="provider")
        code = secrets.token_urlsafe(32)
        await self._sign_ins.put_code(
            digest(code),
            CodeRow(
                registration.client_id,
                row.request,
                who.model_dump(),
                uuid.uuid4(),
                None,
                self._clock() + CODE_LIFE,
            ),
        )
        return self._back(registration, redirect_uri, state, code=code)

    async def _client(self, query: Mapping[str, str]) -> Registration:
        """The registration, once it is sure that the redirect URI is its own."""
        client_id = query.get("client_id", "")
        if not client_id or "\0" in client_id or len(client_id) > 128:
            raise NowhereToSend("client_id")
        try:
            found = await self._clients.find(client_id, "")
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_CLIENT_INVALID:
                raise NowhereToSend("client_id") from None
            raise
        if found.refusal is not None:
            raise NowhereToSend("client.suspended")
        if query.get("redirect_uri", "") not in found.registration.redirect_uris:
            raise NowhereToSend("redirect_uri")
        return found.registration

    def _back(
        self,
        registration: Registration,
        redirect_uri: str,
        state: str,
        *,
        code: str = "",
        error: ErrorCode | None = None,
        rule: str = "",
    ) -> Arrival:
        answer = {"code": code} if error is None else {"error": error, "error_description": rule}
        if state:
            answer["state"] = state[:_LONGEST_STATE]
        answer["iss"] = self._base_url
        joined = "&" if "?" in redirect_uri else "?"
        return Arrival(f"{redirect_uri}{joined}{urlencode(answer)}", registration.client_id, rule)


def _request(query: Mapping[str, str], registration: Registration) -> dict[str, str]:
    """What the client asks for; OAuthError naming what is missing or weak."""
    if query.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code")
    if "authorization_code" not in registration.grants:
        raise OAuthError("unauthorized_client", "this client is not registered for the authorization_code grant")
    if query.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(query.get("code_challenge", "")):
        raise OAuthError("invalid_request", "code_challenge is 43 characters of base64url")
    state = query.get("state", "")
    if not state or len(state) > _LONGEST_STATE or "\0" in state:
        raise OAuthError("invalid_request", "state is required")
    scopes = frozenset(query.get("scope", "").split()) or registration.scopes
    if scopes - registration.scopes:
        raise OAuthError("invalid_scope", "scope holds what this client is not registered for")
    return {
        "client_id": registration.client_id,
        "redirect_uri": query["redirect_uri"],
        "state": state,
        "scope": " ".join(sorted(scopes)),
        "code_challenge": query["code_challenge"],
    }


def digest(secret: str) -> bytes:
    """What the database keeps of a state, cookie, code or refresh token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a PKCE verifier (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()
