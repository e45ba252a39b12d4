"""The witness of a local stack: its key, what it watches, how it is started, and the policy that names it to the log.

witness/witness.skey   its key
witness/logs.txt       the logs that it watches
witness/policy.txt     what verifiers and the log are told: the logs, the witness, and that it must cosign
witness/witness.sqlite what it has cosigned
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.local.environment import LOG_ORIGIN
from ops.local.keys import ensure_log_keys
from ops.local.state import Endpoint, State, write_private, write_whole
from ops.local.supervisor import ProcessSpec
from services.runtime.tlog.note import COSIGNATURE, Signer

WITNESS: Final = Endpoint("witness", channel="http")
NAME: Final = "local"
_KEY_NAME: Final = "witness.dmp.local"


@dataclass(frozen=True, slots=True)
class LocalWitness:
    """The witness's files, at an address."""

    directory: Path
    address: str

    @classmethod
    def prepare(cls, state: State, address: str) -> LocalWitness:
        """Writes what is not there yet; the key is kept, the policy follows the address."""
        witness = cls(state.root / "witness", address)
        key = witness.directory / "witness.skey"
        if not key.exists():
            write_private(key, Signer.generate(_KEY_NAME, COSIGNATURE).text() + "\n")
        signer = Signer.parse(key.read_text("utf-8").strip())
        directory = ensure_log_keys(state, LOG_ORIGIN)
        logs = [Signer.parse(file.read_text("utf-8").strip()) for file in sorted(directory.glob("*.skey"))]
        lines = [f"log {log.verifier.text()}\n" for log in logs]
        write_whole(witness.directory / "logs.txt", "".join([*lines, "quorum none\n"]), mode=0o644)
        lines.append(f"witness {NAME} {signer.verifier.text()} http://{address}\n")
        write_whole(witness.policy, "".join([*lines, f"quorum {NAME}\n"]), mode=0o644)
        return witness

    @property
    def policy(self) -> Path:
        """The policy that the log is given."""
        return self.directory / "policy.txt"

    def environment(self) -> dict[str, str]:
        """Its settings."""
        return {
            "DMP_WITNESS_LISTEN": self.address,
            "DMP_WITNESS_KEY_FILE": str(self.directory / "witness.skey"),
            "DMP_WITNESS_LOGS_FILE": str(self.directory / "logs.txt"),
            "DMP_WITNESS_STORE": str(self.directory / "witness.sqlite"),
        }

    def spec(self, root: Path, ready: Callable[[], Awaitable[None]]) -> ProcessSpec:
        """How to start it; it ends after the audit service."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DMP_")}
        return ProcessSpec(
            name="witness",
            argv=(sys.executable, "-m", "services.witness"),
            environ=inherited | self.environment(),
            cwd=root,
            ready=ready,
        )
