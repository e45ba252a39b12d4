"""Software as a vendor writes it: its own registration and keys, OAuth by hand, a browser that signs somebody in.

Lives here: what the tests of the gateway's access share. Nothing here uses the code under test but the contracts.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import secrets
import ssl
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from dmp.common.v1 import access_pb2, context_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from ops.local.pki import CertificateAuthority
from ops.local.registrations import ALL_SCOPES, METHODS
from ops.partners import Partners
from tests.platform_fixture import Platform

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REDIRECT: Final = "https://software.test/callback"
CARE_SCOPES: Final = sorted(
    {
        scope
        for access in METHODS.values()
        if access_pb2.CALLER_KIND_PARTNER in access.callers
        for scope in access.scopes
    }
)
_numbers = itertools.count(1)


def partner_message(client_id: str, key: ECKey, /, **changes: Any) -> pb.Partner:
    """A registration that allows everything that a partner may."""
    partner = pb.Partner(
        client_id=client_id,
        kind=access_pb2.CALLER_KIND_PARTNER,
        vendor="Éditions de test",
        software=context_pb2.Software(id="package", name="Package", version="3.1", approval_number="TEST-1"),
        profiles=[
            pb.APPROVAL_PROFILE_MANAGEMENT,
            pb.APPROVAL_PROFILE_FEEDING,
            pb.APPROVAL_PROFILE_CONSULTATION,
        ],
        scopes=CARE_SCOPES,
        bounds=pb.Bounds(
            actors=[context_pb2.ACTOR_KIND_PROFESSIONAL],
            professions=["*"],
            structures=["*"],
            access_modes=[context_pb2.ACCESS_MODE_NORMAL, context_pb2.ACCESS_MODE_BREAK_GLASS],
        ),
        grants=[pb.GRANT_KIND_CLIENT_CREDENTIALS, pb.GRANT_KIND_AUTHORIZATION_CODE],
        login=pb.LOGIN_REALM_PROFESSIONALS,
        redirect_uris=[REDIRECT],
        jwks=key_set(key),
        quota=pb.Quota(requests_per_second=10_000, burst=10_000),
    )
    for name, value in changes.items():
        partner.ClearField(name)  # type: ignore[arg-type]
        partner.MergeFrom(pb.Partner(**{name: value}))
    return partner


def new_key() -> ECKey:
    """A key as a vendor makes one."""
    return ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True, auto_kid=True)


def key_set(*keys: ECKey) -> str:
    """Their public halves, as they are registered."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]})


@dataclass(slots=True)
class Software:
    """A registered package and its key; `http` trusts the local authority and follows no redirect."""

    platform: Platform
    client_id: str
    key: ECKey
    http: httpx.AsyncClient
    statement: dict[str, Any] = field(default_factory=dict)

    @classmethod
    async def registered(cls, platform: Platform, **changes: Any) -> Software:
        """New software of this run."""
        client_id, key = f"vendor-{next(_numbers)}-{secrets.token_hex(3)}", new_key()
        await Partners(platform.session).register(partner_message(client_id, key, **changes))
        caregiver = platform.caregiver().statement()
        return cls(platform, client_id, key, browser(platform), dict(caregiver.fields))

    async def close(self) -> None:
        """Close its connections."""
        await self.http.aclose()

    @property
    def base(self) -> str:
        """The gateway's public URL."""
        return self.platform.session.endpoints.http

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good assertion; None takes one away."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": f"{self.base}/token",
            "iat": now,
            "exp": now + 60,
            "jti": str(uuid.uuid4()),
            "extensions": {"dmp": self.statement},
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def assertion(self, **changes: Any) -> str:
        """A signed assertion."""
        return jwt.encode({"alg": "ES256", "kid": self.key.kid}, self.claims(**changes), self.key)

    def form(self, assertion: str | None = None, **fields: str) -> dict[str, str]:
        """A form with client authentication."""
        return {
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion() if assertion is None else assertion,
        } | fields

    async def post(self, path: str, form: dict[str, str]) -> httpx.Response:
        """A form to an OAuth endpoint."""
        return await self.http.post(f"{self.base}{path}", data=form)

    async def token(self, **fields: str) -> str:
        """A platform token by client credentials."""
        answer = await self.post("/token", self.form(grant_type="client_credentials", **fields))
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    # --- somebody signs in ---

    def authorization(self, verifier: str, **changes: str) -> dict[str, str]:
        """The query of a good authorization request; an empty value takes a parameter away."""
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": REDIRECT,
            "scope": "TD0.2 ITI-67 ITI-68",
            "state": "state-" + secrets.token_hex(4),
            "code_challenge": s256(verifier),
            "code_challenge_method": "S256",
        } | changes
        return {name: value for name, value in query.items() if value}

    async def depart(self, **changes: str) -> httpx.Response:
        """The answer of the authorization endpoint."""
        query = self.authorization(changes.pop("verifier", VERIFIER), **changes)
        return await self.http.get(f"{self.base}/authorize", params=query)

    async def signed_in(self, who: str, **changes: str) -> dict[str, str]:
        """What comes back to the software when `who` signs in: a code, or an error."""
        departure = await self.depart(**changes)
        assert departure.status_code == 303, departure.text
        return await self.arrived(await at_provider(self.http, departure.headers["location"], who))

    async def arrived(self, callback: str) -> dict[str, str]:
        """What the gateway sends the browser back to the software with."""
        answer = await self.http.get(callback)
        assert answer.status_code == 303, answer.text
        location = answer.headers["location"]
        assert location.startswith(f"{REDIRECT}?")
        return dict(parse_qsl(urlsplit(location).query))

    async def exchanged(self, code: str, **fields: str) -> httpx.Response:
        """A code for tokens."""
        good = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
        return await self.post("/token", self.form(self.assertion(extensions=None), **good | fields))

    async def refreshed(self, refresh_token: str, **extensions: Any) -> httpx.Response:
        """A refresh token for tokens."""
        assertion = self.assertion(extensions={"dmp": extensions} if extensions else None)
        return await self.post("/token", self.form(assertion, grant_type="refresh_token", refresh_token=refresh_token))


VERIFIER: Final = "a-verifier-of-at-least-forty-three-characters-0123456789"


def s256(verifier: str) -> str:
    """The challenge of a verifier."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def browser(platform: Platform) -> httpx.AsyncClient:
    """A browser that keeps cookies, trusts the local authority and tells where it is sent."""
    authority = CertificateAuthority(platform.state)
    trust = ssl.create_default_context(cafile=str(authority.certificate_path))
    return httpx.AsyncClient(verify=trust, timeout=30, follow_redirects=False)


async def at_provider(http: httpx.AsyncClient, address: str, who: str) -> str:
    """Sign in at the provider's page; where it sends the browser."""
    page = await http.get(address)
    assert page.status_code == 200, page.text
    action = re.search(r'action="([^"]+)"', page.text)
    assert action is not None
    answer = await http.post(address.partition("?")[0] + action[1].replace("&amp;", "&"), data={"who": who})
    assert answer.status_code == 302, answer.text
    location: str = answer.headers["location"]
    return location


__all__ = ["ALL_SCOPES", "CARE_SCOPES", "REDIRECT", "VERIFIER", "Software", "at_provider", "browser", "new_key"]
