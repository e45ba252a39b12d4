"""What the witness answers is on the disk: the directory too, so that no journal comes back with a power cut."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.test_audit_strace import traceable

pytestmark = pytest.mark.skipif(bool(reason := traceable()), reason=reason)

_SWAPPED = """
import os, sys
from pathlib import Path
from services.witness.store import Cosigned, WitnessStore
store = WitnessStore.open(Path(sys.argv[1]))
assert store.swap("log.test", None, Cosigned(1, bytes(32), b"one"))
os.write(1, b"first answer")
assert store.swap("log.test", store.newest("log.test"), Cosigned(2, bytes(32), b"two"))
os.write(1, b"second answer")
"""


def test_the_directory_is_synced_once_the_journal_is_gone_and_before_the_answer(tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "witness.sqlite"
    calls = "trace=unlink,unlinkat,fsync,fdatasync,write"
    command = ["strace", "-f", "-qq", "-y", "-o", str(trace), "-e", calls, sys.executable, "-c", _SWAPPED, str(file)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    lines = trace.read_text().splitlines()
    answers = [at for at, line in enumerate(lines) if "answer" in line]
    assert len(answers) == 2
    for answer in answers:
        gone = max(at for at, line in enumerate(lines[:answer]) if "unlink" in line and f"{file}-journal" in line)
        assert any("sync(" in line and f"<{tmp_path}>" in line for line in lines[gone:answer])
