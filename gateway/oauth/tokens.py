"""The token endpoint's work (IHE IUA ITI-71, client credentials): client, statement, scopes → platform token.

No HTTP here: a form in, a response or an OAuth error out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.oauth.assertion import Assertions, VerifiedAssertion
from gateway.registration import Statement, acting_context
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.tokens import TokenIssuer

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class OAuthError(Exception):
    """An error of RFC 6749 §5.2: `error` its code, `description` for developers."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        self.error = error
        self.description = description
        self.status = status
        super().__init__(description)


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A platform token, its life in seconds and the scopes granted."""

    access_token: str
    expires_in: int
    scope: str


class Tokens:
    """Issues platform tokens to registered clients."""

    def __init__(self, assertions: Assertions, issuer: TokenIssuer, audience: str, lifetime: int) -> None:
        self._assertions = assertions
        self._issuer = issuer
        self._audience = audience
        self._lifetime = lifetime

    async def issue(self, form: Mapping[str, str]) -> TokenResponse:
        """Answer a token request; OAuthError says what is wrong with it."""
        if form.get("grant_type") != "client_credentials":
            raise OAuthError("unsupported_grant_type", "grant_type must be client_credentials")
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise OAuthError("invalid_request", f"client_assertion_type must be {ASSERTION_TYPE}")
        assertion = form.get("client_assertion", "")
        if not assertion:
            raise OAuthError("invalid_request", "client_assertion is required")
        verified = await self._authenticate(assertion)
        scopes = _scopes(form.get("scope", ""), verified)
        try:
            claims = acting_context(verified.registration, _statement(verified))
        except DmpError as error:
            fields = ", ".join(violation.field for violation in error.fields)
            raise OAuthError("unauthorized_client", f"{error.message} ({fields})") from None
        token = self._issuer.issue(claims, self._audience, self._lifetime, scopes=scopes)
        return TokenResponse(token, self._lifetime, " ".join(sorted(scopes)))

    async def _authenticate(self, assertion: str) -> VerifiedAssertion:
        try:
            return await self._assertions.verify(assertion)
        except DmpError as error:
            if error.reason in (reasons.ERROR_REASON_CLIENT_INVALID, reasons.ERROR_REASON_CLIENT_SUSPENDED):
                rule = error.metadata.get("rule", error.reason_name.lower())
                raise OAuthError("invalid_client", f"{error.message} ({rule})", 401) from None
            raise


def _scopes(asked: str, verified: VerifiedAssertion) -> frozenset[str]:
    scopes = frozenset(asked.split()) or verified.registration.scopes
    beyond = sorted(scopes - verified.registration.scopes)
    if beyond:
        raise OAuthError("invalid_scope", "scope holds what this client is not registered for")
    return scopes


def _statement(verified: VerifiedAssertion) -> Statement:
    try:
        return Statement.model_validate(verified.extensions.get("dmp"))
    except ValidationError as error:
        violations = [
            FieldViolation("extensions.dmp." + ".".join(str(part) for part in problem["loc"]), problem["type"], "")
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        fields = ", ".join(f"{violation.field}: {violation.rule}" for violation in violations[:8])
        raise OAuthError("invalid_request", f"the assertion's statement is wrong ({fields})") from None
