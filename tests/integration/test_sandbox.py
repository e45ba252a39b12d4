"""Software on trial: invented people, and nobody real by any way (decision 0029)."""

from __future__ import annotations

from typing import Final

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2
from ops.demo_platform import person_message
from services.runtime.identifiers import dossier_name, dossier_of, is_fictitious, new_health_id
from tests.hostile_messages import well_formed
from tests.oauth_software import Software
from tests.platform_calls import attempt, bearer, invoke
from tests.platform_fixture import Platform, method

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHECK: Final = method("GetDossier")
UNKNOWN: Final = f"urn:oid:1.2.250.1.213.1.4.10|1990175123456{97 - 1990175123456 % 97:02d}"


async def test_software_on_trial_reaches_no_real_dossier(platform: Platform) -> None:
    patient = await platform.patient()
    software = await Software.registered(platform, sandbox=True)
    token = await software.token()
    place = await platform.log_size()
    channel = platform.channel("relay", CHECK)
    error = await attempt(
        channel, CHECK, consent_pb2.GetDossierRequest(name=patient.dossier), bearer(token, "sandbox-1")
    )
    assert error is not None
    assert error.reason == reasons.ERROR_REASON_SANDBOX_ONLY
    events = [event for event in await platform.log_since(place) if event.request_id == "sandbox-1"]
    assert [event.reason for event in events] == [reasons.ERROR_REASON_SANDBOX_ONLY]
    create = method("CreatePerson")
    real = identity_pb2.CreatePersonRequest(person=person_message(platform.person()), request_id="sandbox-create")
    error = await attempt(platform.channel("relay", create), create, real, bearer(token))
    assert error is not None
    assert error.reason == reasons.ERROR_REASON_SANDBOX_ONLY
    headers = {"authorization": f"Bearer {token}"}
    for identifier in (patient.identifier, UNKNOWN):
        answer = await software.http.get(f"{software.base}/Patient", params={"identifier": identifier}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == 0, "that a real person has a dossier is not told"
    fictitious = dossier_name(new_health_id(fictitious=True))
    missing = await attempt(channel, CHECK, consent_pb2.GetDossierRequest(name=fictitious), bearer(token))
    assert missing is not None
    assert missing.reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    await software.close()


async def test_software_on_trial_registers_finds_and_opens_invented_people_alone(platform: Platform) -> None:
    patient = await platform.patient()
    software = await Software.registered(platform, sandbox=True)
    token = bearer(await software.token())
    relay = platform.session.channel("relay")
    invented = person_message(platform.person())
    invented.ClearField("identifiers")
    invented.status = identity_pb2.IDENTITY_STATUS_PROVISIONAL
    invented.fictitious = True
    create = identity_pb2.CreatePersonRequest(person=invented, request_id=platform.request_id())
    (made,) = await invoke(relay, method("CreatePerson").path, create, token)
    person = identity_pb2.CreatePersonResponse.FromString(made).person
    assert is_fictitious(dossier_of(person.name, "name"))
    dossier = person.name.replace("people/", "dossiers/")
    opening = well_formed(dossier_of(dossier, "name"))["OpenDossier"]
    error = await attempt(relay, method("OpenDossier"), opening, token)
    assert error is None
    traits = person_message(patient.person).traits
    copied = identity_pb2.CreatePersonRequest(
        person=identity_pb2.Person(traits=traits, status=identity_pb2.IDENTITY_STATUS_PROVISIONAL, fictitious=True),
        request_id=platform.request_id(),
    )
    (twin,) = await invoke(relay, method("CreatePerson").path, copied, token)
    assert is_fictitious(dossier_of(identity_pb2.CreatePersonResponse.FromString(twin).person.name, "name"))
    search = identity_pb2.SearchPeopleRequest(birth_date=traits.birth_date, family_name=traits.birth_name)
    (found,) = await invoke(relay, method("SearchPeople").path, search, token)
    names = {each.name for each in identity_pb2.SearchPeopleResponse.FromString(found).people}
    assert names
    assert all(is_fictitious(dossier_of(name, "name")) for name in names)
    matching = identity_pb2.MatchPersonRequest(traits=traits)
    (matched,) = await invoke(relay, method("MatchPerson").path, matching, token)
    candidates = identity_pb2.MatchPersonResponse.FromString(matched).candidates
    assert all(is_fictitious(dossier_of(each.person.name, "name")) for each in candidates)
    lifted = identity_pb2.UpdatePersonRequest(
        name=person.name, fictitious=False, reason="really?", request_id=platform.request_id()
    )
    error = await attempt(relay, method("UpdatePerson"), lifted, token)
    assert error is not None
    await software.close()
