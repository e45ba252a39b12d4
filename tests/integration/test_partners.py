"""Partners: registered within their approval, watched, their keys rotated, and stopped in an instant."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf import json_format
from grpc_reflection.v1alpha import reflection_pb2

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from ops.local.registrations import INTERNAL
from ops.partners import Partners
from ops.session import Statement
from services.runtime.errors import DmpError
from tests.oauth_software import CARE_SCOPES, Software, key_set, new_key, partner_message
from tests.platform_calls import attempt, bearer, invoke, refusal_of
from tests.platform_fixture import Platform, eventually, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEARCH: Final = method("SearchDocuments")
CHECK: Final = method("GetDossier")
SERVICES: Final = {"gateway", "identity", "consent", "document", "audit"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def partners(platform: Platform) -> Partners:
    return Partners(platform.session)


async def refused(work: object) -> DmpError:
    with pytest.raises(DmpError) as caught:
        await work  # type: ignore[misc]
    return caught.value


# --- registrations ----------------------------------------------------------------------------------------------------


async def test_a_registration_is_shown_as_it_was_made_and_traced(platform: Platform, partners: Partners) -> None:
    place = await platform.log_size()
    key = new_key()
    message = partner_message("vendor-shown", key, quota=pb.Quota(requests_per_second=5, burst=10, batch_share=0.5))
    made = await partners.register(message)
    shown = await partners.show("vendor-shown")
    assert shown.partner == made.partner
    assert shown.partner.vendor == message.vendor
    assert shown.partner.quota == message.quota
    assert set(shown.partner.scopes) == set(CARE_SCOPES)
    assert [each["kid"] for each in json.loads(shown.partner.jwks)["keys"]] == [key.kid]
    assert not shown.suspended
    assert not shown.declared
    assert "vendor-shown" in {state.partner.client_id for state in await partners.all()}

    async def look() -> list[audit_pb2.AuditEvent]:
        return [event for event in await platform.log_since(place) if event.action == "partner.register"]

    (event,) = await eventually(look, bool)
    assert list(event.objects) == ["partners/vendor-shown"]
    assert event.actor.actor_kind == context_pb2.ACTOR_KIND_OPERATOR


SYSTEM = pb.Bounds(actors=[context_pb2.ACTOR_KIND_SYSTEM])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"profiles": []}, "partner.profiles"),
        ({"profiles": [pb.APPROVAL_PROFILE_CONSULTATION], "scopes": ["ITI-65"]}, "partner.scopes"),
        ({"scopes": ["partner.write"]}, "partner.scopes"),
        ({"scopes": ["no-such-scope"]}, "partner.scopes"),
        ({"redirect_uris": ["http://attacker.test/"]}, "partner"),
        ({"redirect_uris": ["https://x.test/#fragment"]}, "partner"),
        ({"redirect_uris": []}, "partner"),
        ({"jwks": '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "x"}]}'}, "partner.jwks"),
        ({"jwks": '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "x"}]}'}, "partner.jwks"),
        ({"jwks": "no json"}, "partner.jwks"),
        ({"jwks": json.dumps({"keys": [new_key().as_dict(private=True)]})}, "partner.jwks"),
        ({"takes_over_hosts": ["north"]}, "partner"),
        ({"takes_over_hosts": ["north"], "bounds": SYSTEM, "scopes": ["host.import", "ITI-104"]}, "partner"),
        ({"takes_over_hosts": ["../north"]}, "partner.takes_over_hosts[0]"),
        ({"client_id": "a b"}, "partner.client_id"),
        ({"quota": pb.Quota(requests_per_second=-1, burst=1)}, "partner.quota.requests_per_second"),
    ],
)
async def test_what_an_approval_does_not_allow_is_not_registered(
    partners: Partners, change: dict[str, object], field: str
) -> None:
    error = await refused(partners.register(partner_message("vendor-refused", new_key(), **change)))
    assert error.reason == reasons.ERROR_REASON_INVALID_FIELD
    assert [violation.field for violation in error.fields] == [field]
    missing = await refused(partners.show("vendor-refused"))
    assert missing.reason == reasons.ERROR_REASON_PARTNER_NOT_FOUND


async def test_registering_twice_needs_to_be_meant_and_a_declared_client_is_not_ours_to_change(
    partners: Partners,
) -> None:
    message = partner_message("vendor-twice", new_key())
    await partners.register(message)
    assert (await refused(partners.register(message))).reason == reasons.ERROR_REASON_PARTNER_ALREADY_EXISTS
    message.vendor = "Another name"
    assert (await partners.register(message, replace=True)).partner.vendor == "Another name"
    declared = partner_message(INTERNAL, new_key())
    error = await refused(partners.register(declared, replace=True))
    assert error.reason == reasons.ERROR_REASON_PARTNER_DECLARED


async def test_a_retry_changes_nothing_and_gets_the_same_answer(partners: Partners) -> None:
    request = pb.RegisterPartnerRequest(partner=partner_message("vendor-retry", new_key()), request_id="retry-1")
    first = await partners.call("RegisterPartner", request, pb.RegisterPartnerResponse)
    assert await partners.call("RegisterPartner", request, pb.RegisterPartnerResponse) == first
    request.partner.vendor = "Another"
    error = await refused(partners.call("RegisterPartner", request, pb.RegisterPartnerResponse))
    assert error.reason == reasons.ERROR_REASON_REQUEST_ID_REUSED


async def test_nobody_but_an_operator_keeps_registrations(platform: Platform) -> None:
    """Not with another's certificate, not with another's token, not through the relay."""
    software = await Software.registered(platform)
    path = "/dmp.gateway.v1.PartnerService/SuspendPartner"
    request = pb.SuspendPartnerRequest(client_id=INTERNAL, reason="attack", request_id="x")
    token = await software.token()
    with pytest.raises(grpc.aio.AioRpcError) as by_relay:
        await invoke(platform.session.channel("relay"), path, request, bearer(token))
    assert by_relay.value.code() is grpc.StatusCode.UNIMPLEMENTED
    internal = await platform.session.token(Statement(INTERNAL, platform.caregiver().statement().fields))
    for each in (token, internal):
        with pytest.raises(grpc.aio.AioRpcError) as direct:
            await invoke(platform.session.channel("operators", INTERNAL), path, request, bearer(each))
        assert refusal_of(direct.value).code in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        )
    await software.close()


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_are_rotated_without_a_gap(platform: Platform, partners: Partners) -> None:
    software = await Software.registered(platform)
    old, fresh = software.key, new_key()
    await software.token()
    await partners.rotate(software.client_id, key_set(fresh))
    await software.token()
    software.key = fresh
    await software.token()
    state = await partners.rotate(software.client_id, retire=[old.kid or ""])
    assert [key["kid"] for key in json.loads(state.partner.jwks)["keys"]] == [fresh.kid]
    await software.token()
    software.key = old
    answer = await software.post("/token", software.form(grant_type="client_credentials"))
    assert answer.status_code == 401
    await software.close()


# --- suspension -------------------------------------------------------------------------------------------------------


async def test_a_suspended_partner_with_a_living_token_is_refused_at_once_everywhere(
    platform: Platform, partners: Partners
) -> None:
    patient = await platform.patient()
    software = await Software.registered(platform)
    token = await software.token()
    request = document_pb2.SearchDocumentsRequest(parent=patient.dossier)
    channel = platform.channel("relay", SEARCH)
    before = await attempt(channel, SEARCH, request, bearer(token))
    assert before is None or before.reason != reasons.ERROR_REASON_CLIENT_SUSPENDED
    place = await platform.log_size()
    answer = await partners.suspend(software.client_id, "contract ended")
    assert {effect.service for effect in answer.effects} == SERVICES
    assert all(effect.acknowledged and effect.answered == effect.processes >= 1 for effect in answer.effects)
    assert answer.state.suspended
    assert answer.state.suspend_reason == "contract ended"
    assert answer.tokens_end.seconds > time.time()
    error = await attempt(channel, SEARCH, request, bearer(token, "suspended-1"))
    assert error is not None
    assert error.reason == reasons.ERROR_REASON_CLIENT_SUSPENDED
    events = [event for event in await platform.log_since(place) if event.request_id == "suspended-1"]
    assert [event.reason for event in events] == [reasons.ERROR_REASON_CLIENT_SUSPENDED]
    over_http = await software.http.get(
        f"{software.base}/DocumentReference", headers={"authorization": f"Bearer {token}"}
    )
    assert over_http.status_code == 403
    assert (await software.post("/token", software.form(grant_type="client_credentials"))).status_code == 401
    assert (await software.depart()).status_code == 400
    await partners.resume(software.client_id)
    after = await attempt(channel, SEARCH, request, bearer(token))
    assert after is None or after.reason != reasons.ERROR_REASON_CLIENT_SUSPENDED
    await software.close()


async def test_an_internal_system_that_is_suspended_is_refused_by_the_services_themselves(
    platform: Platform, partners: Partners
) -> None:
    """It does not pass the gateway: only the denial list of the services stops its living token."""
    patient = await platform.patient()
    token = await platform.session.token(Statement(INTERNAL, patient.caregiver.statement().fields))
    request = consent_pb2.GetDossierRequest(name=patient.dossier)
    channel = platform.channel("direct", CHECK, INTERNAL)
    assert await attempt(channel, CHECK, request, bearer(token)) is None
    await partners.suspend(INTERNAL, "compromised")
    try:
        error = await attempt(channel, CHECK, request, bearer(token))
        assert error is not None
        assert error.reason == reasons.ERROR_REASON_CLIENT_SUSPENDED
    finally:
        answer = await partners.resume(INTERNAL)
    assert all(effect.acknowledged for effect in answer.effects)
    assert await attempt(channel, CHECK, request, bearer(token)) is None


async def test_no_request_that_begins_after_a_suspension_is_served(platform: Platform, partners: Partners) -> None:
    """Sixteen callers never stop asking; the moment the suspension is answered splits their calls."""
    patient = await platform.patient()
    software = await Software.registered(platform)
    token = await software.token()
    channel = platform.channel("relay", CHECK)
    request = consent_pb2.GetDossierRequest(name=patient.dossier)
    calls: list[tuple[float, bool]] = []
    going = True

    async def ask() -> None:
        while going:
            began = time.monotonic()
            error = await attempt(channel, CHECK, request, bearer(token))
            suspended = error is not None and error.reason == reasons.ERROR_REASON_CLIENT_SUSPENDED
            calls.append((began, not suspended))

    asking = [asyncio.create_task(ask()) for _ in range(16)]
    await asyncio.sleep(0.5)
    await partners.suspend(software.client_id, "now")
    answered = time.monotonic()
    await asyncio.sleep(0.5)
    going = False
    await asyncio.gather(*asking)
    assert any(served for _, served in calls)
    after = [served for began, served in calls if began > answered]
    assert after
    assert not any(after)
    await software.close()


# --- usage, reflection, certificates ----------------------------------------------------------------------------------


async def test_what_a_partner_did_is_counted_for_it_and_for_the_operator(
    platform: Platform, partners: Partners
) -> None:
    patient = await platform.patient()
    software = await Software.registered(platform)
    other = await Software.registered(platform)
    token = await software.token()
    channel = platform.channel("relay", CHECK)
    request = consent_pb2.GetDossierRequest(name=patient.dossier)
    for _ in range(3):
        await attempt(channel, CHECK, request, bearer(token))
    await attempt(channel, CHECK, consent_pb2.GetDossierRequest(name="dossiers/x"), bearer(token))
    await software.http.get(f"{software.base}/Patient/x", headers={"authorization": f"Bearer {token}"})

    async def look() -> dict[tuple[str, str], int]:
        rows = await partners.usage(software.client_id)
        return {(row.transaction, row.outcome): row.count for row in rows}

    counted = await eventually(look, lambda seen: ("GET Patient", "refused") in seen, seconds=20)
    assert counted[("GetDossier", "ok")] == 3
    assert counted[("GetDossier", "refused")] == 1
    assert counted[("GET Patient", "refused")] == 1
    path = "/dmp.gateway.v1.PartnerService/GetPartnerUsage"
    relay = platform.session.channel("relay")
    (own,) = await invoke(relay, path, pb.GetPartnerUsageRequest(), bearer(token))
    assert {row.client_id for row in pb.GetPartnerUsageResponse.FromString(own).rows} == {software.client_id}
    with pytest.raises(grpc.aio.AioRpcError) as foreign:
        await invoke(relay, path, pb.GetPartnerUsageRequest(client_id=other.client_id), bearer(token))
    assert refusal_of(foreign.value).reason == reasons.ERROR_REASON_PARTNER_NOT_FOUND
    await software.close()
    await other.close()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_for_those_allowed(platform: Platform, version: str) -> None:
    allowed = await Software.registered(platform, reflection=True)
    plain = await Software.registered(platform)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    listed = await reflect(platform, version, asked, await allowed.token())
    names = {service.name for service in listed.list_services_response.service}
    assert "dmp.document.v1.DocumentService" in names
    assert "dmp.gateway.v1.DenialService" not in names
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="dmp.document.v1.DocumentService")
    described = await reflect(platform, version, asked, await allowed.token())
    assert described.file_descriptor_response.file_descriptor_proto
    for token, reason in (
        (await plain.token(), reasons.ERROR_REASON_CALLER_NOT_ALLOWED),
        ("", reasons.ERROR_REASON_TOKEN_MISSING),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused_:
            await reflect(platform, version, None, token)
        assert refusal_of(refused_.value).reason == reason
    await allowed.close()
    await plain.close()


async def reflect(
    platform: Platform, version: str, asked: reflection_pb2.ServerReflectionRequest | None, token: str
) -> reflection_pb2.ServerReflectionResponse:
    stream = platform.session.channel("relay").stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = stream(metadata=tuple(bearer(token)) if token else (), timeout=20)
    if asked is not None:
        await call.write(asked)
    with suppress(grpc.aio.AioRpcError):  # it may be refused by then
        await call.done_writing()  # behind the native transport an answer waits for the end of the questions
    answer = await call.read()
    call.cancel()
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return answer


# --- the command ------------------------------------------------------------------------------------------------------


async def test_the_command_registers_shows_suspends_and_counts(platform: Platform, tmp_path: Path) -> None:
    described = json_format.MessageToDict(
        partner_message("vendor-by-command", new_key()), preserving_proto_field_name=True
    )
    file = tmp_path / "registration.json"
    file.write_text(json.dumps(described))

    async def dmp(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ops.cli",
            *arguments,
            env={**os.environ, "DMP_STATE": str(platform.state.root), "COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    assert "vendor-by-command" in await dmp("partner", "register", str(file))
    assert "vendor-by-command" in await dmp("partner", "show")
    suspended = await dmp("partner", "suspend", "vendor-by-command", "--reason", "trial over")
    assert "not acknowledged" not in suspended
    assert suspended.count(" now") >= len(SERVICES)
    assert "suspended" in await dmp("partner", "show", "vendor-by-command")
    await dmp("partner", "resume", "vendor-by-command")
    (first,), second = json.loads(described["jwks"])["keys"], new_key()
    added = tmp_path / "keys.json"
    added.write_text(key_set(second))
    both = await dmp("partner", "rotate", "vendor-by-command", "--jwks", str(added))
    assert first["kid"] in both
    assert str(second.kid) in both
    left = await dmp("partner", "rotate", "vendor-by-command", "--retire", first["kid"])
    assert first["kid"] not in left
    assert str(second.kid) in left
    assert "operation" in await dmp("partner", "usage", "vendor-by-command")
