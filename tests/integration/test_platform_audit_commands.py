"""`dmp audit trail|summary|export|receipt|verify-receipt|counts|unusual`, as typed, on the running platform."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from services.runtime.identifiers import dossier_name, event_name, new_health_id
from tests.platform_fixture import Platform, eventually
from tests.platform_process import DMP, dmp, environment

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="dmp-audit-") as made:
        yield Path(made)


async def test_the_trail_of_a_dossier_is_listed_told_and_exported_whole(platform: Platform, directory: Path) -> None:
    patient, document = await platform.patient_with_document()
    professional = patient.caregiver.professional
    await patient.acts.read(document.name)
    kept = await platform.trail(patient.health_id, "document.read", "document.submit")

    code, listed, err = await dmp(platform, "audit", "trail", patient.dossier)
    assert (code, err) == (0, "")
    lines = listed.splitlines()[1:]
    assert len(lines) >= len(kept)
    assert any("document.read" in line and professional.family in line and "success" in line for line in lines)

    code, told, err = await dmp(platform, "audit", "summary", patient.dossier)
    assert (code, err) == (0, "")
    assert professional.family in told
    assert "document" in told

    code, out, err = await dmp(platform, "audit", "export", patient.dossier)
    assert (code, err) == (0, "")
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert {event.action for event in kept} <= {event["action"] for event in events}
    assert all(int(event["healthId"]) == patient.health_id for event in events)

    file = directory / "trail.ndjson"
    code, out, err = await dmp(platform, "audit", "export", patient.dossier, "--output", str(file))
    assert (code, out, err) == (0, "", "")
    again = [json.loads(line)["event"] for line in file.read_text("utf-8").splitlines()]
    assert again[: len(events)] == events
    assert [event["action"] for event in again[len(events) :]].count("trace.export") == 1, "which is traced itself"


async def test_more_events_than_a_page_holds_are_listed_all(platform: Platform) -> None:
    patient, document = await platform.patient_with_document()
    await asyncio.gather(*(patient.acts.read(document.name) for _ in range(210)))
    code, out, err = await dmp(platform, "audit", "trail", patient.dossier)
    assert (code, err) == (0, "")
    assert sum("document.read" in line for line in out.splitlines()) >= 210


async def test_a_receipt_is_fetched_and_holds_without_the_platform(platform: Platform, directory: Path) -> None:
    patient, document = await platform.patient_with_document()
    await patient.acts.read(document.name)
    [read] = [
        each for each in await platform.trail(patient.health_id, "document.read") if each.action == "document.read"
    ]
    name, file = event_name(patient.health_id, uuid.UUID(bytes=read.event_id)), directory / "read.tlog-proof"

    async def fetched() -> tuple[int, str, str]:
        return await dmp(platform, "audit", "receipt", name, "--output", str(file))

    code, out, err = await eventually(fetched, lambda found: found[0] == 0, seconds=60)
    assert (code, err) == (0, "")
    assert out.startswith(f"{file}: event ")
    key = out.strip().rpartition(" ")[2]

    code, out, err = await dmp(platform, "audit", "verify-receipt", str(file), "--log-key", key)
    assert (code, err) == (0, "")
    assert "document.read" in out

    altered = file.read_text("utf-8").replace("index ", "index 1", 1)
    file.write_text(altered, "utf-8")
    code, out, err = await dmp(platform, "audit", "verify-receipt", str(file), "--log-key", key)
    assert (code, out) == (1, "")
    assert err.startswith("the receipt does not hold: ")


async def test_an_operator_counts_and_looks_at_what_is_unusual(platform: Platform) -> None:
    patient, document = await platform.patient_with_document()
    await patient.acts.read(document.name)
    today = datetime.now(UTC).date()
    span = (str(today - timedelta(days=1)), str(today + timedelta(days=1)))

    async def counted() -> tuple[int, str, str]:
        return await dmp(platform, "audit", "counts", *span)

    code, out, err = await eventually(counted, lambda found: "document.read" in found[1], seconds=60)
    assert (code, err) == (0, "")
    assert patient.dossier not in out
    assert patient.caregiver.professional.family not in out

    code, out, err = await dmp(platform, "audit", "unusual")
    assert (code, err) == (0, "")
    assert out.split()[:4] == ["item", "detector", "who", "what"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trail", "dossiers/1"), "no registered person has this INS"),
        (("export", "123"), "no registered person has this INS"),
        (("receipt", "dossiers/{dossier}/events/00000000-0000-7000-8000-000000000000"), "NOT_FOUND"),
        (("counts", "yesterday", "today"), "INVALID_FIELD"),
        (("unusual", "--decide", "unusualAccesses/00000000-0000-7000-8000-000000000000"), "NOT_FOUND"),
    ],
)
async def test_a_refusal_is_one_line_and_an_exit_code(
    platform: Platform, arguments: tuple[str, ...], says: str
) -> None:
    patient = await platform.patient()
    typed = [each.format(dossier=patient.dossier.removeprefix("dossiers/")) for each in arguments]
    code, out, err = await dmp(platform, "audit", *typed)
    assert (code, out) == (1, "")
    assert says in err
    assert "Traceback" not in err


async def test_nobody_learns_by_a_command_whether_a_dossier_exists(platform: Platform) -> None:
    code, out, err = await dmp(platform, "audit", "trail", dossier_name(new_health_id()))
    assert (code, out) == (1, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["trail", "summary", "export"])
async def test_a_reader_who_has_seen_enough_ends_the_command_quietly(platform: Platform, command: str) -> None:
    """As `| head` does it: the pipe is closed before anything is written."""
    patient, document = await platform.patient_with_document()
    await patient.acts.read(document.name)
    await platform.trail(patient.health_id, "document.read")
    read, write = os.pipe()
    os.close(read)
    try:
        process = await asyncio.create_subprocess_exec(
            DMP,
            "audit",
            command,
            patient.dossier,
            env=environment(platform),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write,
            stderr=asyncio.subprocess.PIPE,
        )
    finally:
        os.close(write)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert err == b""
    assert process.returncode == 1
