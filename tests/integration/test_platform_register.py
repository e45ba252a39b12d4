"""What an operator does with the register by the command, on the running platform: every command, each seen to work."""

from __future__ import annotations

import asyncio
import csv
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from dmp.identity.v1 import identity_pb2 as pb
from ops.cli import app
from ops.demo_platform import person_message
from ops.local.registrations import INTERNAL
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


async def test_people_are_shown_searched_linked_and_parted(platform: Platform, dmp: Command) -> None:
    one, other = await platform.registered(), await platform.registered()
    names = [format_health_id(each.health_id) for each in (one, other)]
    shown = await dmp("person", "show", names[0], "--history")
    assert one.person.birth_family in shown
    assert "registered" in shown or "created" in shown
    found = await dmp("person", "search", "--identifier", f"{one.person.nir_oid}|{one.person.nir}")
    assert person_name(one.health_id) in found
    born = one.person.birth_date.isoformat()
    by_name = await dmp("person", "search", "--birth-date", born, "--name", one.person.birth_family[:3])
    assert person_name(one.health_id) in by_name
    linked = await dmp("person", "link", *names, "--reason", "the same")
    assert person_name(other.health_id) in linked
    assert person_name(one.health_id) in await dmp("person", "show", names[1])
    await dmp("person", "link", *names[::-1], fails=True)
    await dmp("person", "unlink", names[1], "--reason", "two people")
    assert "merged into" not in await dmp("person", "show", names[1])


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


async def test_keys_are_rotated_while_people_are_found(platform: Platform, dmp: Command) -> None:
    patient = await platform.registered()
    ring = Keyring.from_directory(platform.state.keyring("identity"))
    rotating = asyncio.create_task(dmp("keys", "rotate"))
    who = Statement(INTERNAL, patient.caregiver.statement().fields)
    while not rotating.done():
        assert await platform.acts(who).resolve(person_message(patient.person).identifiers[0]) == patient.health_id
        await asyncio.sleep(0.2)
    assert "finds and wraps" in await rotating
    rotated = Keyring.from_directory(platform.state.keyring("identity"))
    assert rotated.current > ring.current
    assert list(rotated.digest_generations) == [rotated.current]
    assert await platform.acts(who).resolve(person_message(patient.person).identifiers[0]) == patient.health_id
    again = await patient.acts.register(person_message(patient.person))
    assert again == patient.health_id
