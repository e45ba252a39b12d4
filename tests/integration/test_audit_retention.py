"""How long what happened can be read: by policy, by kind. Every proof stays valid, and nothing is given up early."""

from __future__ import annotations

import csv
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from importlib.resources import files

import pytest

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from ops.audit.receipts import check_receipt
from ops.audit.verify import Verdict, Verification
from services.audit import ending_store, tree_store
from services.audit.retention import Kind, PolicyUnusable, Retention, kind_of, read_policy
from services.audit.tags import END_BYTES
from services.audit.told import Expired, Teller
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, event_name
from services.runtime.names import AUDIT_ACTIONS
from tests.audit_log import DOSSIER, LogUnderTest, copy, empty, migrated, places
from tests.audit_questions import NOW, Asked, happened, listing
from tests.integration.test_audit_tree import resources
from tests.integration.test_audit_verify import UNWITNESSED, Stored

POLICY = read_policy(
    "kind,actions,months\nlasting,dossier.destroy trace.expire,0\nsearch,document.search,12\nrest,*,120\n"
)


@pytest.fixture(scope="module")
def retention_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(retention_database: str) -> AsyncIterator[Asked]:
    await empty(retention_database)
    log = await LogUnderTest.open(retention_database)
    yield Asked(log)
    await log.close()


async def at(audit: Asked, when: dt.datetime, policy: tuple[Kind, ...] = POLICY) -> None:
    """The job, at that time."""
    await audit.log.integrate()
    await audit.derive()
    await Retention(audit.log.pool, audit.log.keys, audit.log.digests, audit.log.log, policy).run(when)


async def listed(audit: Asked) -> list[str]:
    return [each.event.action for each in (await audit.ask("ListEvents", listing())).events]


def years(number: float) -> dt.timedelta:
    return dt.timedelta(days=366 * number)


async def test_each_kind_is_given_up_when_its_time_has_come_and_every_proof_stays_valid(audit: Asked) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    old = [happened("document.search"), happened("document.read", mode=glass, said="coma"), happened("dossier.destroy")]
    places(await audit.log.append(*old))
    await audit.log.integrate()
    name = event_name(DOSSIER, uuid.UUID(bytes=old[1].event_id))
    receipt = (await audit.ask("GetReceipt", audit_pb2.GetReceiptRequest(name=name))).proof
    before = await resources(audit.log.logs.trees[0], 3)
    await at(audit, NOW + years(0.5))
    assert await listed(audit) == ["trace.receipt", "dossier.destroy", "document.read", "document.search"]
    await at(audit, NOW + years(2))
    assert "document.search" not in await listed(audit)
    assert "document.read" in await listed(audit)
    notices = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER))
    assert len((await audit.ask("ListNotices", notices)).notices) == 1
    places(await audit.log.append(happened("document.get", at=NOW + years(10))))
    await at(audit, NOW + years(11))
    assert "document.read" not in await listed(audit)
    assert {"dossier.destroy", "document.get"} <= set(await listed(audit))
    assert not (await audit.ask("ListNotices", notices)).notices, "what was derived of it goes with it"
    for method, request in (
        ("GetEvent", audit_pb2.GetEventRequest(name=name)),
        ("GetReceipt", audit_pb2.GetReceiptRequest(name=name)),
    ):
        with pytest.raises(DmpError) as gone:
            await audit.ask(method, request)
        assert gone.value.reason == reasons.ERROR_REASON_EVENT_NOT_FOUND
    row = await audit.log.pool.fetchrow("SELECT sealed, actor_digest, content_digest FROM event WHERE leaf_index = 1")
    assert (row["sealed"], row["content_digest"], len(row["actor_digest"])) == (b"", b"", END_BYTES) if row else False
    after = await resources(audit.log.logs.trees[0], 3)
    assert {path: each for path, each in after.items() if path != "checkpoint"} == {
        path: each for path, each in before.items() if path != "checkpoint"
    }
    assert check_receipt(receipt.encode(), UNWITNESSED).event.event_id == old[1].event_id
    assert places(await audit.log.append(copy(old[1]))) == [1], "sent again it keeps its place"
    told = [each for each in await audit.recorded(0) if each.action == "trace.expire"]
    assert [each.objects[0].rpartition("/")[0] for each in told] == [
        "logs/0/retention/search", "logs/0/retention/rest",
    ]  # fmt: skip


async def verified(audit: Asked) -> Verdict:
    await audit.log.integrate()
    size = await audit.log.pool.fetchval("SELECT size FROM log_head")
    files = await resources(audit.log.logs.trees[0], size)
    return await Verification(Stored(audit.log, files), UNWITNESSED).run()


async def test_verification_takes_for_given_up_only_what_was_and_finds_what_is_emptied_early(audit: Asked) -> None:
    places(await audit.log.append(*(happened("document.search") for _ in range(5)), happened(), happened()))
    await at(audit, NOW + years(2))
    await audit.log.integrate()
    found = await verified(audit)
    assert (found.findings, found.destroyed) == ([], 5)
    emptied = await audit.log.pool.fetch(
        """UPDATE event SET sealed = '', content_digest = '',
           actor_digest = (SELECT actor_digest FROM event WHERE leaf_index = 4)
           WHERE leaf_index IN (5, 6) RETURNING leaf_index"""
    )
    assert len(emptied) == 2, "of a kind that is kept for ten years, behind the cursor of one that is not"
    found = await verified(audit)
    assert [each.resource for each in found.findings] == [f"event {leaf}, column actor_digest" for leaf in (5, 6)]


@pytest.mark.parametrize(
    ("leaves", "months", "why"),
    [
        ((0, 1, 2), 12, ""),
        ((0, 1), 12, "gives up other clear parts"),
        ((0, 1, 2), 60, "before its time"),
        ((0, 1, 2), 0, "before its time"),
    ],
)
async def test_what_this_service_itself_gives_up_wrongly_is_found(
    audit: Asked, leaves: tuple[int, ...], months: int, why: str
) -> None:
    """Who has the keys, a bug for one, still has to say in the log what he takes, and by which period."""
    log = audit.log
    places(await log.append(*(happened("document.search") for _ in range(4))))
    teller = Teller(log.pool, log.keys, log.digests, log.log)
    told = await teller.expired(Expired(0, "search", months, 0, 4, frozenset(leaves)), NOW + years(2))
    async with log.pool.acquire() as conn:
        [row] = await tree_store.rows_at(conn, 0, [2])
        await ending_store.give_up(conn, 0, [2], [log.digests.tags.end(row.kept(0, b""), told.place)])
    found = await verified(audit)
    assert [why in each.problem and each.resource for each in found.findings] == (
        ["event 2, column actor_digest"] if why else []
    )


async def test_what_tells_why_others_are_gone_is_kept_whatever_a_policy_says(audit: Asked) -> None:
    everything = read_policy("kind,actions,months\nall,*,12\n")
    places(await audit.log.append(happened("document.search")))
    await at(audit, NOW + years(2), everything)
    await at(audit, NOW + years(5), everything)
    assert (await verified(audit)).findings == []


async def test_a_step_that_is_repeated_is_told_once_and_finished(audit: Asked) -> None:
    log = audit.log
    places(await log.append(*(happened("document.search") for _ in range(3))))
    teller = Teller(log.pool, log.keys, log.digests, log.log)
    first = await teller.expired(Expired(0, "search", 12, 0, 3, frozenset(range(3))), NOW + years(2))
    await at(audit, NOW + years(2.5))
    assert (await verified(audit)).destroyed == 3
    ends = await log.pool.fetch("SELECT actor_digest FROM event WHERE leaf_index < 3")
    assert {row["actor_digest"][:12] for row in ends} == {bytes(4) + first.place.leaf_index.to_bytes(8, "big")}


async def test_one_wrong_clock_neither_hastens_nor_stops_it(audit: Asked) -> None:
    ahead = happened("document.search", at=NOW + years(80))
    behind = happened("document.search", at=NOW - years(40))
    places(await audit.log.append(happened("document.search"), ahead, behind, *(happened() for _ in range(4))))
    await at(audit, NOW)
    assert (await listed(audit)).count("document.search") == 3
    await at(audit, NOW + years(2))
    assert (await listed(audit)).count("document.search") == 0


async def test_nothing_is_given_up_that_no_checkpoint_covers(audit: Asked) -> None:
    places(await audit.log.append(happened("document.search")))
    await audit.derive()
    await audit.log.logs.trees[0].begin()
    await Retention(audit.log.pool, audit.log.keys, audit.log.digests, audit.log.log, POLICY).run(NOW + years(3))
    assert await audit.log.pool.fetchval("SELECT sealed <> '' FROM event WHERE leaf_index = 0")


def test_every_action_is_of_one_kind_and_an_unusable_policy_is_refused() -> None:
    policy = read_policy()
    assert {kind_of(action, policy).name for action in AUDIT_ACTIONS} == {kind.name for kind in policy}
    assert kind_of("document.read", policy).name == "access"
    assert kind_of("dossier.destroy", policy).cutoff(NOW) is None
    for text in (
        "",
        "kind,actions\nall,*\n",
        "kind,actions,months\nall,*,-1\n",
        "kind,actions,months\nsearch,document.search,12\n",
        "kind,actions,months\nall,*,12\nall,*,12\n",
        "kind,actions,months\nall,*,many\n",
        "kind,actions,months\na/b,*,12\n",
    ):
        with pytest.raises(PolicyUnusable):
            read_policy(text)


def test_a_period_is_counted_in_months() -> None:
    kind = Kind("x", ("*",), 13)
    assert kind.cutoff(dt.datetime(2026, 3, 31, 8, tzinfo=dt.UTC)) == dt.datetime(2025, 2, 28, 8, tzinfo=dt.UTC)
    assert kind.cutoff(dt.datetime(2026, 1, 5, tzinfo=dt.UTC)) == dt.datetime(2024, 12, 5, tzinfo=dt.UTC)


def test_each_period_says_what_it_rests_on() -> None:
    rows = list(csv.DictReader((files("services.audit") / "retention.csv").read_text("utf-8").splitlines()))
    assert {row["evidence"] for row in rows} == {"assumed"}, "no published text fixes how long a trace can be read"
    assert all(row["because"] for row in rows)
