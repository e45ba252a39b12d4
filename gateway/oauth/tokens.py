"""The token endpoint's work (IHE IUA ITI-71): an authenticated client, a grant, who acts, scopes → a platform token.

Three grants: client credentials, where the client states who acts; an authorization code, where somebody signed in; a
refresh token, for as long as that sign-in lasts. A refresh token is used once, and each use gives the next: one that
comes a second time was stolen from somebody, so its grant ends and the tokens that it gave are revoked (RFC 9700
§4.14.2). A code that comes a second time does the same (RFC 6749 §4.1.2). No HTTP here: a form in, a response or an
OAuth error out.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from gateway.events import Refusals, event, outbox_row
from gateway.oauth import identity, iua
from gateway.oauth.client_authentication import Client, ClientAuthentication
from gateway.oauth.errors import OAuthError
from gateway.oauth.sign_in import challenge_of, digest
from gateway.registration import Registration, Statement, acting_context, itself
from gateway.store import CodeRow, GrantRow, SignIns
from services.runtime.errors import DmpError
from services.runtime.outbox import put
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.tokens import MAX_LIFETIME, SKEW, TokenIssuer

_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_REFRESH: Final = re.compile(r"[0-9a-f]{32}\.[A-Za-z0-9_-]{43}")
REVOKED_FOR: Final = timedelta(seconds=MAX_LIFETIME + 2 * SKEW)

Clock = Callable[[], datetime]
Changed = Callable[[], Awaitable[object]]
"""Told after tokens were revoked, so that the services learn of it, and the trail."""


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A platform token, its life in seconds, the scopes granted, and the next refresh token (empty without one)."""

    access_token: str
    expires_in: int
    scope: str
    refresh_token: str = ""


@dataclass(frozen=True, slots=True)
class Issuance:
    """How tokens are signed: by whom, for whom, for how many seconds; how long a sign-in lasts."""

    issuer: TokenIssuer
    audience: str
    token_seconds: int
    sign_in_seconds: int


@dataclass(frozen=True, slots=True)
class _Issued:
    token: str
    token_id: str
    actor: ActingContext


class _Stolen(Exception):
    """A code or refresh token came a second time: `what` it was."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


class Tokens:
    """Issues platform tokens to registered clients."""

    def __init__(
        self,
        clients: ClientAuthentication,
        pool: Pool,
        sign_ins: SignIns,
        issuance: Issuance,
        refusals: Refusals,
        changed: Changed,
        clock: Clock,
    ) -> None:
        self._clients = clients
        self._pool = pool
        self._sign_ins = sign_ins
        self._issuance = issuance
        self._refusals = refusals
        self._changed = changed
        self._clock = clock

    async def issue(self, form: Mapping[str, str], certificate_uris: tuple[str, ...] = ()) -> TokenResponse:
        """Answer a token request; OAuthError says what is wrong with it."""
        grant = form.get("grant_type")
        if grant not in ("client_credentials", "authorization_code", "refresh_token"):
            supported = "client_credentials, authorization_code or refresh_token"
            raise OAuthError("unsupported_grant_type", f"grant_type must be {supported}")
        client = await self._clients.authenticate(form, certificate_uris)
        try:
            if grant == "client_credentials":
                return await self._by_client(client, form)
            if "authorization_code" not in client.registration.grants:
                raise OAuthError("unauthorized_client", "this client is not registered for people who sign in")
            if grant == "authorization_code":
                return await self._by_code(client, form)
            return await self._by_refresh(client, form)
        except _Stolen as theft:
            await self._changed()
            raise OAuthError("invalid_grant", f"the {theft.what} was used before; its sign-in has ended") from None
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_GRANT_NOT_ALLOWED:
                raise
            await self._refusals.record(itself(client.registration), "token.issue", error.reason)
            fields = ", ".join(violation.field for violation in error.fields)
            raise OAuthError("unauthorized_client", f"{error.message} ({fields})") from None
        except OAuthError as error:
            if error.error in ("invalid_grant", "invalid_scope", "unauthorized_client"):
                await self._refusals.record(
                    itself(client.registration), "token.issue", reasons.ERROR_REASON_GRANT_NOT_ALLOWED
                )
            raise

    async def _by_client(self, client: Client, form: Mapping[str, str]) -> TokenResponse:
        registration = client.registration
        if "client_credentials" not in registration.grants:
            raise OAuthError("unauthorized_client", "this client is not registered for the client_credentials grant")
        scopes = _scopes(form.get("scope", ""), registration.scopes)
        try:
            stated = Statement.model_validate(client.extensions.get("dmp"))
        except ValidationError as error:
            wrong = identity.violations(error)
            raise OAuthError("invalid_request", f"the assertion's statement is wrong ({wrong})") from None
        issued = self._sign(registration, stated, scopes)
        return TokenResponse(issued.token, self._issuance.token_seconds, " ".join(sorted(scopes)))

    async def _by_code(self, client: Client, form: Mapping[str, str]) -> TokenResponse:
        code, verifier = form.get("code", ""), form.get("code_verifier", "")
        if not code or not _VERIFIER.fullmatch(verifier):
            raise OAuthError("invalid_request", "code and code_verifier are required")
        wish = _chosen(client)
        async with transaction(self._pool) as connection:
            outcome = await self._exchange(connection, client, form, wish)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _exchange(
        self, connection: Connection, client: Client, form: Mapping[str, str], wish: identity.Chosen
    ) -> TokenResponse | Exception:
        """The first tokens of a sign-in. A code is spent by whoever of its client brings it, whatever else is wrong:
        so errors are given back, and the transaction commits."""
        spent = digest(form["code"])
        row = await self._sign_ins.lock_code(connection, spent)
        if row is None or row.client_id != client.registration.client_id:
            return OAuthError("invalid_grant", "the code is not known")
        who = identity.Identity.model_validate(row.identity)
        if row.used_at is not None:
            return await self._theft(connection, client, row.grant_id, "code")
        await self._sign_ins.use_code(connection, spent)
        if refusal := _mismatch(row, form, self._clock()):
            return refusal
        try:
            scopes = _scopes(form.get("scope", ""), frozenset(row.request["scope"].split()))
            issued = self._sign(client.registration, identity.statement(who, wish), scopes)
        except (DmpError, OAuthError) as error:
            return error
        refresh, kept = _refresh_token(row.grant_id)
        until = self._clock() + timedelta(seconds=self._issuance.sign_in_seconds)
        grant = GrantRow(
            row.grant_id, row.client_id, row.identity, scopes, kept, 1, (issued.token_id,), until, ended_at=None
        )
        await self._sign_ins.put_grant(connection, grant)
        await put(connection, [outbox_row(event(issued.actor, "session.open"))])
        return self._response(issued, scopes, refresh)

    async def _by_refresh(self, client: Client, form: Mapping[str, str]) -> TokenResponse:
        shown = form.get("refresh_token", "")
        if not _REFRESH.fullmatch(shown):
            raise OAuthError("invalid_grant", "the refresh token is not one of ours")
        wish = _chosen(client)
        async with transaction(self._pool) as connection:
            outcome = await self._renew(connection, client, form, wish)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _renew(
        self, connection: Connection, client: Client, form: Mapping[str, str], wish: identity.Chosen
    ) -> TokenResponse | Exception:
        shown = form["refresh_token"]
        grant = await self._sign_ins.grant(uuid.UUID(shown[:32]), connection)
        if grant is None or grant.client_id != client.registration.client_id:
            return OAuthError("invalid_grant", "the refresh token is not known")
        if grant.ended_at is not None or grant.expires_at <= self._clock():
            return OAuthError("invalid_grant", "the sign-in has ended")
        if not secrets.compare_digest(grant.refresh, digest(shown)):
            return await self._theft(connection, client, grant.grant_id, "refresh token")
        who = identity.Identity.model_validate(grant.identity)
        try:
            scopes = _scopes(form.get("scope", ""), grant.scopes)
            issued = self._sign(client.registration, identity.statement(who, wish), scopes)
        except (DmpError, OAuthError) as error:
            return error
        refresh, kept = _refresh_token(grant.grant_id)
        await self._sign_ins.rotate(connection, grant.grant_id, grant.refresh, kept, issued.token_id)
        return self._response(issued, scopes, refresh)

    async def _theft(self, connection: Connection, client: Client, grant_id: uuid.UUID, what: str) -> Exception:
        """End the grant, revoke what it gave, and say so in the trail, all in one commit."""
        await self._sign_ins.end(connection, grant_id, f"{what} used twice", self._clock() + REVOKED_FOR)
        told = event(itself(client.registration), "session.theft", reasons.ERROR_REASON_TOKEN_REVOKED)
        await put(connection, [outbox_row(told)])
        return _Stolen(what)

    def _sign(self, registration: Registration, stated: Statement, scopes: frozenset[str]) -> _Issued:
        actor = acting_context(registration, stated)
        token_id = str(uuid.uuid4())
        how = self._issuance
        token = how.issuer.issue(
            actor, how.audience, how.token_seconds, scopes=scopes, jti=token_id, more=iua.claims(actor)
        )
        return _Issued(token, token_id, actor)

    def _response(self, issued: _Issued, scopes: frozenset[str], refresh: str) -> TokenResponse:
        return TokenResponse(issued.token, self._issuance.token_seconds, " ".join(sorted(scopes)), refresh)


def _mismatch(row: CodeRow, form: Mapping[str, str], now: datetime) -> OAuthError | None:
    """Why a code that nobody has used does not fit this request."""
    if row.expires_at <= now:
        return OAuthError("invalid_grant", "the code has expired")
    if form.get("redirect_uri", "") != row.request["redirect_uri"]:
        return OAuthError("invalid_grant", "redirect_uri is not that of the authorization request")
    if not secrets.compare_digest(challenge_of(form["code_verifier"]), row.request["code_challenge"]):
        return OAuthError("invalid_grant", "code_verifier is not that of the authorization request")
    return None


def _refresh_token(grant_id: uuid.UUID) -> tuple[str, bytes]:
    """A refresh token, which names its grant, and the digest that is kept of it."""
    token = f"{grant_id.hex}.{secrets.token_urlsafe(32)}"
    return token, digest(token)


def _scopes(asked: str, allowed: frozenset[str]) -> frozenset[str]:
    scopes = frozenset(asked.split()) or allowed
    if scopes - allowed:
        raise OAuthError("invalid_scope", "scope holds what this client is not registered for")
    return scopes


def _chosen(client: Client) -> identity.Chosen:
    try:
        return identity.chosen(client.extensions)
    except identity.IdentityRefused as refusal:
        raise OAuthError("invalid_request", f"the assertion's statement is wrong ({refusal})") from None
