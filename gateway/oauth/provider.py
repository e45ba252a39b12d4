"""The OpenID client: how the gateway asks a provider (Pro Santé Connect, the patients' issuer) who signed in.

OpenID Connect Core 1.0, authorization code with PKCE S256 and nonce, to one provider whose issuer is configured: its
metadata and keys are fetched from there alone, over TLS. What comes back is checked whole (issuer, audience, azp,
nonce, times, signature by an asymmetric key of the provider's set, `acr` where one is demanded) before anything of it
is read; the UserInfo must be of the same subject. What the claims mean is in `identity`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey
from pydantic import BaseModel, ConfigDict, Field, FilePath, model_validator

from services.runtime.errors import unavailable

_ALGORITHMS: Final = ["RS256", "PS256", "ES256", "EdDSA"]
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TIMEOUT: Final = 5.0
_METADATA_KEPT: Final = 600.0
_KEYS_AGAIN: Final = 10.0
_LONGEST_ANSWER: Final = 256 << 10
_SKEW: Final = 30
_SIGN_IN_AGE: Final = 600

_log = structlog.get_logger("openid")


class SignInRefused(Exception):
    """The provider did not sign the person in, or what it told fails a check; the message names the check."""


class ProviderSettings(BaseModel):
    """One provider, as DMP_OPENID_FILE describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    issuer: str = Field(pattern=r"^https://[^?#]+$")
    client_id: str
    client_secret_file: FilePath | None = None
    """`client_secret_post`."""
    key_file: FilePath | None = None
    """A private JWK (ES256 or Ed25519): `private_key_jwt`."""
    scope: str = "openid"
    acr_values: str = ""
    """Demanded, and checked: `eidas1` at Pro Santé Connect."""
    userinfo: bool = True
    """Whether the claims are in the UserInfo rather than in the ID token."""
    ca_file: FilePath | None = None
    """What its certificate is verified with; the system's authorities by default."""

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> ProviderSettings:
        if (self.client_secret_file is None) == (self.key_file is None):
            raise ValueError("either client_secret_file or key_file")
        return self


class Provider:
    """One OpenID provider."""

    def __init__(self, settings: ProviderSettings) -> None:
        self._settings = settings
        trust = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        self._http = httpx.AsyncClient(verify=trust, timeout=_TIMEOUT, follow_redirects=False, trust_env=False)
        self._metadata: dict[str, Any] = {}
        self._metadata_until = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0
        self._fetching = asyncio.Lock()

    async def authorization_url(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Where to send the person. DEPENDENCY_UNAVAILABLE when the provider cannot be reached."""
        endpoint = await self._endpoint("authorization_endpoint")
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._settings.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        if self._settings.acr_values:
            query["acr_values"] = self._settings.acr_values
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def signed_in(self, code: str, verifier: str, redirect_uri: str, nonce: str) -> Mapping[str, Any]:
        """The claims about who came back with `code`. SignInRefused; DEPENDENCY_UNAVAILABLE."""
        endpoint = await self._endpoint("token_endpoint")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            **self._authentication(endpoint),
        }
        answer = await self._fetch("POST", endpoint, form=form)
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(id_token, str):
            raise SignInRefused("id_token")
        claims = await self._verified(id_token, nonce)
        if not self._settings.userinfo:
            return claims
        if not isinstance(access_token, str):
            raise SignInRefused("access_token")
        userinfo = await self._fetch("GET", await self._endpoint("userinfo_endpoint"), token=access_token)
        if userinfo.get("sub") != claims["sub"]:
            raise SignInRefused("userinfo.sub")
        return userinfo

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def is_issuer(self, issuer: str) -> bool:
        """Whether this provider has that name (RFC 9207: the `iss` of an authorization response)."""
        return issuer == self._settings.issuer

    async def _verified(self, id_token: str, nonce: str) -> dict[str, Any]:
        try:
            token = jwt.decode(id_token, await self._key_set(id_token), algorithms=_ALGORITHMS)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise SignInRefused("id_token.signature") from None
        claims, now, settings = dict(token.claims), time.time(), self._settings
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != settings.issuer:
            raise SignInRefused("id_token.iss")
        if settings.client_id not in audiences:
            raise SignInRefused("id_token.aud")
        if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != settings.client_id:
            raise SignInRefused("id_token.azp")
        expires, issued = claims.get("exp"), claims.get("iat")
        if not isinstance(expires, (int, float)) or not isinstance(issued, (int, float)):
            raise SignInRefused("id_token.times")
        if not (issued - _SKEW <= now <= expires + _SKEW) or now - issued > _SIGN_IN_AGE:
            raise SignInRefused("id_token.times")
        if not secrets.compare_digest(str(claims.get("nonce", "")), nonce):
            raise SignInRefused("id_token.nonce")
        if settings.acr_values and claims.get("acr") not in settings.acr_values.split():
            raise SignInRefused("id_token.acr")
        if not isinstance(claims.get("sub"), str) or not claims["sub"]:
            raise SignInRefused("id_token.sub")
        return claims

    async def _key_set(self, id_token: str) -> KeySet:
        """The provider's keys, fetched again when the token's `kid` is not among them (it rotated)."""
        try:
            kid = json.loads(_segment(id_token)).get("kid")
        except (ValueError, AttributeError, RecursionError):
            raise SignInRefused("id_token.form") from None
        known = self._keys is not None and any(key.kid == kid for key in self._keys.keys)
        if self._keys is None or (not known and time.monotonic() > self._keys_at + _KEYS_AGAIN):
            answer = await self._fetch("GET", await self._endpoint("jwks_uri"))
            # A key for secrets has no business in a public set; with it, an attacker could choose HMAC.
            keys = [key for key in answer.get("keys", ()) if isinstance(key, dict) and key.get("kty") != "oct"]
            self._keys, self._keys_at = KeySet.import_key_set({"keys": keys}), time.monotonic()
        return self._keys

    async def _endpoint(self, name: str) -> str:
        async with self._fetching:
            if time.monotonic() >= self._metadata_until:
                url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
                metadata = await self._fetch("GET", url)
                if metadata.get("issuer") != self._settings.issuer:
                    raise SignInRefused("metadata.issuer")
                self._metadata, self._metadata_until = metadata, time.monotonic() + _METADATA_KEPT
        endpoint = self._metadata.get(name)
        if not isinstance(endpoint, str) or urlsplit(endpoint).scheme != "https":
            raise SignInRefused(f"metadata.{name}")
        return endpoint

    async def _fetch(
        self, method: str, url: str, *, form: Mapping[str, str] | None = None, token: str | None = None
    ) -> dict[str, Any]:
        headers = {"accept": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        try:
            async with self._http.stream(method, url, data=form, headers=headers) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _LONGEST_ANSWER:
                        raise SignInRefused("answer.size")
                status = response.status_code
        except httpx.HTTPError as error:
            _log.warning("provider_not_reached", error_type=type(error).__name__)
            raise unavailable("openid") from None
        if status >= 500:
            raise unavailable("openid")
        if status != 200:
            raise SignInRefused(f"answer.{status}")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise SignInRefused("answer.form") from None
        if not isinstance(answer, dict):
            raise SignInRefused("answer.form")
        return answer

    def _authentication(self, endpoint: str) -> dict[str, str]:
        settings = self._settings
        if settings.client_secret_file is not None:
            secret = settings.client_secret_file.read_text("utf-8").strip()
            return {"client_id": settings.client_id, "client_secret": secret}
        return {
            "client_id": settings.client_id,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": _assertion(settings.client_id, endpoint, settings.key_file),
        }


def _assertion(client_id: str, audience: str, key_file: Path | None) -> str:
    if key_file is None:
        raise ValueError("a provider has a key or a secret")
    jwk = json.loads(key_file.read_bytes())
    now = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": now,
        "exp": now + 60,
        "jti": secrets.token_urlsafe(16),
    }
    if jwk.get("kty") == "EC":
        key = ECKey.import_key(jwk)
        return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)
    own = OKPKey.import_key(jwk)
    return jwt.encode({"alg": "EdDSA", "kid": own.kid}, claims, own, algorithms=["EdDSA"])


def _segment(token: str) -> bytes:
    header = token.partition(".")[0]
    return base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
