"""A hundred thousand real events, verified by the Go project's own packages (Debian: golang-golang-x-mod-dev)."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.audit.integration import Integrator
from services.audit.sequencer import AppendLimits
from services.audit.tiles import ObjectTiles
from services.audit.witnesses import Witnesses
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.tlog.checkpoint import parse
from tests.audit_log import DOSSIER, LogUnderTest, event, migrated, places

EVENTS = 100_000
SOURCES = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb")
PACKAGES = ("golang-go", "golang-golang-x-mod-dev")
SIZES = (1, 2, 3, 255, 256, 257, 1000, 65_535, 65_536, 65_537, 65_792, 99_999)


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verifier, compiled against Debian's packages."""
    if not (shutil.which("go") and SOURCES.exists()):
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip(f"needs the Debian packages {' and '.join(PACKAGES)}, and only root can install them")
        install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        outcome = subprocess.run(install, capture_output=True, text=True, check=False)
        if outcome.returncode:
            pytest.skip(f"{' '.join(install)} failed: {outcome.stderr.strip()[-200:]}")
    directory = tmp_path_factory.mktemp("go")
    source = directory / "src" / "verify"
    source.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "sumdb" / "main.go", source)
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": f"{directory}:/usr/share/gocode",
        "GOCACHE": str(directory / "cache"),
        "GOFLAGS": "",
    }
    program = directory / "verify"
    subprocess.run(["go", "build", "-o", str(program), "verify"], env=environment, check=True, cwd=source)
    return program


@pytest.fixture(scope="module")
def large_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.mark.timeout(600)
async def test_go_verifies_inclusion_and_consistency_of_a_log_of_a_hundred_thousand_events(
    go_program: Path, large_database: str, tmp_path: Path
) -> None:
    log = await LogUnderTest.open(large_database, limits=AppendLimits(2048, 16_384))
    (tmp_path / "tiles").mkdir()
    tree = replace(log.logs.trees[0], tiles=ObjectTiles.open(f"file://{tmp_path}/tiles"))
    integrator = Integrator(tree, Witnesses(tree.policy, 1.0), Lease(log.pool, "go"), Metrics(), every=0.05)
    published: dict[int, bytes] = {}

    async def append(part: int) -> None:
        for _ in range(EVENTS // 4 // 500):
            places(await log.append(*(event(DOSSIER + (part * 97 + number) % 2000) for number in range(500))))

    async def integrate() -> None:
        while not published or max(published) < EVENTS:
            size = await integrator.step()
            checkpoint, _ = parse(await tree.checkpoint())
            published[size] = checkpoint.root
            await asyncio.sleep(0.02)

    try:
        await integrator.open()
        await asyncio.gather(*(append(part) for part in range(4)), integrate())
    finally:
        await log.close()
    sizes = sorted({*SIZES, *list(published)[:: max(1, len(published) // 40)]} - {0})
    root = tmp_path / "tiles" / tree.origin
    argv = [str(go_program), str(root), tree.signer.verifier.text(), "2000", *map(str, sizes)]
    outcome = await asyncio.to_thread(_run, argv)
    assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr
    assert f"ok size={EVENTS} inclusion=" in outcome.stdout
    assert f"consistency={len(sizes)}" in outcome.stdout
    stated = dict(line.split()[1:] for line in outcome.stdout.splitlines() if line.startswith("root "))
    for size, known in published.items():
        if str(size) in stated:
            assert base64.b64decode(stated[str(size)]) == known, "what was published on the way is what Go makes of it"
    damaged = root / "tile" / "0" / "x000" / "000"
    target = damaged if damaged.exists() else root / "tile" / "0" / "000"
    content = target.read_bytes()
    target.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert (await asyncio.to_thread(_run, argv)).returncode == 1


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
