"""fhir-kit-client (npm) does the whole day's work; every answer that it got is valid FHIR for fhir.resources."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conformance.fhir_day import feed, replacement
from tests.conformance.fhir_http import simplified
from tests.conformance.fhir_platform import parsed
from tests.conformance.fhir_samples import Json
from tests.platform_fixture import Patient, Platform

HERE = Path(__file__).resolve().parent

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine"),
    pytest.mark.skipif(not (HERE / "node_modules" / "fhir-kit-client").is_dir(), reason="npm ci in tests/system"),
]


class _Model:
    """A client that keeps the one document it feeds, whose metadata the replacement repeats."""

    def __init__(self, platform: Platform, token: str) -> None:
        self._http = platform.session.http
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/fhir+json"}

    async def post(self, path: str, resource: Json) -> Json:
        answer = await self._http.post(f"/{path}", json=resource, headers=self._headers)
        answer.raise_for_status()
        body: Json = answer.json()
        return body


async def test_fhir_kit_client_lives_a_day(platform: Platform, tmp_path: Path) -> None:
    patient = await platform.registered()
    token = await platform.session.token(patient.caregiver.statement())
    model = await colleague(platform, patient)
    metadata = await feed(_Model(platform, token), model, 1)  # type: ignore[arg-type]  # it only posts
    person = patient.person
    task = {
        "token": token,
        "patient": patient.identifier,
        "documents": [simplified(patient, seed) for seed in (1, 2, 3)],
        "replacement": replaced(patient, metadata),
        "described": {
            "resourceType": "Patient",
            "name": [{"use": "official", "family": person.birth_family, "given": [person.first_given]}],
            "gender": {"F": "female", "M": "male"}[person.sex],
            "birthDate": person.birth_date.isoformat(),
        },
    }
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task))
    process = await asyncio.create_subprocess_exec(
        "node",
        HERE / "fhir_day.mjs",
        platform.session.endpoints.http,
        file,
        cwd=HERE,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(platform.state.pki / "ca.pem")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, err.decode()[-3000:] + out.decode()[-1000:]
    answers = [json.loads(line) for line in out.decode().splitlines()]
    assert len(answers) >= 15
    for answer in answers:
        parsed(answer)


async def colleague(platform: Platform, patient: Patient) -> Patient:
    """Another patient of the same physician, whose documents have the same metadata."""
    other = await platform.registered()
    same = Patient(other.health_id, other.person, patient.caregiver, platform.acts(patient.caregiver.statement()))
    await same.acts.open(same.health_id)
    await same.acts.authorise(same.health_id)
    return same


def replaced(patient: Patient, metadata: Json) -> Json:
    """An ITI-65 that replaces the document whose id the script puts in."""
    return replacement(patient, {**metadata, "id": "OLD-DOCUMENT"}, patient.cda(seed=1, version=2))
