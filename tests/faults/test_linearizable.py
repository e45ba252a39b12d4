"""Zero staleness, by a checked history: several processes change and check on several replicas, one stopped at times.

A checker (`linear`) looks whether the history could have happened one operation after another. It finds nothing in the
service, and does find the stale cache that is put in on purpose.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from dmp.consent.v1 import consent_pb2 as pb
from ops.local.registrations import PORTAL
from ops.local.stack import ROOT
from services.runtime.identifiers import dossier_name, new_health_id
from tests.consent_service import NOW, consent_record, professional
from tests.faults.campaign import Budget, amount, publish
from tests.faults.clients import Clients
from tests.faults.fleet import REPLICAS, Fleet
from tests.faults.linear import Operation, violations
from tests.faults.linear_client import Orders
from tests.platform_calls import AUDIENCE, ISSUER

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPERATIONS = amount(4_000, 100_000)
_PROCESSES = 3
_DOSSIERS = 4
_PEOPLE = ("899700000021", "899700000022", "899700000023")
_SLICE = 10_000


async def opened(clients: Clients) -> tuple[list[int], list[Operation]]:
    """New dossiers, and their openings as the first operations."""
    dossiers = [int(new_health_id()) for _ in range(_DOSSIERS)]
    for dossier in dossiers:
        consent = consent_record(NOW.replace(year=2025))
        request = pb.OpenDossierRequest(name=dossier_name(dossier), consent=consent, request_id=f"open-{dossier}")
        await clients.set_up("OpenDossier", request, pb.OpenDossierResponse, professional())
    return dossiers, [Operation("open", dossier, "", 0.0, 0.0, 1) for dossier in dossiers]


async def history(fleet: Fleet, clients: Clients, operations: int, *, stops: bool = True) -> list[Operation]:
    """What several processes did and were told, on dossiers of their own."""
    dossiers, told = await opened(clients)
    stack, chance = fleet.stack, random.Random()
    mine = stack.authority.service("gateway")
    orders = [
        Orders(
            addresses=[stack.address("consent", number) for number in range(REPLICAS)],
            certificate=str(mine.certificate),
            key=str(mine.key),
            authority=str(mine.authority),
            signing_key=str(stack.tokens.signing_key),
            kid=stack.tokens.kid,
            issuer=ISSUER,
            audience=AUDIENCE,
            client_id=PORTAL,
            dossiers=dossiers,
            people=list(_PEOPLE),
            operations=operations // _PROCESSES,
            seed=chance.randrange(1 << 30),
        )
        for _ in range(_PROCESSES)
    ]
    stopping = asyncio.ensure_future(stopped_at_times(fleet, chance)) if stops else None
    try:
        lines = await asyncio.gather(*map(ran, orders))
    finally:
        if stopping is not None:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
    return told + [Operation(*json.loads(line)) for each in lines for line in each]


async def ran(orders: Orders) -> Sequence[bytes]:
    """The lines of one process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.linear_client",
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'stubs'}", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    written, _ = await process.communicate(json.dumps(asdict(orders)).encode())
    assert process.returncode == 0
    return written.splitlines()


async def stopped_at_times(fleet: Fleet, chance: random.Random) -> None:
    """One replica or the other stands still for a while, with whatever it had read already."""
    while True:
        replica = fleet.replica("consent", chance.randrange(REPLICAS))
        replica.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(chance.uniform(0.05, 0.4))
        finally:
            replica.send(signal.SIGCONT)
        await asyncio.sleep(chance.uniform(0.1, 0.6))


@pytest.mark.timeout(3600)
async def test_the_history_of_several_processes_could_have_happened_one_by_one(fleet: Fleet, clients: Clients) -> None:
    budget, done, changes = Budget(), 0, 0
    while done < OPERATIONS and budget.left > 0:
        operations = await history(fleet, clients, min(_SLICE, OPERATIONS))
        assert violations(operations) == []
        done += len(operations)
        changes += sum(each.kind != "check" for each in operations)
        publish("linearizable", {"operations": done, "of": OPERATIONS, "changes": changes, "violations": 0})
    assert changes > OPERATIONS // 20


@pytest.mark.timeout(600)
async def test_a_stale_cache_is_found(fleet: Fleet, clients: Clients) -> None:
    for number in range(REPLICAS):
        await fleet.kill("consent", number)
        await fleet.start("consent", number, prelude="tests.faults.stale_cache")
    try:
        found = violations(await history(fleet, clients, 1_500, stops=False))
    finally:
        for number in range(REPLICAS):
            await fleet.kill("consent", number)
        await fleet.start_all()
    assert any("stale" in each for each in found)
