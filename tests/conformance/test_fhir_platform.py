"""The running platform as others meet it: a FHIR client that we did not write, and a newcomer who types what
`make run` prints.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from fhirpy import AsyncFHIRClient
from fhirpy.base.exceptions import ForbiddenError, ResourceNotFound

from ops.demo.cda_document import DocumentKind
from ops.local import postgres_install
from ops.local.state import State
from tests.platform_fixture import Patient, Platform

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT: Final = Path(__file__).resolve().parents[2]
DMP: Final = Path(sys.executable).with_name("dmp")


# --- fhirpy -----------------------------------------------------------------------------------------------------------


async def client_of(platform: Platform, patient: Patient) -> AsyncFHIRClient:
    """fhirpy, with the token of the patient's physician."""
    trust = ssl.create_default_context(cafile=str(platform.state.pki / "ca.pem"))
    token = await platform.session.token(patient.caregiver.statement())
    return AsyncFHIRClient(
        platform.session.endpoints.http, authorization=f"Bearer {token}", aiohttp_config={"ssl": trust}
    )


def reference(patient: Patient, content: bytes) -> dict[str, Any]:
    """A DocumentReference of ITI-105."""
    system, value = patient.identifier.split("|")
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    attachment = {
        "contentType": "text/xml",
        "data": base64.b64encode(content).decode(),
        "hash": base64.b64encode(digest).decode(),
        "size": len(content),
    }
    return {
        "status": "current",
        "subject": {"identifier": {"system": system, "value": value}},
        "content": [{"attachment": attachment}],
    }


async def test_fhirpy_publishes_finds_and_reads_a_document(platform: Platform) -> None:
    patient = await platform.patient()
    client = await client_of(platform, patient)
    content = patient.cda(DocumentKind.PRESCRIPTION, seed=5)
    published = client.resource("DocumentReference", **reference(patient, content))
    await published.save()
    assert published.id

    documents = client.resources("DocumentReference").search(
        **{"patient.identifier": patient.identifier, "status": "current", "type": "57833-6"}
    )
    assert [found.id for found in await documents.fetch_all()] == [published.id]
    assert await documents.count() == 1

    read = await client.reference("DocumentReference", published.id).to_resource()
    attachment = read["content"][0]["attachment"]
    assert attachment["hash"] == base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
    served = await platform.get(attachment["url"], patient.caregiver.statement())
    assert served.content == content


async def test_fhirpy_goes_through_all_pages(platform: Platform) -> None:
    patient = await platform.patient()
    for seed in range(5):
        await patient.acts.submit(patient.health_id, patient.cda(seed=seed), "consultation.xml")
    client = await client_of(platform, patient)
    documents = client.resources("DocumentReference").search(**{"patient.identifier": patient.identifier})
    found = [each.id for each in await documents.limit(2).fetch_all()]
    assert len(found) == len(set(found)) == 5


async def test_fhirpy_sees_whether_there_is_a_dossier(platform: Platform) -> None:
    patient, nobody = await platform.patient(), platform.person()
    client = await client_of(platform, patient)
    there = await client.resources("Patient").search(identifier=patient.identifier).fetch()
    assert [found.active for found in there] == [True]
    assert await client.resources("Patient").search(identifier=f"urn:oid:{nobody.nir_oid}|{nobody.nir}").fetch() == []


async def test_fhirpy_understands_refusals(platform: Platform) -> None:
    patient, other = await platform.patient(), await platform.patient()
    client = await client_of(platform, other)
    with pytest.raises(ForbiddenError, match="AUTHORIZATION_MISSING"):
        await client.resources("DocumentReference").search(**{"patient.identifier": patient.identifier}).fetch()
    with pytest.raises(ResourceNotFound):
        await client.reference("DocumentReference", "a" * 64).to_resource()


# --- what `make run` prints -------------------------------------------------------------------------------------------


@pytest.fixture
def state() -> Iterator[State]:
    """A state of this test's own."""
    root = Path(tempfile.mkdtemp(prefix="dmp-run-"))
    root.chmod(0o755)
    made = State.open(root / "state")
    yield made
    postgres_install.remove(made)
    shutil.rmtree(root)


@asynccontextmanager
async def dmp_run(state: State) -> AsyncIterator[str]:
    """`dmp run` until it has told what to try; then Ctrl-C, and a clean end."""
    printed = state.root / "printed"
    with printed.open("wb") as out:
        process = subprocess.Popen(
            [DMP, "run", "--people", "2"],
            cwd=ROOT,
            env={**os.environ, "DMP_STATE": str(state.root), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "dmp audit" not in (told := printed.read_text()):
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            await asyncio.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 7
        yield told
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 20) == 0, printed.read_text()
        gone, alive = psutil.wait_procs(children, timeout=2)
        assert (len(gone), alive) == (len(children), [])
        assert state.holder() is None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def paste(command: str, state: State) -> str:
    """What a shell at the checkout answers to a command; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        command,
        cwd=ROOT,
        env={**os.environ, "DMP_STATE": str(state.root), "NO_COLOR": "1", "COLUMNS": "200"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, f"{command}\n{out.decode()}\n{err.decode()}"
    return out.decode()


def things_to_try(told: str) -> list[str]:
    """The commands printed: indented paragraphs after the line that announces them."""
    _, _, after = told.partition("Three things to try")
    paragraphs = [paragraph.strip() for paragraph in after.split("\n\n")]
    return [paragraph for paragraph in paragraphs if paragraph.startswith(("curl", ".venv/bin/dmp"))]


async def test_the_three_things_that_make_run_prints_work_when_pasted_and_its_data_stays(state: State) -> None:
    async with dmp_run(state) as told:
        commands = things_to_try(told)
        assert len(commands) == 3, told
        search, submit, audit = commands
        before = await paste(search, state)
        assert '"resourceType":"Bundle"' in before.replace(" ", "")
        fed = await paste(submit, state)
        name = re.search(r"dossiers/\d{21}/documents/[0-9a-f-]{36}", fed)
        assert name, fed
        trail = await paste(audit, state)
        for action in ("dossier.open", "document.submit", "document.search"):
            assert action in trail
        sample = Path(submit.rpartition(" ")[2]).read_text("utf-8")
        total = _total(await paste(search, state))
        assert total == _total(before) + 1
    async with dmp_run(state) as told:
        again = things_to_try(told)
        assert again == commands
        assert _total(await paste(again[0], state)) == total
        assert await paste(f".venv/bin/dmp read {name[0]}", state) == sample


def _total(bundle: str) -> int:
    found = re.search(r'"total":\s*(\d+)', bundle)
    assert found, bundle
    return int(found[1])
