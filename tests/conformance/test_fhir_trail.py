"""The trail over FHIR: ITI-81, ITI-20 and receipts, over a platform of our own."""

from __future__ import annotations

import httpx
import pytest

from dmp.audit.v1 import audit_pb2
from tests.conformance.fhir_platform import FakePlatform, expressions, issues, parsed, parsed_xml
from tests.conformance.fhir_samples import ALL_SCOPES, FHIR, INS, INS_OID, PATIENT, SUBJECT, reported


@pytest.fixture
def fake(fake: FakePlatform) -> FakePlatform:
    fake.scopes = ALL_SCOPES | {"ITI-81", "ITI-20"}
    return fake


class TestTrail:
    async def test_a_bound_of_time_is_required(self, client: httpx.AsyncClient) -> None:
        assert expressions(issues(await client.get("/AuditEvent", params=PATIENT), 400)) == ["date"]

    async def test_events_are_balp_and_found_by_what_they_were(
        self, client: httpx.AsyncClient, fake: FakePlatform
    ) -> None:
        fake.happened("document.read")
        fake.happened("document.submit")
        query = {**PATIENT, "date": ["ge2025-01-01", "le2030"], "subtype": "ITI-68", "outcome": "0"}
        found = (await client.get("/AuditEvent", params=query)).json()
        parsed(found)
        (entry,) = found["entry"]
        event = entry["resource"]
        assert (event["action"], event["outcome"]) == ("R", "0")
        assert event["meta"]["profile"][0].endswith("IHE.BasicAudit.PatientRead")
        assert [each["role"]["code"] for each in event["entity"] if "role" in each] == ["1"]
        asked = fake.listed[0].filter
        assert (list(asked.actions), asked.outcome) == (["document.read"], audit_pb2.OUTCOME_SUCCESS)
        assert asked.HasField("start_time")
        assert asked.HasField("end_time")
        read = await client.get(f"/AuditEvent/{event['id']}", headers={"Accept": "application/fhir+xml"})
        assert parsed_xml(read.content).get_resource_type() == "AuditEvent"
        receipt = (await client.get(f"/AuditEvent/{event['id']}/$receipt")).json()
        parsed(receipt)
        assert receipt["parameter"][0]["valueString"].startswith("c2sp.org/tlog-proof@v1")

    async def test_pages_of_the_trail_follow_each_other(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        for _ in range(5):
            fake.happened("document.read")
        url: str | None = f"/AuditEvent?patient.identifier=urn:oid:{INS_OID}|{INS}&date=ge2020&_count=2"
        seen: list[str] = []
        while url:
            page = (await client.get(url)).json()
            seen += [entry["resource"]["id"] for entry in page["entry"]]
            url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        assert len(seen) == len(set(seen)) == 5

    async def test_an_event_of_a_partner_is_recorded(self, client: httpx.AsyncClient, fake: FakePlatform) -> None:
        sent = reported(
            {"what": dict(SUBJECT), "role": {"code": "1"}},
            {"what": {"identifier": {"value": "1.2.3"}}, "role": {"code": "3"}},
        )
        created = await client.post("/AuditEvent", json=sent, headers=FHIR)
        assert created.status_code == 201, created.text
        parsed(created.json())
        told = fake.events[0].event.reported
        assert (told.type, told.subtype, told.source) == ("110106", "ITI-68", "poste 3")
        assert list(fake.events[0].event.objects) == ["1.2.3"]
        sent["entity"].pop(0)
        assert expressions(issues(await client.post("/AuditEvent", json=sent, headers=FHIR), 422)) == [
            "AuditEvent.entity"
        ]
