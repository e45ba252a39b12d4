"""Introspection, revocation, the mutual-TLS port, key rotation: what is said of a token is what happens to it."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
import pytest_asyncio
from joserfc.jws import extract_compact

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from ops.demo_platform import demo_cast
from ops.local.keys import retire_token_key, rotate_token_key
from ops.local.pki import CertificateAuthority, Identity
from ops.local.registrations import INTERNAL, OPERATOR
from tests.oauth_software import Software
from tests.platform_calls import attempt, bearer
from tests.platform_fixture import Patient, Platform, eventually, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECK: Final = method("GetDossier")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def software(platform: Platform) -> AsyncIterator[Software]:
    made = await Software.registered(platform)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def patient(platform: Platform) -> Patient:
    return await platform.patient()


async def asked(platform: Platform, patient: Patient, token: str, way: str = "relay") -> int | None:
    """The reason by which a call with a token is refused; None when it is served."""
    request = consent_pb2.GetDossierRequest(name=patient.dossier)
    error = await attempt(platform.channel(way, CHECK), CHECK, request, bearer(token))
    return None if error is None else error.reason


async def test_introspection_tells_what_a_token_says_to_its_client_alone(
    platform: Platform, software: Software
) -> None:
    token = await software.token(scope="TD0.2")
    told = (await software.post("/introspect", software.form(token=token))).json()
    assert told["active"] is True
    assert told["client_id"] == software.client_id
    assert told["scope"] == "TD0.2"
    assert told["sub"] == software.statement["subject"]
    assert 0 < told["exp"] - time.time() <= 305
    assert told["extensions"]["ihe_iua"]["subject_role"]
    other = await Software.registered(platform)
    assert (await other.post("/introspect", other.form(token=token))).json() == {"active": False}
    for wrong in ("x", "a.b.c", token[:-4], "0" * 32 + "." + "A" * 43):
        assert (await software.post("/introspect", software.form(token=wrong))).json() == {"active": False}
    assert (await software.post("/introspect", software.form())).status_code == 400
    await other.close()


async def test_a_revoked_token_is_refused_at_its_next_call(
    platform: Platform, software: Software, patient: Patient
) -> None:
    token, kept = await software.token(), await software.token()
    assert await asked(platform, patient, token) is None
    other = await Software.registered(platform)
    assert (await other.post("/revoke", other.form(token=token))).status_code == 200
    assert await asked(platform, patient, token) is None, "another client's revocation does nothing"
    assert (await software.post("/revoke", software.form(token=token))).status_code == 200
    assert await asked(platform, patient, token) == reasons.ERROR_REASON_TOKEN_REVOKED
    assert (await software.post("/introspect", software.form(token=token))).json() == {"active": False}
    assert await asked(platform, patient, kept) is None
    assert (await software.post("/revoke", software.form(token="unknown"))).status_code == 200
    await other.close()


async def test_revoking_a_refresh_token_ends_the_session_and_its_tokens(
    platform: Platform, software: Software, patient: Patient
) -> None:
    code = (await software.signed_in(demo_cast().professionals[0].idnps))["code"]
    tokens = (await software.exchanged(code)).json()
    told = (await software.post("/introspect", software.form(token=tokens["refresh_token"]))).json()
    assert told["active"] is True
    assert (await software.post("/revoke", software.form(token=tokens["refresh_token"]))).status_code == 200
    assert await asked(platform, patient, tokens["access_token"]) == reasons.ERROR_REASON_TOKEN_REVOKED
    assert (await software.refreshed(tokens["refresh_token"])).json()["error"] == "invalid_grant"


# --- mutual TLS -------------------------------------------------------------------------------------------------------


def with_certificate(platform: Platform, identity: Identity | None) -> httpx.AsyncClient:
    authority = CertificateAuthority(platform.state)
    trust = ssl.create_default_context(cafile=str(authority.certificate_path))
    if identity is not None:
        trust.load_cert_chain(identity.certificate, identity.key)
    return httpx.AsyncClient(base_url=platform.session.endpoints.mutual_tls, verify=trust, timeout=20)


def by_certificate(client_id: str) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "extensions": '{"dmp": {"actor": "system", "subject": "demo-registry"}}',
    }


async def test_an_internal_system_gets_a_token_with_its_certificate(platform: Platform) -> None:
    async with with_certificate(platform, platform.stack.internal(INTERNAL)) as http:
        answer = await http.post("/token", data=by_certificate(INTERNAL))
        assert answer.status_code == 200, answer.text
        told = await http.post("/introspect", data={"client_id": INTERNAL, "token": answer.json()["access_token"]})
        assert told.json()["active"] is True
        assert (await http.get("/token")).status_code == 405
        assert (await http.post("/Patient")).status_code == 404


@pytest.mark.parametrize("client_id", [OPERATOR, "demo-software", "nobody", ""])
async def test_a_certificate_stands_for_its_own_client_alone(platform: Platform, client_id: str) -> None:
    async with with_certificate(platform, platform.stack.internal(INTERNAL)) as http:
        answer = await http.post("/token", data=by_certificate(client_id))
        assert answer.status_code == 401
        assert answer.json()["error"] == "invalid_client"


async def test_without_a_certificate_that_port_does_not_speak(platform: Platform) -> None:
    async with with_certificate(platform, None) as http:
        with pytest.raises(httpx.HTTPError):
            await http.post("/token", data=by_certificate(INTERNAL))


async def test_a_certificate_is_nothing_on_the_other_port(platform: Platform, software: Software) -> None:
    answer = await software.post("/token", by_certificate(INTERNAL))
    assert answer.status_code == 401


# --- the platform's own keys ------------------------------------------------------------------------------------------


async def test_the_signing_key_is_rotated_while_tokens_are_asked_for(
    platform: Platform, software: Software, patient: Patient
) -> None:
    """No token is refused on its account; a retired key's tokens are, at once.

    Twice: tokens of the first key are kept by others of this run, so the one that is retired is the second.
    """

    async def signed_with() -> str:
        token = await software.token()
        assert await asked(platform, patient, token) is None
        return str(extract_compact(token.encode()).headers()["kid"])

    first = await software.token()
    second_key = rotate_token_key(platform.state).kid
    assert await eventually(signed_with, lambda kid: kid == second_key, seconds=60) == second_key
    assert await asked(platform, patient, first) is None
    second = await software.token()
    third_key = rotate_token_key(platform.state).kid
    assert await eventually(signed_with, lambda kid: kid == third_key, seconds=60) == third_key
    published = (await software.http.get(f"{software.base}/jwks")).json()["keys"]
    assert {key["kid"] for key in published} >= {second_key, third_key}
    assert await asked(platform, patient, second) is None
    retire_token_key(platform.state, second_key)

    async def retired() -> int | None:
        return await asked(platform, patient, second)

    reason = await eventually(retired, lambda seen: seen is not None, seconds=60)
    assert reason == reasons.ERROR_REASON_TOKEN_INVALID
    assert await asked(platform, patient, first) is None
    assert await asked(platform, patient, await software.token()) is None
