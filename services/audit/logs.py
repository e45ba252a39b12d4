"""All logs of this service as public trees: their keys and witnesses, checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.audit.integration import Integrator
from services.audit.settings import AuditSettings
from services.audit.tiles import DatabaseTiles, ObjectTiles, TileStore
from services.audit.tree import LogTree
from services.audit.witnesses import Witnesses
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.postgres import Pool
from services.runtime.tlog.note import ED25519, NoteWrong, Signer
from services.runtime.tlog.policy import Policy, PolicyWrong, parse_policy

NO_WITNESS = "quorum none\n"


class KeysWrong(Exception):
    """The keys or the policy of the logs cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class Logs:
    """The trees in the order of their logs, and what lets them grow."""

    trees: Sequence[LogTree]
    integrators: Sequence[Integrator]
    policy_text: str

    async def open(self) -> None:
        """Checks each log. ForkFound, saying why, if one of them may not go on."""
        for integrator in self.integrators:
            await integrator.open()

    async def close(self) -> None:
        """Close the connections to witnesses."""
        for integrator in self.integrators:
            await integrator.close()


def make_logs(pool: Pool, settings: AuditSettings, log_count: int, metrics: Metrics) -> Logs:
    """The logs of these settings. Raises KeysWrong."""
    signers = read_signers(settings.audit_log_keys_dir, log_count)
    text = NO_WITNESS
    if settings.audit_witness_policy_file is not None:
        text = settings.audit_witness_policy_file.read_text("utf-8")
    policy = read_policy(text)
    tiles = _tile_store(settings)
    trees = [LogTree(number, signer, policy, pool, tiles) for number, signer in enumerate(signers)]
    integrators = [
        Integrator(
            tree,
            Witnesses(policy, settings.audit_witness_seconds),
            Lease(pool, f"integrate-{tree.log_id}"),
            metrics,
            every=settings.audit_checkpoint_seconds,
        )
        for tree in trees
    ]
    return Logs(trees, integrators, text)


def _tile_store(settings: AuditSettings) -> TileStore:
    if settings.audit_tile_store is None:
        return DatabaseTiles()
    try:
        return ObjectTiles.open(settings.audit_tile_store)
    except ValueError as error:
        raise KeysWrong(f"DMP_AUDIT_TILE_STORE: {error}") from None


def read_signers(directory: Path, log_count: int) -> list[Signer]:
    """The keys of the logs, in order. Raises KeysWrong."""
    signers = []
    for number in range(log_count):
        file = directory / f"{number}.skey"
        try:
            signer = Signer.parse(file.read_text("utf-8").strip())
        except (OSError, NoteWrong) as error:
            raise KeysWrong(f"DMP_AUDIT_LOG_KEYS_DIR: {file.name}: {error}") from None
        if signer.kind != ED25519:
            raise KeysWrong(f"DMP_AUDIT_LOG_KEYS_DIR: {file.name}: the key of a log has the type 0x01")
        signers.append(signer)
    if len({signer.name for signer in signers}) != len(signers) or len({s.verifier.public for s in signers}) != len(
        signers
    ):
        raise KeysWrong("DMP_AUDIT_LOG_KEYS_DIR: each log has an origin and a key of its own")
    return signers


def read_policy(text: str) -> Policy:
    """The policy of witnesses. Raises KeysWrong."""
    try:
        return parse_policy(text)
    except PolicyWrong as error:
        raise KeysWrong(f"DMP_AUDIT_WITNESS_POLICY_FILE: {error}") from None
