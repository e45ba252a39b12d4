"""What an operator does with the register by the command, on the running platform: every command, each seen to work."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL
from typing import Final

import pytest
from google.protobuf import json_format
from typer.testing import CliRunner

from dmp.identity.v1 import identity_pb2 as pb
from dmp.identity.v1 import keys_pb2
from ops.cli import app
from ops.demo_platform import person_message
from ops.local.registrations import INTERNAL, OPERATOR
from ops.session import Statement
from services.runtime.identifiers import format_health_id, person_name
from services.runtime.keyring import Keyring
from tests.platform_fixture import Patient, Platform

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXTRACT: Final = """kind;idnps;family_name;given_name;profession;specialty;active;idnst;name;facility_type;postcode;city
practitioner;810100000019;DURAND;Anne;10;SM26;oui;;;;;
practitioner;810100000027;MARTIN;Paul;60;;oui;;;;;
practitioner;899;WRONG;Number;10;;oui;;;;;
practitioner;810100000035;NOBODY;Known;99;;oui;;;;;
structure;;;;;;oui;1750000013;CLINIQUE DES LILAS;SA01;75011;PARIS
role;810100000019;;;10;SM26;oui;1750000013;;;;
"""


class Command:
    """`dmp`, in this process and a thread of its own, with a terminal wide enough to show everything."""

    def __init__(self, platform: Platform) -> None:
        self._environment = {"DMP_STATE": str(platform.state.root), "NO_COLOR": "1", "COLUMNS": "400"}

    async def __call__(self, *arguments: str, fails: bool = False) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=self._environment)
        assert (result.exit_code != 0) == fails, result.output
        return result.output


@pytest.fixture
def dmp(platform: Platform) -> Command:
    return Command(platform)


async def near(platform: Platform, patient: Patient) -> int:
    """Somebody of the same traits but for a letter: registered, and on the work list."""
    person = person_message(replace(patient.person, birth_family=f"{patient.person.birth_family}X"))
    del person.identifiers[:]
    person.status = pb.IDENTITY_STATUS_PROVISIONAL
    return await patient.acts.register(person)


async def test_people_are_shown_searched_linked_and_parted(platform: Platform, dmp: Command, tmp_path: Path) -> None:
    one, other = await platform.registered(), await platform.registered()
    names = [format_health_id(each.health_id) for each in (one, other)]
    shown = await dmp("person", "show", names[0], "--history")
    assert one.person.birth_family in shown
    assert "registered" in shown or "created" in shown
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"identifier": {"system": one.person.nir_oid, "value": one.person.nir}}), "utf-8")
    assert person_name(one.health_id) in await dmp("person", "search", str(known))
    born = {"birthDate": one.person.birth_date.isoformat(), "familyName": one.person.birth_family[:3]}
    known.write_text(json.dumps(born), "utf-8")
    assert person_name(one.health_id) in await dmp("person", "search", str(known))
    known.write_text('{"birth": "1970"}', "utf-8")
    assert "birth" in await dmp("person", "search", str(known), fails=True)
    linked = await dmp("person", "link", *names, "--reason", "the same")
    assert person_name(other.health_id) in linked
    assert person_name(one.health_id) in await dmp("person", "show", names[1])
    await dmp("person", "link", *names[::-1], fails=True)
    await dmp("person", "unlink", names[1], "--reason", "two people")
    assert "merged into" not in await dmp("person", "show", names[1])


async def test_a_second_person_is_taken_out_of_a_record(platform: Platform, dmp: Command, tmp_path: Path) -> None:
    one = await platform.registered()
    name, person = format_health_id(one.health_id), person_message(platform.person())
    person.traits.birth_name = "TAKENOUT"
    asked = {"traits": json_format.MessageToDict(person.traits)}
    (tmp_path / "other.json").write_text(json.dumps(asked), "utf-8")
    told = await dmp("person", "split", name, str(tmp_path / "other.json"))
    assert person_name(one.health_id) in told
    assert "TAKENOUT" in told
    assert "split" in await dmp("person", "show", name, "--history")
    (tmp_path / "wrong.json").write_text(json.dumps(asked | {"names": "x"}), "utf-8")
    assert "names" in await dmp("person", "split", name, str(tmp_path / "wrong.json"), fails=True)


async def test_possible_duplicates_are_listed_and_decided(platform: Platform, dmp: Command) -> None:
    patient = await platform.registered()
    like = await near(platform, patient)
    listed = await dmp("duplicates", "list", "--limit", "1000")
    line = next(line for line in listed.splitlines() if person_name(like) in line)
    assert person_name(patient.health_id) in line
    decided = await dmp("duplicates", "decide", line.split()[0], "--same", format_health_id(patient.health_id))
    assert decided.rstrip().endswith("same")
    assert person_name(like) in await dmp("person", "show", format_health_id(patient.health_id))
    await dmp("duplicates", "decide", line.split()[0], fails=True)


async def test_an_extract_is_imported_once_with_a_report_of_what_was_refused(dmp: Command, tmp_path: Path) -> None:
    extract, report = tmp_path / "extract.csv", tmp_path / "refused.csv"
    extract.write_text(EXTRACT, "utf-8")
    told = await dmp("directory", "import", str(extract), "--report", str(report))
    assert "4 rows taken" in told
    assert "2 refused" in told
    assert await dmp("directory", "import", str(extract)) == told, "run again it has nothing to do"
    with report.open(encoding="utf-8", newline="") as lines:
        refused = [row for row in csv.DictReader(lines, delimiter=";") if row["refused"] == "1"]
    assert [(row["row"], row["rule"]) for row in refused] == [("4", "idnps.form"), ("5", "profession.known")]


@asynccontextmanager
async def life_goes_on(platform: Platform) -> AsyncIterator[list[Patient]]:
    """People are found and registered all the time; those registered meanwhile."""
    known, new = await platform.registered(), list[Patient]()
    who = Statement(INTERNAL, known.caregiver.statement().fields)
    over = asyncio.Event()

    async def live() -> None:
        while not over.is_set():
            new.append(await platform.registered())
            for each in (known, *new[-3:]):
                assert await platform.acts(who).resolve(person_message(each.person).identifiers[0]) == each.health_id
            await asyncio.sleep(0.1)

    living = asyncio.create_task(live())
    try:
        yield new
        assert not living.done()
    finally:
        over.set()
        await living


async def rotation(platform: Platform) -> keys_pb2.KeyRotation:
    """Where it stands."""
    operator = Statement.of(OPERATOR, actor="operator", subject="operator-1")
    asked, answer = keys_pb2.GetKeyRotationRequest(), keys_pb2.GetKeyRotationResponse
    return (await platform.session.call("identity", "GetKeyRotation", asked, answer, operator)).key_rotation


async def killed_in(
    platform: Platform, phase: keys_pb2.KeyRotationPhase.ValueType, arguments: Sequence[str], word: str
) -> str:
    """What the command, a process of its own, had said when it was killed in the middle of a phase, of which it had
    said this word: the service is in the phase before the command is told so."""
    command = Path(sys.executable).with_name("dmp")
    process = await asyncio.create_subprocess_exec(
        command, "keys", "rotate", *arguments, stdout=PIPE, env={**os.environ, "DMP_STATE": str(platform.state.root)}
    )
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(60):
        while word not in said:
            part = await process.stdout.read(4096)
            assert part, f"it ended: {said}"
            said += part.decode()
    now = await rotation(platform)
    process.kill()
    rest, _ = await process.communicate()
    assert process.returncode == -SIGKILL
    assert (now.phase, now.people_done > 0) == (phase, True)
    return said + rest.decode()


async def test_a_rotation_of_keys_that_is_killed_goes_on_while_people_are_found_and_registered(
    platform: Platform, dmp: Command
) -> None:
    path = platform.state.keyring("identity")
    ring = Keyring.from_directory(path)
    before = list(await asyncio.gather(*(platform.registered() for _ in range(24))))
    async with platform.database("identity") as database:
        step = max(2, await database.fetchval("SELECT count(*) FROM person") // 20)
    gently = ("--at-once", str(step), "--settle", "2")
    async with life_goes_on(platform) as meanwhile:
        said = await killed_in(platform, keys_pb2.KEY_ROTATION_PHASE_BACKFILLING, gently, "Writing")
        assert f"Writing new digests: {step} of" in said
        assert len(Keyring.from_directory(path).digest_generations) == 2
        await killed_in(platform, keys_pb2.KEY_ROTATION_PHASE_REMOVING, gently, "Removing")
        told = await dmp("keys", "rotate", "--settle", "2")
    rotated = Keyring.from_directory(path)
    assert f"generation {rotated.current} finds and wraps" in told
    assert rotated.current == ring.current + 1, "it went on, and did not begin anew"
    assert list(rotated.digest_generations) == [rotated.current]
    assert (await rotation(platform)).phase == keys_pb2.KEY_ROTATION_PHASE_IDLE
    found = [patient.health_id for patient in (*before, *meanwhile)]
    for patient in (*before, *meanwhile):
        assert await patient.acts.register(person_message(patient.person)) == patient.health_id
        assert await patient.acts.resolve(person_message(patient.person).identifiers[0]) == patient.health_id
    async with platform.database("identity") as database:
        held = await database.fetchval("SELECT count(*) FROM identifier WHERE health_id = ANY($1)", found)
        assert held == len(found), "digests of the old generation are gone"
