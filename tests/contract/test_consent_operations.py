"""What operators and time do to consent, on the running platform: archives that end, rights compared, access told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from dmp.consent.v1 import consent_pb2 as pb
from ops.consent_acts import ConsentActs, read_tables, write_tables
from ops.local.state import ServiceName
from ops.session import Statement
from services.consent.destroyers import destroy_documents, destroy_trail
from services.consent.duties import Duties
from services.runtime import postgres
from services.runtime.channels import Peer
from services.runtime.errors import DmpError
from services.runtime.settings import ServiceSettings
from tests.platform_fixture import Platform

pytestmark = pytest.mark.asyncio(loop_scope="session")
_SECONDS = 60.0


async def reason_of(attempt: Awaitable[object]) -> str:
    with pytest.raises(DmpError) as caught:
        await attempt
    return caught.value.reason_name


async def key_of(platform: Platform, service: ServiceName, health_id: int) -> bytes | None:
    """The wrapped key of a dossier, None once it is destroyed."""
    connection = await asyncpg.connect(platform.stack.dsn(service))
    try:
        row = await connection.fetchrow("SELECT wrapped FROM dossier_key WHERE health_id = $1", health_id)
    finally:
        await connection.close()
    assert row is not None
    wrapped: bytes | None = row["wrapped"]
    return wrapped


async def test_when_its_time_is_over_a_dossiers_keys_are_gone_in_every_service_and_nothing_is_told_of_it(
    platform: Platform,
) -> None:
    patient, document = await platform.patient_with_document()
    portal, call = Statement.patient(patient.health_id), platform.session.call
    close = pb.CloseDossierRequest(name=patient.dossier, reason=pb.CLOSE_REASON_PATIENT_REQUEST, request_id="close-it")
    await call("consent", "CloseDossier", close, pb.CloseDossierResponse, portal)
    assert await key_of(platform, "document", patient.health_id)
    mine = platform.stack.authority.service("consent")
    settings = ServiceSettings(environment="test", tls_cert=mine.certificate, tls_key=mine.key, tls_ca=mine.authority)
    peers = [Peer(name, platform.stack.address(name), settings) for name in ("document", "audit")]
    pool = await postgres.connect(platform.stack.dsn("consent"), max_size=2, name="test-destruction")
    try:
        for due in (
            "UPDATE deadline SET due_at = now() WHERE health_id = $1",
            "UPDATE dossier SET destroy_at = now() WHERE health_id = $1",
        ):
            await pool.execute(due, patient.health_id)
        duties = Duties(pool, (destroy_documents(peers[0]), destroy_trail(peers[1])), lambda: None)
        async with asyncio.timeout(_SECONDS):
            while (
                await pool.fetchval("SELECT state FROM dossier WHERE health_id = $1", patient.health_id) != "destroyed"
            ):
                await duties.run(datetime.now(UTC))
                await asyncio.sleep(0.2)
            while await pool.fetchval("SELECT count(*) FROM outbox"):
                await asyncio.sleep(0.1)
        assert await pool.fetchval("SELECT count(*) FROM outbox_parked") == 0
    finally:
        await pool.close()
        for peer in peers:
            await peer.close()
    assert await key_of(platform, "document", patient.health_id) is None
    assert await key_of(platform, "audit", patient.health_id) is None
    asked = pb.GetDossierRequest(name=patient.dossier)
    for attempt in (
        patient.acts.read(document.name),
        patient.acts.search(patient.health_id),
        call("consent", "GetDossier", asked, pb.GetDossierResponse, portal),
    ):
        assert await reason_of(attempt) == "DOSSIER_DESTROYED"


async def test_an_operator_compares_rights_and_is_told_why_and_what_changed(platform: Platform, tmp_path: Path) -> None:
    patient = await platform.patient()
    acts = ConsentActs(platform.session)
    in_force = await acts.versions()
    write_tables((await acts.rights()).tables, tmp_path)
    assert not (await acts.diff(read_tables(tmp_path))).cells
    file = tmp_path / "functional_rights.csv"
    cell = "TD3.2,read_not_masked,other_professional/normal"
    file.write_text(file.read_text().replace(f"{cell},yes", f"{cell},no"))
    changes = await acts.diff(read_tables(tmp_path))
    assert [(change.before, change.after) for change in changes.cells] == [("yes", "no")]
    assert {change.action for change in changes.decisions} >= {"read"}
    assert await acts.versions() == in_force  # to compare changes nothing
    known = patient.caregiver.professional
    answer = await acts.explain(patient.health_id, known.idnps, known.profession_code, "", "normal", "read")
    assert answer.decision.permitted
    assert "authorization.grant" in {event.kind for event in await acts.history(patient.health_id)}
