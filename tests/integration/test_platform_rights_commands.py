"""`dmp rights` and `dmp consent`, as an operator types them, on the running platform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from typer.testing import CliRunner

from ops.cli import app
from ops.consent_acts import TYPE_DENIALS
from services.runtime.identifiers import format_health_id, new_health_id
from tests.platform_fixture import Platform
from tests.platform_process import dmp

_DENIAL: Final = "86,83901-9,read_denied,assumed\n"
"""What no other test asks for: a lab technician and the psychologist's report."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the tables are exported to."""
    with TemporaryDirectory(prefix="dmp-rights-") as made:
        yield Path(made) / "tables"


@pytest.mark.asyncio(loop_scope="session")
async def test_an_operator_exports_compares_replaces_and_restores_the_tables(
    platform: Platform, directory: Path
) -> None:
    code, out, err = await dmp(platform, "rights", "export", str(directory))
    assert (code, err) == (0, "")
    before = int(re.findall(r"version (\d+)", out)[0])
    denials = directory / TYPE_DENIALS
    original = denials.read_text(encoding="utf-8")

    code, out, _ = await dmp(platform, "rights", "diff", str(directory))
    assert code == 0
    assert f"against version {before}" in out
    assert "83901-9" not in out  # nothing differs

    denials.write_text(original + _DENIAL, encoding="utf-8")
    code, out, _ = await dmp(platform, "rights", "diff", str(directory))
    assert code == 0
    assert "83901-9" in out
    code, out, _ = await dmp(platform, "rights", "replace", str(directory), "--comment", "a trial", "--yes")
    assert code == 0
    assert f"version {before + 1} is in force" in out

    denials.write_text(original, encoding="utf-8")
    code, out, _ = await dmp(platform, "rights", "replace", str(directory), "--comment", "the end of it", "--yes")
    assert (code, f"version {before + 2} is in force" in out) == (0, True)
    code, out, _ = await dmp(platform, "rights", "versions")
    assert code == 0
    assert ["a trial" in out, "the end of it" in out] == [True, True]

    denials.write_text("profession;type\n", encoding="utf-8")
    code, out, err = await dmp(platform, "rights", "diff", str(directory))
    assert code == 1
    assert "Traceback" not in out + err


@pytest.mark.asyncio(loop_scope="session")
async def test_an_operator_is_told_why_and_what_changed(platform: Platform) -> None:
    patient, stranger = await platform.patient(), platform.caregiver()
    dossier = patient.dossier.removeprefix("dossiers/")
    physician = patient.caregiver.professional.idnps
    code, out, err = await dmp(platform, "consent", "explain", dossier, physician)
    assert (code, err) == (0, "")
    assert "yes, at epoch 2" in out
    code, out, _ = await dmp(platform, "consent", "explain", dossier, stranger.professional.idnps, "--french")
    assert code == 0
    assert "no: AUTHORIZATION_MISSING, at epoch 2" in out
    code, out, _ = await dmp(platform, "consent", "history", dossier)
    assert code == 0
    assert ["authorization.grant" in out, "dossier.open" in out, physician in out] == [True, True, True]


@pytest.mark.parametrize(
    "arguments",
    [("explain", "1" * 21, "899700000001"), ("history", "nobody"), ("explain", "{dossier}", "8", "--action", "peep")],
)
def test_what_is_mistyped_is_said_in_a_line(arguments: tuple[str, ...]) -> None:
    typed = [each.format(dossier=format_health_id(new_health_id())) for each in arguments]
    result = CliRunner().invoke(app, ["consent", *typed])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "not a dossier" in result.output or "--action: one of" in result.output
