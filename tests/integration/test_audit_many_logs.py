"""Three logs instead of one: each has its own origin and key, and is whole; a dossier's events all lie in one."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dmp.audit.v1 import audit_pb2, log_pb2
from ops.audit.receipts import check_receipt
from ops.audit.verify import Verification
from services.audit.integration import Integrator
from services.audit.leaf import COMMITMENT_TAG
from services.audit.logs import KeysWrong, read_signers
from services.audit.tiles import ForkFound
from services.audit.tree import LogTree
from services.audit.witnesses import Witnesses
from services.runtime.identifiers import event_name
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.note import COSIGNATURE, NoteWrong, Signer
from services.runtime.tlog.policy import Policy, parse_policy
from services.witness.__main__ import application
from services.witness.cosigning import Witness
from services.witness.store import WitnessStore
from tests import independent_verifier
from tests.audit_log import DOSSIER, LogUnderTest, copy, empty, event, migrated, places, signer
from tests.audit_questions import OPERATOR, Asked
from tests.integration.test_audit_tree import resources
from tests.integration.test_audit_verify import Published

LOGS = 3
DOSSIERS = [DOSSIER + number for number in range(7)]


@pytest.fixture(scope="module")
def many_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(many_database: str) -> AsyncIterator[Asked]:
    await empty(many_database)
    log = await LogUnderTest.open(many_database, log_count=LOGS)
    yield Asked(log)
    await log.close()


async def fill(log: LogUnderTest, count: int) -> list[tuple[audit_pb2.AuditEvent, int, int]]:
    """Events of several dossiers and of none, with their places."""
    events = [event(([*DOSSIERS, 0])[number % 8]) for number in range(count)]
    receipts = await log.append(*events)
    places(receipts)
    assert places(await log.append(*map(copy, events))) == places(receipts), "a retry finds the same log"
    return [(e, r.log_id, r.leaf_index) for e, r in zip(events, receipts, strict=True)]  # type: ignore[union-attr]


async def size_of(tree: LogTree) -> int:
    return parse(await tree.checkpoint())[0].size


async def test_each_log_is_whole_under_its_own_origin_and_key_and_holds_whole_dossiers(audit: Asked) -> None:
    sent = await fill(audit.log, 900)
    await audit.log.integrate()
    trees = audit.log.logs.trees
    assert len({tree.origin for tree in trees}) == len({tree.signer.verifier.text() for tree in trees}) == LOGS
    logs_of: dict[int, set[int]] = {}
    for each, log_id, _ in sent:
        logs_of.setdefault(each.health_id, set()).add(log_id)
    assert all(len(found) == 1 for dossier, found in logs_of.items() if dossier), "a dossier lies in one"
    assert len(set.union(*(found for dossier, found in logs_of.items() if dossier))) == LOGS
    assert logs_of[0] == set(range(LOGS)), "events about none are spread"
    counts = Counter(log_id for _, log_id, _ in sent)
    for tree in trees:
        files = await resources(tree, counts[tree.log_id])
        entries = independent_verifier.whole_log(files.__getitem__, tree.signer.verifier.text())
        mine = {place: each.event_id for each, log_id, place in sent if log_id == tree.log_id}
        assert [entry[1:17] for entry in entries] == [mine[place] for place in range(len(entries))]
        own = Policy.unwitnessed(tree.signer.verifier)
        assert (await Verification(Published(files), own).run()).sound
        stranger = Policy.unwitnessed(trees[(tree.log_id + 1) % LOGS].signer.verifier)
        assert not (await Verification(Published(files), stranger).run()).sound


async def test_a_receipt_holds_under_the_key_of_its_log_alone(audit: Asked) -> None:
    sent = await fill(audit.log, 64)
    await audit.log.integrate()
    for number in range(LOGS):
        each = next(e for e, log_id, _ in sent if log_id == number and e.health_id)
        name = event_name(each.health_id, uuid.UUID(bytes=each.event_id))
        answer = await audit.ask("GetReceipt", audit_pb2.GetReceiptRequest(name=name), health_id=each.health_id)
        assert answer.receipt.log_id == number
        assert answer.log_key == signer(number).verifier.text()
        proof = answer.proof.encode()
        independent_verifier.receipt(proof, answer.log_key, [], COMMITMENT_TAG)
        assert check_receipt(proof, Policy.unwitnessed(signer(number).verifier)).event.event_id == each.event_id
        with pytest.raises(NoteWrong):
            check_receipt(proof, Policy.unwitnessed(signer((number + 1) % LOGS).verifier))


async def test_one_witness_watches_each_log_on_its_own(audit: Asked, tmp_path: Path) -> None:
    await fill(audit.log, 40)
    key = Signer.generate("witness.test", COSIGNATURE)
    policy = parse_policy(f"witness w {key.verifier.text()} http://witness.test\nquorum w\n")
    watching = Witness(
        key, [signer(number).verifier for number in range(LOGS)], WitnessStore.open(tmp_path / "w"), lambda: 1.7e9
    )
    transport = httpx.ASGITransport(application(watching))
    for tree in audit.log.logs.trees:
        witnesses = Witnesses(policy, 5.0, _client=httpx.AsyncClient(transport=transport))
        mine = replace(tree, policy=policy)
        work = Integrator(mine, witnesses, Lease(audit.log.pool, f"t{tree.log_id}"), Metrics(), every=0.01)
        await work.open()
        await work.step()
        content = await mine.checkpoint()
        assert independent_verifier.signed_by(content, key.verifier.text())
        assert set(await witnesses.seen(tree.origin, tree.signer.verifier)) == {"w"}
        await work.close()
    assert len({(await tree.checkpoint()).split(b"\n")[2] for tree in audit.log.logs.trees}) == LOGS


async def test_logs_that_change_places_are_refused(audit: Asked) -> None:
    await fill(audit.log, 40)
    await audit.log.integrate()
    first, second = audit.log.logs.trees[:2]
    with pytest.raises(ForkFound, match="key belongs to another log"):
        await replace(first, signer=second.signer).check()
    await audit.log.pool.execute("UPDATE tile SET log_id = 9 WHERE log_id = 0")
    await audit.log.pool.execute("UPDATE tile SET log_id = 0 WHERE log_id = 1")
    with pytest.raises(ForkFound):
        await first.check()


async def test_operators_see_each_log_and_counts_over_all(audit: Asked) -> None:
    await fill(audit.log, 40)
    await audit.log.integrate()
    logs = (await audit.ask("ListLogs", log_pb2.ListLogsRequest(), OPERATOR)).logs
    assert [(each.log_id, each.origin) for each in logs] == [(n, signer(n).name) for n in range(LOGS)]
    assert [each.tree_size for each in logs] == [await size_of(tree) for tree in audit.log.logs.trees]
    for number in range(LOGS):
        await audit.derive(log_id=number)
    day = "2026-11-22"
    request = audit_pb2.CountEventsRequest(start_day=day, end_day=day)
    assert sum(each.event_count for each in (await audit.ask("CountEvents", request, OPERATOR)).counts) == 40


def test_two_logs_with_one_key_or_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0.skey").write_text(signer(0).text())
    (tmp_path / "1.skey").write_text(signer(0).text())
    with pytest.raises(KeysWrong, match="an origin and a key of its own"):
        read_signers(tmp_path, 2)
    (tmp_path / "1.skey").write_text(Signer.generate(signer(0).name).text())
    with pytest.raises(KeysWrong, match="an origin and a key of its own"):
        read_signers(tmp_path, 2)
    with pytest.raises(KeysWrong, match=r"2\.skey"):
        read_signers(tmp_path, 3)
