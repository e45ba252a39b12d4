"""What is kept beside the log: whatever is changed in whatever column of whatever table is found and named, what is
gone is missed, and no clear part or key is gone without an event of the log that says why."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import asyncpg
import pytest

from dmp.audit.v1 import log_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from ops.audit.verify import Verdict, Verification
from services.audit import derived_store, ending_store
from services.audit.destroying import destroy_dossier
from services.audit.retention import Retention, read_policy
from services.audit.tags import Place
from services.audit.tiles import ForkFound
from services.audit.told import Teller
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import transaction
from services.runtime.tlog.layout import Bundle, Tile
from tests.audit_log import DOSSIER, OTHER_DOSSIER, LogUnderTest, empty, migrated, places
from tests.audit_questions import NOW, NURSE, OPERATOR, Asked, happened
from tests.faults.campaign import CAMPAIGN
from tests.integration.test_audit_verify import UNWITNESSED, Stored

DESTROYED: Final = DOSSIER + 7
NOT_OF_THE_TRAIL: Final = {
    "lease": "who works now: says nothing of the trail, is gone in seconds, and two who work at once fork nothing",
    "job": "when a job last ran: says nothing of the trail",
    "schema_migration": "compared with the program's own at each start",
}
PICKED: Final = {"event": (0, 1, 5), "dossier_key": (1, 3), "unusual_access": (0, 1)}
"""Rows of each sort, in the order of their keys: given up, open, destroyed; there, gone; decided, not decided."""
POLICY = read_policy("kind,actions,months\nsearch,document.search,12\nrest,*,240\n")


@pytest.fixture(scope="module")
def tables_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(tables_database: str) -> AsyncIterator[Asked]:
    await empty(tables_database)
    log = await LogUnderTest.open(tables_database)
    yield Asked(log)
    await log.close()


class Live(Stored):
    """The log as the service serves it at this moment."""

    def __init__(self, log: LogUnderTest) -> None:
        super().__init__(log, {})
        self.tree = log.logs.trees[0]

    async def checkpoint(self) -> bytes:
        return await self.tree.checkpoint()

    async def tile(self, tile: Tile) -> bytes | None:
        return await self.tree.tile(tile)

    async def bundle(self, bundle: Bundle) -> bytes | None:
        return await self.tree.bundle(bundle)


async def verified(audit: Asked) -> Verdict:
    return await Verification(Live(audit.log), UNWITNESSED).run()


async def problems(audit: Asked) -> list[str]:
    """What is wrong, as who verifies reads it; a log that cannot be served says so itself."""
    try:
        return [str(each) for each in (await verified(audit)).findings]
    except ForkFound as error:
        return [str(error)]


async def destroy(audit: Asked, health_id: int) -> dt.datetime:
    log = audit.log
    at = await destroy_dossier(log.pool, log.keys, log.digests, log.log, health_id)
    await log.integrate()
    return at


async def lived(audit: Asked) -> None:
    """A log in which everything has happened that leaves a row somewhere."""
    log, glass = audit.log, context_pb2.ACCESS_MODE_BREAK_GLASS
    blocked = reasons.ERROR_REASON_BLOCKED
    places(
        await log.append(
            happened("document.search"),
            happened(mode=glass, said="coma"),
            happened(reason=blocked, subject=NURSE),
            happened(reason=blocked, subject="899700999888", health_id=OTHER_DOSSIER),
            happened(health_id=DESTROYED),
            happened("document.search", health_id=DESTROYED, secret=True),
            happened(health_id=OTHER_DOSSIER),
        )
    )
    await audit.derive()
    await log.integrate()
    work = await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)
    decided = notice_pb2.DecideUnusualAccessRequest(
        name=work.unusual_accesses[0].name, decision=notice_pb2.UNUSUAL_DECISION_EXPLAINED, request_id="decide-1"
    )
    await audit.ask("DecideUnusualAccess", decided, OPERATOR)
    await Teller(log.pool, log.keys, log.digests, log.log).destroyed(DESTROYED, NOW - dt.timedelta(hours=1))
    await destroy(audit, DESTROYED)
    await Retention(log.pool, log.keys, log.digests, log.log, POLICY).run(NOW + dt.timedelta(days=400))
    async with transaction(log.pool) as conn:
        await derived_store.set_aside(conn, log.digests.tags, 0, 1, "ValueError", dt.timedelta(minutes=10))
    await log.integrate()


async def tables(audit: Asked) -> dict[str, list[str]]:
    """The columns of every table of the database."""
    found: dict[str, list[str]] = {}
    for row in await audit.log.pool.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    ):
        found.setdefault(row["table_name"], []).append(row["column_name"])
    return found


def alterations(value: Any, chance: random.Random) -> Iterator[Any]:
    """Other values of the same kind: for bytes and texts with one bit of one of them flipped, of each in a campaign."""
    match value:
        case None:
            yield from (dt.datetime.now(dt.UTC), "somebody", b"x")
        case bool():
            yield not value
        case int():
            yield from (value ^ 1, value ^ 2, value + 4, value ^ 1 << 40)
        case bytes():
            for at in range(len(value)) if CAMPAIGN else [chance.randrange(len(value))] if value else []:
                yield value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]
            yield value + b"\0"
        case str():
            at = chance.randrange(len(value))
            yield value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
        case uuid.UUID():
            yield uuid.UUID(int=value.int ^ 1 << chance.randrange(128))
        case dt.datetime():
            yield value + dt.timedelta(microseconds=1)
        case dt.date():
            yield value + dt.timedelta(days=1)
        case list():
            yield from ([*value, *(value or ["somebody"])[:1]], [each ^ 1 for each in value if isinstance(each, int)])


async def altered(audit: Asked, table: str, column: str, row: Mapping[str, Any], chance: random.Random) -> int:
    """Changes one value of a row, each way, and verifies; how often the database took it."""
    taken = 0
    for value in alterations(row[column], chance):
        if value == row[column] or (taken and not CAMPAIGN):
            continue
        try:
            ctid = await audit.log.pool.fetchval(
                f"UPDATE {table} SET {column} = $1 WHERE ctid = $2 RETURNING ctid",  # noqa: S608
                value,
                row["ctid"],
            )
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.NumericValueOutOfRangeError):
            continue
        taken += 1
        found = await problems(audit)
        assert found, (table, column, row[column], value)
        assert any(table in each or table == "log_head" for each in found), (table, column, value, found)
        row = dict(row) | {
            "ctid": await audit.log.pool.fetchval(
                f"UPDATE {table} SET {column} = $1 WHERE ctid = $2 RETURNING ctid",  # noqa: S608
                row[column],
                ctid,
            )
        }
    return taken


async def test_every_column_of_every_row_of_every_table_counts(audit: Asked) -> None:
    await lived(audit)
    sound = await verified(audit)
    assert (sound.findings, sound.destroyed) == ([], 3), "two of the destroyed dossier, and one search given up"
    chance, columns = random.Random(11), await tables(audit)
    for table in sorted(columns.keys() - NOT_OF_THE_TRAIL.keys()):
        rows = await audit.log.pool.fetch(f"SELECT ctid, * FROM {table}")  # noqa: S608
        assert rows, f"{table} is empty in this test"
        for column in columns[table]:
            taken = 0
            for number in range(len(rows)) if CAMPAIGN else PICKED.get(table, (0,)):
                one = f"SELECT ctid, * FROM {table} ORDER BY 2, 3 OFFSET {number} LIMIT 1"  # noqa: S608
                [row] = await audit.log.pool.fetch(one)
                taken += await altered(audit, table, column, dict(row), chance)
            assert taken, (table, column)
    assert (await verified(audit)).sound


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM derived",
        "DELETE FROM day_count WHERE ctid = (SELECT min(ctid) FROM day_count)",
        "DELETE FROM notice WHERE ctid = (SELECT min(ctid) FROM notice)",
        "DELETE FROM unusual_access WHERE ctid = (SELECT min(ctid) FROM unusual_access)",
        "DELETE FROM set_aside",
        "DELETE FROM destruction",
        "DELETE FROM dossier_key WHERE wrapped IS NULL",
        "DELETE FROM tile",
        "DELETE FROM checkpoint",
        "DELETE FROM log_head",
        "WITH ever AS (UPDATE event SET event_time = 'infinity') UPDATE notice SET happened_at = '-infinity'",
        "INSERT INTO tile SELECT 0, 9, 9, hashes FROM tile LIMIT 1",
        "INSERT INTO tile SELECT 5, 0, 0, hashes FROM tile LIMIT 1",
        "INSERT INTO log_head VALUES (1, 0)",
        "UPDATE unusual_access SET decision = 2, decided_at = now(), decided_by = 'nobody' WHERE decision = 0",
    ],
)
async def test_what_is_gone_or_came_from_elsewhere_is_missed(audit: Asked, change: str) -> None:
    await lived(audit)
    await audit.log.pool.execute(change)
    assert await problems(audit)


async def test_an_old_row_put_back_is_found(audit: Asked) -> None:
    """Its tag is right: it is one count that stands for another day's state."""
    places(await audit.log.append(happened()))
    await audit.derive()
    old = await audit.log.pool.fetchrow("SELECT event_count, tag FROM day_count")
    places(await audit.log.append(happened()))
    await audit.derive()
    await audit.log.integrate()
    assert (await verified(audit)).sound
    await audit.log.pool.execute("UPDATE day_count SET event_count = $1, tag = $2", *(old or ()))
    assert any("day_count" in each for each in await problems(audit))


async def test_what_did_not_answer_for_itself_is_not_blessed_by_a_later_change(audit: Asked) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    places(await audit.log.append(happened(mode=glass)))
    await audit.derive()
    for change in (
        "UPDATE day_count SET event_count = event_count + 1",
        "UPDATE notice SET kind = kind",
        "UPDATE actor_window SET break_glass = 0",
    ):
        await audit.log.pool.execute(change)
    await audit.log.pool.execute("UPDATE notice SET happened_at = happened_at - interval '1 minute'")
    places(await audit.log.append(happened(mode=glass), happened(health_id=OTHER_DOSSIER)))
    await audit.derive()
    await audit.log.integrate()
    named = {each.split(",")[0] for each in await problems(audit)}
    assert {"table day_count", "table notice", "table actor_window"} <= named


# --- why a clear part or a key is gone -------------------------------------------------------------------------------


async def test_an_emptied_key_makes_no_event_unreadable_unseen(audit: Asked) -> None:
    places(await audit.log.append(happened(), happened(), happened(health_id=OTHER_DOSSIER)))
    await audit.log.integrate()
    await audit.log.pool.execute(
        "UPDATE dossier_key SET wrapped = NULL, destroyed_at = now() WHERE health_id = $1", DOSSIER
    )
    found = await problems(audit)
    assert [each.partition(":")[0] for each in found] == [
        "event 0, column dossier_key.wrapped",
        "event 1, column dossier_key.wrapped",
        f"table dossier_key, row {dossier_name(DOSSIER)}",
    ]
    assert all("no event of the log says" in each for each in found)
    await destroy(audit, OTHER_DOSSIER)
    rows = await audit.log.pool.fetchrow("SELECT log_id, leaf_index, tag FROM destruction")
    await audit.log.pool.execute("INSERT INTO destruction VALUES ($1, $2, $3, $4)", DOSSIER, *(rows or ()))
    found = await problems(audit)
    assert f"table destruction, row {dossier_name(DOSSIER)}: is not what was kept there" in found
    assert any("event 0, column dossier_key.wrapped: its dossier's key is gone" in each for each in found)


async def test_an_event_cannot_be_hidden_among_those_of_a_destroyed_dossier(audit: Asked) -> None:
    places(await audit.log.append(happened(), happened(health_id=OTHER_DOSSIER)))
    await destroy(audit, OTHER_DOSSIER)
    assert (await verified(audit)).sound
    await audit.log.pool.execute(
        """UPDATE event SET health_id = $1, content_digest = '',
           actor_digest = (SELECT actor_digest FROM event WHERE leaf_index = 1) WHERE leaf_index = 0""",
        OTHER_DOSSIER,
    )
    assert [each.partition(":")[0] for each in await problems(audit)] == ["event 0, column actor_digest"]


async def test_a_destruction_that_stops_is_seen_and_goes_on_wherever_it_stopped(audit: Asked) -> None:
    log, long_ago = audit.log, dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    places(await log.append(*(happened() for _ in range(3))))
    told = await Teller(log.pool, log.keys, log.digests, log.log).destroyed(DOSSIER, long_ago)
    await log.integrate()
    assert [each.partition(":")[0] for each in await problems(audit)] == ["event 3, column dossier_key.wrapped"]
    async with transaction(log.pool) as conn:
        await log.keys.destroy(conn, DOSSIER, told.at)
        await ending_store.add_destruction(conn, log.digests.tags, DOSSIER, told.place)
    found = await problems(audit)
    assert [each.partition(":")[0] for each in found] == [
        f"event {leaf}, column dossier_key.wrapped" for leaf in range(3)
    ]
    assert all("was destroyed, and not this row" in each for each in found)
    assert await destroy(audit, DOSSIER) == await destroy(audit, DOSSIER) == long_ago
    done = await verified(audit)
    assert (done.findings, done.destroyed) == ([], 3)
    assert await log.pool.fetchval("SELECT count(*) FROM event") == 4, "it is told once"


async def test_a_key_put_back_from_a_backup_is_seen(audit: Asked) -> None:
    places(await audit.log.append(happened()))
    wrapped = await audit.log.pool.fetchval("SELECT wrapped FROM dossier_key WHERE health_id = $1", DOSSIER)
    await destroy(audit, DOSSIER)
    await audit.log.pool.execute(
        "UPDATE dossier_key SET wrapped = $1, destroyed_at = NULL WHERE health_id = $2", wrapped, DOSSIER
    )
    found = await problems(audit)
    named = f"table dossier_key, row {dossier_name(DOSSIER)}"
    assert found == [f"{named}: the dossier was destroyed, and its key is there or its row is gone"]


async def test_nothing_that_is_published_tells_which_dossier_was_destroyed(audit: Asked) -> None:
    places(await audit.log.append(happened(), happened(health_id=OTHER_DOSSIER)))
    await destroy(audit, OTHER_DOSSIER)
    bundle = await audit.log.logs.trees[0].bundle(Bundle(0, 3)) or b""
    for said in (OTHER_DOSSIER.to_bytes(8, "big"), dossier_name(OTHER_DOSSIER).encode(), b"destroy"):
        assert said not in bundle
    assert len(bundle) == 3 * 51, "an entry like any other"


# --- logs from before ------------------------------------------------------------------------------------------------


async def before_tags(audit: Asked) -> None:
    """The database as an older release left it."""
    for table in ("day_count", "notice", "unusual_access", "actor_window", "set_aside", "given_up"):
        await audit.log.pool.execute(f"UPDATE {table} SET tag = ''")  # noqa: S608
    await audit.log.pool.execute("UPDATE derived SET tag = '', counted = 0, notices = 0, items = 0, aside = 0")
    await audit.log.pool.execute("UPDATE event SET actor_digest = '' WHERE content_digest = ''")
    await audit.log.pool.execute("DELETE FROM destruction")


async def test_what_was_kept_before_rows_bore_tags_is_adopted_by_an_operator_and_the_log_says_so(audit: Asked) -> None:
    await lived(audit)
    await before_tags(audit)
    assert len(await problems(audit)) > 10
    places(await audit.log.append(happened(health_id=OTHER_DOSSIER)))
    await audit.derive()
    request = log_pb2.AdoptRowsRequest(request_id="adopt-rows-1")
    adopted = await audit.ask("AdoptRows", request, OPERATOR)
    assert (adopted.row_count, adopted.key_count) == (3, 1)
    await audit.log.integrate()
    found = await verified(audit)
    assert (found.findings, found.destroyed, found.adopted) == ([], 0, 3)
    [event] = [each for each in await audit.recorded(0) if each.action == "log.adopt"]
    assert event.actor.subject == "operator-1"
    again = await audit.ask("AdoptRows", request, OPERATOR)
    assert (again.row_count, again.key_count, again.derived_count) == (0, 0, 0)
    await destroy(audit, OTHER_DOSSIER)
    assert (await verified(audit)).findings == []


async def test_what_was_emptied_after_an_adoption_is_found_and_a_later_one_does_not_hide_that_it_was_one(
    audit: Asked,
) -> None:
    places(await audit.log.append(happened(), happened()))
    await audit.ask("AdoptRows", log_pb2.AdoptRowsRequest(request_id="adopt-rows-1"), OPERATOR)
    await audit.log.integrate()
    emptied = "UPDATE event SET sealed = '', content_digest = '', actor_digest = '' WHERE leaf_index = 1"
    await audit.log.pool.execute(emptied)
    assert ["nothing says why" in each for each in await problems(audit)] == [True]
    places(await audit.log.append(happened()))
    await audit.log.integrate()
    end = audit.log.digests.tags.end
    async with audit.log.pool.acquire() as conn:
        [row] = await ending_store.bare(conn, 0, 0, 2)
        await ending_store.clothe(conn, 0, [1], [end(row.kept(0, b""), Place(0, 0))])
    assert ["names an event" in each for each in await problems(audit)] == [True]
