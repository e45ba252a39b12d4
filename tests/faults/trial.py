"""A trial: load on a fleet, something broken meanwhile, and the check of everything afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from ops.local.state import State
from tests.faults.clients import Clients, Dossier
from tests.faults.history import History, Records, check
from tests.faults.load import INSISTENT, Busy, Manner

_SETTLE_SECONDS: Final = 15.0
_UNFORESEEN: Final = (b'"defect"', b'"statement_failed"', b'"append_failed"')
"""What services log when they answer INTERNAL."""


@dataclass(slots=True)
class Trial:
    """One history, on dossiers that nobody else touches."""

    clients: Clients
    records: Records
    dossiers: Sequence[Dossier]
    since: int
    begun: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    history: History = field(default_factory=History)

    @classmethod
    async def open(cls, clients: Clients, dossiers: int, records: Records | None = None) -> Trial:
        """A trial on new dossiers; everything must be up, and the log is quiet when it begins."""
        records = records or Records(clients.fleet.stack)
        made = await asyncio.gather(*(clients.new_dossier() for _ in range(dossiers)))
        await settled(records)
        return cls(clients, records, made, await records.log_size())

    @asynccontextmanager
    async def loaded(self, chance: random.Random, manner: Manner = INSISTENT) -> AsyncIterator[None]:
        """Every dossier has its busy client inside the block; each ends its last change after it."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for dossier in self.dossiers:
                client = Busy(self.clients, self.history, dossier, random.Random(chance.random()), manner)
                group.create_task(client.run(stop))
            try:
                yield
            finally:
                stop.set()

    async def judge(self) -> list[str]:
        """Everything that is wrong, once the outboxes are empty."""
        await settled(self.records)
        return defects(self.clients.fleet.state, self.begun) + await check(
            self.history, self.records, [dossier.health_id for dossier in self.dossiers], self.since
        )


async def settled(records: Records) -> None:
    """Return when every outbox is empty, or after a while: the check then says so."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while await records.undelivered() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def defects(state: State, since: str) -> list[str]:
    """What the services have logged as a defect (an exception that they did not foresee) since an instant."""
    found = []
    for path in sorted((state.root / "log").glob("*.log")):
        for line in path.read_bytes().splitlines():
            if line.startswith(b"{") and any(event in line for event in _UNFORESEEN):
                entry = json.loads(line)
                if entry["timestamp"] >= since:
                    where = " < ".join(reversed(entry.get("error_stack", [])[-6:]))
                    found.append(f"{path.stem}: {entry.get('error_type')} in {entry.get('method')}: {where}")
    return found
