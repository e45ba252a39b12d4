"""Attacks on OAuth: each refused with its own error; those of a client that proved who it is are in the trail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import RSAKey

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from ops.demo_platform import demo_cast
from tests.oauth_software import REDIRECT, VERIFIER, Software, at_provider, browser, new_key, s256
from tests.platform_calls import attempt, bearer
from tests.platform_fixture import Platform, eventually, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEARCH: Final = method("SearchDocuments")
PHYSICIAN: Final = demo_cast().professionals[0].idnps


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def software(platform: Platform) -> AsyncIterator[Software]:
    made = await Software.registered(platform)
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def other(platform: Platform) -> AsyncIterator[Software]:
    made = await Software.registered(platform)
    yield made
    await made.close()


async def traced(platform: Platform, place: int, client_id: str, action: str) -> list[audit_pb2.AuditEvent]:
    """The events of a client with this action, from a place of the log on, once there is one."""

    async def look() -> list[audit_pb2.AuditEvent]:
        events = await platform.log_since(place)
        return [each for each in events if each.actor.client_id == client_id and each.action == action]

    return await eventually(look, bool)


# --- the assertion ----------------------------------------------------------------------------------------------------


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def unsigned(software: Software) -> str:
    return f"{encoded({'alg': 'none'})}.{encoded(software.claims())}."


def with_public_key_as_secret(software: Software) -> str:
    """Algorithm confusion: HMAC with what everybody knows."""
    public = json.dumps(software.key.as_dict(private=False), sort_keys=True).encode()
    signed = f"{encoded({'alg': 'HS256', 'kid': software.key.kid})}.{encoded(software.claims())}"
    tag = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"


def with_own_key_in_header(software: Software) -> str:
    """The key comes with the assertion."""
    mine = new_key()
    return jwt.encode({"alg": "ES256", "jwk": mine.as_dict(private=False)}, software.claims(), mine)


def with_known_kid(software: Software) -> str:
    """Key swap: another key under the registered name."""
    return jwt.encode({"alg": "ES256", "kid": software.key.kid}, software.claims(), new_key())


def with_rsa(software: Software) -> str:
    key = RSAKey.generate_key(2048)
    return jwt.encode({"alg": "RS256", "kid": software.key.kid}, software.claims(), key)


def cut(software: Software) -> str:
    return software.assertion()[:-8]


NOW: Final = time.time
ASSERTIONS: Final[dict[str, Callable[[Software], str]]] = {
    "none": unsigned,
    "HMAC with the public key": with_public_key_as_secret,
    "own key in the header": with_own_key_in_header,
    "another key under the known kid": with_known_kid,
    "RSA": with_rsa,
    "cut short": cut,
    "not a JWT": lambda software: "assertion",
    "another client's name": lambda software: software.assertion(iss="demo-software", sub="demo-software"),
    "an unknown client": lambda software: software.assertion(iss="nobody", sub="nobody"),
    "a client id that is a list": lambda software: software.assertion(iss=["demo-software"]),
    "another subject": lambda software: software.assertion(sub="demo-software"),
    "another audience": lambda software: software.assertion(aud="https://elsewhere.test/token"),
    "the audience in a list of lists": lambda software: software.assertion(aud=[[f"{software.base}/token"]]),
    "no audience": lambda software: software.assertion(aud=None),
    "no jti": lambda software: software.assertion(jti=None),
    "a short jti": lambda software: software.assertion(jti="1"),
    "expired": lambda software: software.assertion(iat=int(NOW()) - 400, exp=int(NOW()) - 200),
    "from the future": lambda software: software.assertion(iat=int(NOW()) + 60, exp=int(NOW()) + 120),
    "not begun": lambda software: software.assertion(nbf=int(NOW()) + 60),
    "too long a life": lambda software: software.assertion(exp=int(NOW()) + 3600),
    "without end": lambda software: software.assertion(exp=None),
    "an end that is no number": lambda software: software.assertion(exp="9999999999"),
    "an infinite end": lambda software: software.assertion(exp=1e400),
}


@pytest.mark.parametrize("name", ASSERTIONS)
async def test_a_wrong_assertion_gives_no_token(software: Software, name: str) -> None:
    for path, more in (("/token", {"grant_type": "client_credentials"}), ("/introspect", {"token": "x"})):
        answer = await software.post(path, software.form(ASSERTIONS[name](software), **more))
        assert answer.status_code == 401, answer.text
        assert answer.json()["error"] == "invalid_client"
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("skew", [-3, 3])
async def test_clocks_may_differ_by_a_few_seconds(software: Software, skew: int) -> None:
    now = int(time.time()) + skew
    form = software.form(software.assertion(iat=now, exp=now + 60), grant_type="client_credentials")
    assert (await software.post("/token", form)).status_code == 200


async def test_of_sixteen_that_show_one_assertion_one_gets_a_token(software: Software) -> None:
    form = software.form(grant_type="client_credentials")
    answers = await asyncio.gather(*(software.post("/token", form) for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 15
    late = await software.post("/token", form)
    assert late.status_code == 401
    assert "replayed" in late.json()["error_description"]


@pytest.mark.parametrize(
    "change",
    [
        {"actor": "patient", "subject": "0" * 21, "patient_health_id": 1},
        {"actor": "operator"},
        {"access_mode": "regulation"},
        {"authentication_mode": "indirect"},
        {"access_mode": "break_glass", "break_glass_reason": ""},
    ],
)
async def test_a_client_cannot_state_more_than_it_is_registered_for(
    platform: Platform, software: Software, change: dict[str, Any]
) -> None:
    place = await platform.log_size()
    assertion = software.assertion(extensions={"dmp": {**software.statement, **change}})
    answer = await software.post("/token", software.form(assertion, grant_type="client_credentials"))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "unauthorized_client"
    (event,) = await traced(platform, place, software.client_id, "token.issue")
    assert event.reason == reasons.ERROR_REASON_GRANT_NOT_ALLOWED
    assert event.outcome == audit_pb2.OUTCOME_DENIED


async def test_a_scope_beyond_the_registration_is_refused_and_traced(platform: Platform, software: Software) -> None:
    place = await platform.log_size()
    form = software.form(grant_type="client_credentials", scope="partner.write")
    answer = await software.post("/token", form)
    assert answer.json()["error"] == "invalid_scope"
    assert await traced(platform, place, software.client_id, "token.issue")


# --- the authorization request ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": "https://attacker.test/callback"},
        {"redirect_uri": REDIRECT + "/../x"},
        {"redirect_uri": REDIRECT + "?x=1"},
        {"redirect_uri": ""},
        {"client_id": "nobody"},
        {"client_id": ""},
    ],
)
async def test_a_browser_is_sent_to_no_address_that_is_not_registered(
    software: Software, change: dict[str, str]
) -> None:
    answer = await software.depart(**change)
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "attacker" not in answer.text


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"state": ""}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"scope": "partner.write"}, "invalid_scope"),
    ],
)
async def test_a_weaker_authorization_request_is_refused(
    software: Software, change: dict[str, str], error: str
) -> None:
    answer = await software.depart(**change)
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith(f"{REDIRECT}?error={error}&")
    assert "code=" not in location


async def test_another_browser_cannot_arrive_in_the_place_of_the_one_that_left(
    platform: Platform, software: Software
) -> None:
    """Somebody signs in, and has the victim's browser open the way back: the victim would work as somebody else."""
    departure = await software.depart()
    callback = await at_provider(software.http, departure.headers["location"], PHYSICIAN)
    async with browser(platform) as victim:
        assert (await victim.get(callback)).status_code == 400
    assert (await software.http.get(callback)).status_code == 400, "a state that was shown is spent"


async def test_a_state_of_nobody_is_refused(software: Software) -> None:
    answer = await software.http.get(f"{software.base}/sign-in/callback", params={"state": "x", "code": "y"})
    assert answer.status_code == 400


async def test_whoever_the_provider_does_not_know_gets_no_code(software: Software) -> None:
    back = await software.signed_in("899700000000")
    assert back["error"] == "access_denied"
    assert "code" not in back


async def test_the_answer_of_another_provider_is_refused(software: Software) -> None:
    """Mix-up: the callback says that another issuer answered."""
    departure = await software.depart()
    callback = await at_provider(software.http, departure.headers["location"], PHYSICIAN)
    swapped = callback.partition("&iss=")[0] + "&iss=https://attacker.test"
    back = await software.arrived(swapped)
    assert back["error"] == "access_denied"


# --- the code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"code_verifier": "another-verifier-of-at-least-forty-three-characters-0123"},
        {"code_verifier": ""},
        {"code_verifier": s256(VERIFIER)},
        {"redirect_uri": "https://attacker.test/callback"},
        {"redirect_uri": ""},
        {"scope": "TD0.2 ITI-65"},
    ],
)
async def test_a_code_without_what_was_agreed_gives_no_token(software: Software, change: dict[str, str]) -> None:
    code = (await software.signed_in(PHYSICIAN))["code"]
    answer = await software.exchanged(code, **change)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] in ("invalid_grant", "invalid_request", "invalid_scope")


async def test_a_code_stolen_by_another_client_gives_no_token(software: Software, other: Software) -> None:
    code = (await software.signed_in(PHYSICIAN))["code"]
    stolen = await other.exchanged(code)
    assert stolen.json()["error"] == "invalid_grant"
    assert (await software.exchanged(code)).status_code == 200, "the thief has not spoilt it"


async def test_a_code_used_twice_ends_what_it_gave(platform: Platform, software: Software) -> None:
    patient = await platform.patient()
    code = (await software.signed_in(PHYSICIAN))["code"]
    first = (await software.exchanged(code)).json()
    place = await platform.log_size()
    again = await software.exchanged(code)
    assert again.json()["error"] == "invalid_grant"
    (event,) = await traced(platform, place, software.client_id, "session.theft")
    assert event.reason == reasons.ERROR_REASON_TOKEN_REVOKED
    request = document_pb2.SearchDocumentsRequest(parent=patient.dossier)
    refused = await attempt(platform.channel("relay", SEARCH), SEARCH, request, bearer(first["access_token"]))
    assert refused is not None
    assert refused.reason_name == "TOKEN_REVOKED"
    assert (await software.refreshed(first["refresh_token"])).json()["error"] == "invalid_grant"


async def test_of_eight_that_show_one_code_one_at_most_gets_tokens_and_none_keeps_them(software: Software) -> None:
    code = (await software.signed_in(PHYSICIAN))["code"]
    answers = await asyncio.gather(*(software.exchanged(code) for _ in range(8)))
    given = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(given) == 1
    assert (await software.refreshed(given[0]["refresh_token"])).status_code == 400


# --- the refresh token ------------------------------------------------------------------------------------------------


async def test_a_stolen_refresh_token_is_found_out_and_ends_the_session(platform: Platform, software: Software) -> None:
    tokens = (await software.exchanged((await software.signed_in(PHYSICIAN))["code"])).json()
    rightful = (await software.refreshed(tokens["refresh_token"])).json()
    place = await platform.log_size()
    thief = await software.refreshed(tokens["refresh_token"])
    assert thief.json()["error"] == "invalid_grant"
    assert await traced(platform, place, software.client_id, "session.theft")
    assert (await software.refreshed(rightful["refresh_token"])).json()["error"] == "invalid_grant"
    answer = await software.post("/introspect", software.form(token=rightful["access_token"]))
    assert answer.json() == {"active": False}


async def test_a_refresh_token_is_of_its_client_alone_and_gives_no_more_than_before(
    software: Software, other: Software
) -> None:
    tokens = (await software.exchanged((await software.signed_in(PHYSICIAN))["code"])).json()
    assert (await other.refreshed(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    form = software.form(
        software.assertion(extensions=None),
        grant_type="refresh_token",
        refresh_token=tokens["refresh_token"],
        scope="TD0.2 ITI-65",
    )
    assert (await software.post("/token", form)).json()["error"] == "invalid_scope"
    assert (await software.refreshed("0" * 32 + "." + "A" * 43)).json()["error"] == "invalid_grant"
    assert (await software.refreshed("x")).json()["error"] == "invalid_grant"
    assert (await software.refreshed(tokens["refresh_token"])).status_code == 200


# --- forms ------------------------------------------------------------------------------------------------------------


async def test_a_form_that_says_something_twice_is_refused(software: Software) -> None:
    body = "grant_type=client_credentials&grant_type=refresh_token"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await software.http.post(f"{software.base}/token", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_request"


async def test_no_password_and_no_implicit_grant(software: Software) -> None:
    for grant in ("password", "implicit", "urn:ietf:params:oauth:grant-type:token-exchange", ""):
        answer = await software.post("/token", software.form(grant_type=grant))
        assert answer.json()["error"] == "unsupported_grant_type"


async def test_what_a_form_never_shows_is_a_cause_or_a_stack(software: Software) -> None:
    for body in (b"\xff\xfe", b"a" * 100_000, b"&".join(b"a%d=1" % n for n in range(100)), b""):
        for content_type in ("application/x-www-form-urlencoded", "application/json", "text/plain"):
            headers = {"content-type": content_type}
            answer = await software.http.post(f"{software.base}/token", content=body, headers=headers)
            assert 400 <= answer.status_code < 500
            assert "Traceback" not in answer.text
