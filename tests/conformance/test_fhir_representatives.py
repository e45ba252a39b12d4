"""A registered representative signs in and reads a child's dossier over FHIR: what she is shown, and what she is not.

The mother is registered by the physician, signs in at the patients' provider and chooses whose dossier she means. What
the physician does in a secret connection, and what is hidden from representatives, is not there for her; it is for the
child in person.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest

from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2
from dmp.gateway.v1 import partner_pb2 as pb
from ops.session import Statement
from services.runtime.identifiers import format_health_id, person_name
from tests.conformance.fhir_day import FLAGS
from tests.conformance.fhir_http import Http, of, simplified
from tests.conformance.fhir_platform import issues, parsed, reason_of
from tests.conformance.fhir_samples import Json
from tests.oauth_software import Software
from tests.platform_calls import bearer, invoke
from tests.platform_fixture import Patient, Platform, eventually, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

HIDDEN: Final = {"coding": [{"system": FLAGS, "code": "INVISIBLE_REPRESENTANTS_LEGAUX"}]}
SECRET: Final = {"secret_connection": True}


class Portal:
    """The portal with somebody signed in, who reads the dossier of a child."""

    def __init__(self, software: Software, child: Patient, token: str) -> None:
        self._software = software
        self._child = child
        self._token = token

    @classmethod
    async def signed_in(cls, platform: Platform, who: Patient, child: Patient) -> Portal:
        """Sign in at the provider, then say whose dossier is meant."""
        software = await Software.registered(
            platform,
            login=pb.LOGIN_REALM_PATIENTS,
            bounds=pb.Bounds(actors=[context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE]),
        )
        scope = "TD0.2 TD1.6 ITI-67 ITI-68 ITI-81"
        back = await software.signed_in(format_health_id(who.health_id), scope=scope)
        first = await software.exchanged(back["code"])
        assert first.status_code == 200, first.text
        chosen = await software.refreshed(first.json()["refresh_token"], patient_health_id=child.health_id)
        assert chosen.status_code == 200, chosen.text
        return cls(software, child, chosen.json()["access_token"])

    async def get(self, path: str, **parameters: str) -> httpx.Response:
        """A request of theirs."""
        url = path if path.startswith("http") else f"{self._software.base}/{path}"
        headers = {"Authorization": f"Bearer {self._token}"}
        return await self._software.http.get(url, params=parameters or None, headers=headers)

    async def entries(self, path: str, **more: str) -> list[Json]:
        """What a search about the child finds, each valid FHIR."""
        answer = await self.get(path, **{"patient.identifier": self._child.identifier, **more})
        assert answer.status_code == 200, answer.text
        parsed(answer.json())
        return [each["resource"] for each in answer.json().get("entry", ())]

    async def close(self) -> None:
        """Close its connections."""
        await self._software.close()


async def register(platform: Platform, child: Patient, mother: Patient) -> None:
    """The physician saw the documents that prove it."""
    request = consent_pb2.RegisterRepresentativeRequest(
        parent=child.dossier,
        person=person_name(mother.health_id),
        kind=consent_pb2.REPRESENTATION_KIND_GUARDIAN,
        documents_seen=True,
    )
    await call(platform, "RegisterRepresentative", request, child.caregiver.statement())


async def call(platform: Platform, name: str, request: Any, statement: Statement) -> None:
    access = method(name)
    request.request_id = platform.request_id()
    token = await platform.session.token(statement)
    await invoke(platform.channel("relay", access), access.path, request, bearer(token))


async def traces(portal: Portal) -> list[str]:
    """The subtypes of the trail as FHIR shows it."""
    found = await portal.entries("AuditEvent", date="ge2020-01-01", _count="200")
    return [code["code"] for each in found for code in each["subtype"]]


async def test_a_representative_reads_the_dossier_and_nothing_that_is_hidden_from_her(platform: Platform) -> None:
    child, mother = await platform.patient(), await platform.patient()
    shown = (await of(platform, child).send("POST", "DocumentReference", simplified(child, 1))).json()
    hidden = (
        await of(platform, child).send("POST", "DocumentReference", simplified(child, 2, securityLabel=[HIDDEN]))
    ).json()
    before = await Portal.signed_in(platform, mother, child)
    refused = await before.get("DocumentReference", **{"patient.identifier": child.identifier})
    assert reason_of(issues(refused, 403)[0]) == "REPRESENTATION_MISSING"
    await register(platform, child, mother)

    portal = await Portal.signed_in(platform, mother, child)
    assert [each["id"] for each in await portal.entries("DocumentReference")] == [shown["id"]]
    content = await portal.get(shown["content"][0]["attachment"]["url"])
    assert content.content == child.cda(seed=1)
    absent = await portal.get(f"DocumentReference/{'a' * 64}")
    for path in (f"DocumentReference/{hidden['id']}", hidden["content"][0]["attachment"]["url"]):
        answer = await portal.get(path)
        assert answer.status_code == absent.status_code == 404
        assert answer.headers.keys() >= absent.headers.keys()
    own = Http(platform, Statement.patient(child.health_id))
    seen = await own.send("GET", "DocumentReference", **{"patient.identifier": child.identifier})
    assert seen.json()["total"] == 2
    foreign = await portal.get("DocumentReference", **{"patient.identifier": mother.identifier})
    assert reason_of(issues(foreign, 403)[0]) == "TOKEN_PATIENT_MISMATCH"
    for each in (before, portal):
        await each.close()


async def test_what_was_done_in_a_secret_connection_is_in_no_trace_that_she_reads(platform: Platform) -> None:
    child, mother = await platform.patient(), await platform.patient()
    await register(platform, child, mother)
    midwife = platform.caregiver()
    secretly = Statement(midwife.statement().client_id, tuple({**dict(midwife.statement().fields), **SECRET}.items()))
    declared = consent_pb2.GrantAuthorizationRequest(parent=child.dossier, patient_consented=True)
    await call(platform, "GrantAuthorization", declared, secretly)
    sent = await Http(platform, secretly).send("POST", "DocumentReference", simplified(child, 3))
    assert sent.status_code == 201, sent.text
    portal = await Portal.signed_in(platform, mother, child)
    in_person = await Portal.signed_in(platform, child, child)

    theirs = await eventually(lambda: traces(in_person), lambda codes: "document.submit" in codes)
    assert {"document.submit", "authorization.grant"} <= set(theirs)
    hers = await traces(portal)
    assert "representative.register" in hers
    assert "document.submit" not in hers
    assert hers.count("authorization.grant") == theirs.count("authorization.grant") - 1
    assert midwife.professional.idnps not in str(await portal.entries("Consent"))
    assert midwife.professional.idnps in str(await in_person.entries("Consent"))
    assert await portal.entries("DocumentReference") == []
    assert len(await in_person.entries("DocumentReference")) == 1
    for each in (portal, in_person):
        await each.close()


async def test_when_the_representation_ends_her_token_of_before_opens_nothing(platform: Platform) -> None:
    child, mother = await platform.patient(), await platform.patient()
    await register(platform, child, mother)
    portal = await Portal.signed_in(platform, mother, child)
    assert await portal.entries("DocumentReference") == []
    ending = consent_pb2.EndRepresentationRequest(parent=child.dossier, person=person_name(mother.health_id))
    await call(platform, "EndRepresentation", ending, child.caregiver.statement())
    for path in ("DocumentReference", "Consent"):
        answer = await portal.get(path, **{"patient.identifier": child.identifier})
        assert reason_of(issues(answer, 403)[0]) == "REPRESENTATION_MISSING"
    await portal.close()
