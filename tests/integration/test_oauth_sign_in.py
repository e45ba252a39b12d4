"""People sign in through the OpenID provider: what they told there, and what software adds, is in the token."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from joserfc.jws import extract_compact

from dmp.common.v1 import access_pb2, context_pb2
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from ops.demo_platform import demo_cast
from services.runtime.identifiers import format_health_id
from tests.oauth_software import REDIRECT, Software
from tests.platform_calls import attempt, bearer, claims_of
from tests.platform_fixture import Platform, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEARCH = method("SearchDocuments")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def software(platform: Platform) -> AsyncIterator[Software]:
    made = await Software.registered(platform)
    yield made
    await made.close()


def payload(token: str) -> dict[str, Any]:
    return json.loads(extract_compact(token.encode()).payload)  # type: ignore[no-any-return]


async def test_a_professional_signs_in_and_the_token_says_who_and_where(software: Software) -> None:
    physician, structure = demo_cast().professionals[0], demo_cast().structures[0]
    back = await software.signed_in(physician.idnps, state="my-state")
    assert back["state"] == "my-state"
    assert back["iss"] == software.base
    answer = await software.exchanged(back["code"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["scope"] == "ITI-67 ITI-68 TD0.2"
    assert body["expires_in"] <= 300
    actor = claims_of(body["access_token"])
    assert actor.subject == physician.idnps
    assert actor.subject_name == f"{physician.given} {physician.family}"
    assert actor.profession == "10"
    assert actor.specialty == physician.specialty.code
    assert actor.structure == structure.idnst
    assert actor.structure_name == structure.name
    assert actor.authentication_mode == context_pb2.AUTHENTICATION_MODE_DIRECT
    assert actor.software.approval_number == "TEST-1"
    assert actor.client_id == software.client_id
    iua = payload(body["access_token"])["extensions"]["ihe_iua"]
    assert iua["subject_name"] == actor.subject_name
    assert iua["subject_role"][0]["code"] == "10"
    assert iua["purpose_of_use"][0]["code"] == "TREAT"
    assert iua["subject_organization_id"].endswith(structure.idnst)


async def test_a_refresh_token_gives_the_next_and_may_change_the_mode(platform: Platform, software: Software) -> None:
    patient = await platform.patient()
    physician = demo_cast().professionals[0]
    first = (await software.exchanged((await software.signed_in(physician.idnps))["code"])).json()
    answer = await software.refreshed(
        first["refresh_token"],
        access_mode="break_glass",
        break_glass_reason="Patient inconscient",
        purpose_of_use="BTG",
        patient_health_id=patient.health_id,
    )
    assert answer.status_code == 200, answer.text
    second = answer.json()
    assert second["refresh_token"] != first["refresh_token"]
    actor = claims_of(second["access_token"])
    assert actor.access_mode == context_pb2.ACCESS_MODE_BREAK_GLASS
    assert actor.break_glass_reason == "Patient inconscient"
    assert actor.patient_health_id == patient.health_id
    assert actor.subject == physician.idnps
    request = document_pb2.SearchDocumentsRequest(parent=patient.dossier)
    channel = platform.channel("relay", SEARCH)
    assert await attempt(channel, SEARCH, request, bearer(second["access_token"])) is None


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({"subject": "899700000009"}, "subject"),
        ({"profession": "21"}, "profession"),
        ({"structure": "1990000999"}, "structure"),
        ({"actor": "structure"}, "actor"),
        ({"authentication_mode": "indirect"}, "authentication_mode"),
        ({"access_mode": "break_glass"}, "break_glass_reason"),
        ({"access_mode": "regulation"}, "access_mode"),
    ],
)
async def test_software_cannot_make_somebody_else_of_who_signed_in(
    software: Software, stated: dict[str, str], field: str
) -> None:
    midwife = next(each for each in demo_cast().professionals if each.profession_code == "50")
    code = (await software.signed_in(midwife.idnps))["code"]
    assertion = software.assertion(extensions={"dmp": stated})
    fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
    form = software.form(assertion, **fields, code_verifier="a-verifier-of-at-least-forty-three-characters-0123456789")
    answer = await software.post("/token", form)
    assert answer.status_code == 400, answer.text
    assert field in answer.json()["error_description"]


async def test_a_patient_signs_in_and_reads_the_own_dossier_alone(platform: Platform) -> None:
    patient, other = await platform.patient(), await platform.patient()
    portal = await Software.registered(
        platform,
        login=pb.LOGIN_REALM_PATIENTS,
        bounds=pb.Bounds(actors=[context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE]),
    )
    back = await portal.signed_in(format_health_id(patient.health_id))
    answer = await portal.exchanged(back["code"])
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    actor = claims_of(token)
    assert actor.actor_kind == context_pb2.ACTOR_KIND_PATIENT
    assert actor.caller == access_pb2.CALLER_KIND_PATIENT
    assert actor.patient_health_id == patient.health_id
    channel = platform.channel("relay", SEARCH)
    own = document_pb2.SearchDocumentsRequest(parent=patient.dossier)
    assert await attempt(channel, SEARCH, own, bearer(token)) is None
    foreign = document_pb2.SearchDocumentsRequest(parent=other.dossier)
    refused = await attempt(channel, SEARCH, foreign, bearer(token))
    assert refused is not None
    assert refused.reason_name == "TOKEN_PATIENT_MISMATCH"
    stated = await portal.refreshed(answer.json()["refresh_token"], patient_health_id=other.health_id)
    representative = claims_of(stated.json()["access_token"])
    assert representative.actor_kind == context_pb2.ACTOR_KIND_REPRESENTATIVE
    assert representative.subject == format_health_id(patient.health_id)
    await portal.close()


async def test_the_metadata_is_true(software: Software) -> None:
    metadata = (await software.http.get(f"{software.base}/.well-known/oauth-authorization-server")).json()
    assert metadata["issuer"] == software.base
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    assert set(metadata["grant_types_supported"]) == {"authorization_code", "client_credentials", "refresh_token"}
    for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
        answer = await software.http.post(metadata[name], data={})
        assert answer.status_code in (400, 401), name
    assert (await software.http.get(metadata["authorization_endpoint"])).status_code == 400
    assert (await software.http.get(metadata["jwks_uri"])).json()["keys"]
