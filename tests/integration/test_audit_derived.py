"""What is made of the trail: counts, notices, unusual accesses; and what is left of it after destruction."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.audit.notices import LogDelivery, Outbox, SmtpDelivery
from services.audit.tags import END_BYTES
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import dossier_name, format_health_id
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from services.runtime.tlog.layout import Bundle
from tests.audit_log import DOSSIER, OTHER_DOSSIER, LogUnderTest, empty, migrated, places
from tests.audit_questions import DOCTOR, NOW, NURSE, OPERATOR, Asked, happened, listing
from tests.mailbox import mail_server
from tests.ports import free_port


@pytest.fixture(scope="module")
def derived_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def audit(derived_database: str) -> AsyncIterator[Asked]:
    await empty(derived_database)
    log = await LogUnderTest.open(derived_database)
    yield Asked(log)
    await log.close()


# --- counts, notices, unusual accesses -------------------------------------------------------------------------------


async def test_days_are_counted_once_however_often_derivation_runs(audit: Asked) -> None:
    yesterday = NOW - dt.timedelta(days=1)
    places(await audit.log.append(*(happened() for _ in range(300)), happened(at=yesterday)))
    await audit.derive()
    await audit.derive()
    request = audit_pb2.CountEventsRequest(start_day=yesterday.date().isoformat(), end_day=NOW.date().isoformat())
    counts = (await audit.ask("CountEvents", request, OPERATOR)).counts
    assert [(each.day, each.action, each.event_count) for each in counts] == [
        (yesterday.date().isoformat(), "document.read", 1),
        (NOW.date().isoformat(), "document.read", 300),
    ]


async def test_an_emergency_episode_is_one_notice_to_the_patient_and_one_to_the_attending_physician(
    audit: Asked,
) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    first = happened(mode=glass, said="coma", at=NOW - dt.timedelta(hours=10))
    joined = happened("document.search", mode=glass, said="coma", at=NOW - dt.timedelta(hours=3))
    second = happened(mode=glass, said="coma", at=NOW)
    regulation = happened(mode=context_pb2.ACCESS_MODE_REGULATION, subject=NURSE, name="Régulateur")
    refused = happened(mode=glass, said="x", reason=reasons.ERROR_REASON_EMERGENCY_OPPOSED)
    secret = happened(mode=glass, said="x", subject=NURSE, secret=True, health_id=OTHER_DOSSIER)
    places(await audit.log.append(first, joined, second, regulation, refused, secret))
    await audit.derive()
    await audit.derive()
    request = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER))
    mine = (await audit.ask("ListNotices", request)).notices
    assert sorted(len(each.events) for each in mine) == [1, 1, 2]
    [episode] = [each for each in mine if len(each.events) == 2]
    assert episode.text.startswith("Le ")
    assert "Claire Martin, médecin est entré dans votre dossier" in episode.text
    assert "« coma »" in episode.text
    theirs = (await audit.ask("ListNotices", request, DOCTOR)).notices
    assert len(theirs) == 3
    assert "dont vous êtes le médecin traitant" in theirs[0].text
    audit.consent.allow(consent_pb2.TRACE_VIEW_OWN)
    assert not (await audit.ask("ListNotices", request, DOCTOR)).notices
    audit.consent.allow(consent_pb2.TRACE_VIEW_ALL)
    other = notice_pb2.ListNoticesRequest(parent=dossier_name(OTHER_DOSSIER))
    assert not (await audit.ask("ListNotices", other, health_id=OTHER_DOSSIER)).notices, "its representatives read it"
    assert len((await audit.ask("ListNotices", other, DOCTOR, OTHER_DOSSIER)).notices) == 1


async def test_whatever_an_emergency_opens_is_told_and_nothing_that_something_else_opens(audit: Asked) -> None:
    """A summary or the changes since the last visit are an entry like a document; a list of one's own dossiers, a
    document fed, or asking how one stands, are none (decisions 34 and 36)."""
    glass, regulation = context_pb2.ACCESS_MODE_BREAK_GLASS, context_pb2.ACCESS_MODE_REGULATION
    entries = ("clinical.summaries", "document.changes", "document.open", "document.list_sets", "representative.list")
    elsewhere = {
        "dossier.list_recent": audit_pb2.ACCESS_BASIS_AUTHORIZATION,
        "dossier.list_accessible": audit_pb2.ACCESS_BASIS_AUTHORIZATION,
        "document.submit": audit_pb2.ACCESS_BASIS_FEEDING,
        "dossier.check": audit_pb2.ACCESS_BASIS_UNSPECIFIED,
    }
    opened = [
        happened(action, mode=mode, said="coma", subject=f"{900 + number}{mode}")
        for number, action in enumerate(entries)
        for mode in (glass, regulation)
    ]
    others = [
        happened(action, mode=mode, said="coma", subject=f"{800 + number}{mode}", basis=basis)
        for number, (action, basis) in enumerate(elsewhere.items())
        for mode in (glass, regulation)
    ]
    places(await audit.log.append(*opened, *others))
    await audit.derive()
    told = (await audit.ask("ListNotices", notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER)))).notices
    assert sorted(len(each.events) for each in told) == [1] * len(opened)


async def test_notices_leave_by_mail_until_they_are_taken_and_say_nothing_of_care(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS, said="coma")))
    await audit.derive()
    with mail_server(refusals=1) as mailbox:
        delivery = SmtpDelivery(
            "127.0.0.1", mailbox.port, "dmp@notices.test", "{health_id}.{recipient}@notices.test", start_tls=False
        )
        outbox = Outbox(audit.log.pool, audit.log.digests.tags, delivery, Metrics(), Lease(audit.log.pool, "notices"))
        assert await outbox.step() == 1
        assert await outbox.step() == 0, "the refused one waits"
        await audit.log.pool.execute("UPDATE notice SET next_attempt_at = now()")
        assert await outbox.step() == 1
        assert await outbox.step() == 0
    assert mailbox.recipients == [
        f"{format_health_id(DOSSIER)}.patient@notices.test",
        f"{format_health_id(DOSSIER)}.physician@notices.test",
    ]
    for _, mail in mailbox.received:
        assert b"coma" not in mail
        assert b"Martin" not in mail
    request = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER))
    assert (await audit.ask("ListNotices", request)).notices[0].HasField("deliver_time")


async def test_patients_are_written_to_where_identity_says_and_others_read_in_the_platform(audit: Asked) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    places(await audit.log.append(happened(mode=glass), happened(mode=glass, health_id=OTHER_DOSSIER)))
    await audit.derive()
    known, asked = {DOSSIER: "claire@example.test"}, list[int]()

    async def email_of(health_id: int) -> str:
        asked.append(health_id)
        if len(asked) == 1:
            raise unavailable("identity")
        return known.get(health_id, "")

    with mail_server() as mailbox:
        delivery = SmtpDelivery("127.0.0.1", mailbox.port, "dmp@notices.test", start_tls=False, email_of=email_of)
        outbox = Outbox(audit.log.pool, audit.log.digests.tags, delivery, Metrics(), Lease(audit.log.pool, "notices"))
        await outbox.step()
        assert await audit.log.pool.fetchval("SELECT count(*) FROM notice WHERE delivered_at IS NULL") == 1
        await audit.log.pool.execute("UPDATE notice SET next_attempt_at = now()")
        await outbox.step()
        known[DOSSIER] = "not an address\r\nBcc: x"
    assert mailbox.recipients == ["claire@example.test"]
    assert DOSSIER in asked
    assert OTHER_DOSSIER in asked
    assert await audit.log.pool.fetchval("SELECT count(*) FROM notice WHERE delivered_at IS NULL") == 0
    rows = await audit.log.pool.fetch("SELECT * FROM notice")
    assert not any("example.test" in str(value) for row in rows for value in row.values()), "no address is kept"


async def test_attending_physicians_are_written_to_each_in_words_of_their_own(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS, said="coma")))
    await audit.derive()

    async def email_of(_health_id: int) -> str:
        return "claire@example.test"

    async def physicians_of(health_id: int) -> list[str]:
        assert health_id == DOSSIER
        return ["mt@medecin.test", "other@medecin.test"]

    with mail_server() as mailbox:
        delivery = SmtpDelivery(
            "127.0.0.1",
            mailbox.port,
            "dmp@notices.test",
            start_tls=False,
            email_of=email_of,
            physicians_of=physicians_of,
        )
        assert (
            await Outbox(
                audit.log.pool, audit.log.digests.tags, delivery, Metrics(), Lease(audit.log.pool, "notices")
            ).step()
            == 2
        )
    mails = mailbox.mails()
    assert mails.keys() == {"claire@example.test", "mt@medecin.test", "other@medecin.test"}
    for to, mail in mails.items():
        text = str(mail.get_content())
        assert ("dont vous êtes le médecin traitant" in text) == to.endswith("@medecin.test")
        assert mail["To"] == to, "nobody learns who else is told"
        assert "coma" not in text
        assert "Martin" not in text


async def test_a_physician_who_cannot_be_written_to_keeps_no_other_from_being_told(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS)))
    await audit.derive()
    unknown = True

    async def physicians_of(_health_id: int) -> list[str]:
        if unknown:
            raise unavailable("consent")
        return ["no address\r\nBcc: x", "mt@medecin.test"]

    waiting = "SELECT count(*) FROM notice WHERE delivered_at IS NULL"
    with mail_server() as mailbox:
        delivery = SmtpDelivery(
            "127.0.0.1", mailbox.port, "dmp@notices.test", start_tls=False, physicians_of=physicians_of
        )
        outbox = Outbox(audit.log.pool, audit.log.digests.tags, delivery, Metrics(), Lease(audit.log.pool, "notices"))
        await outbox.step()
        assert await audit.log.pool.fetchval(waiting) == 1, "while consent is silent the notice waits"
        unknown = False
        await audit.log.pool.execute("UPDATE notice SET next_attempt_at = now()")
        await outbox.step()
    assert mailbox.recipients == ["mt@medecin.test"]
    assert await audit.log.pool.fetchval(waiting) == 1, "and is tried again"


async def test_an_address_that_cannot_be_written_to_delays_its_notice_alone(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS)))
    await audit.derive()

    async def email_of(_health_id: int) -> str:
        return "claire@example.test\r\nBcc: everybody@example.test"

    delivery = SmtpDelivery("127.0.0.1", free_port(), "dmp@notices.test", start_tls=False, email_of=email_of)
    assert (
        await Outbox(
            audit.log.pool, audit.log.digests.tags, delivery, Metrics(), Lease(audit.log.pool, "notices")
        ).step()
        == 0
    )
    assert await audit.log.pool.fetchval("SELECT count(*) FROM notice WHERE delivered_at IS NULL AND attempts = 1") == 1


async def test_unusual_accesses_are_found_once_explained_and_decided_by_a_person(audit: Asked) -> None:
    many = [happened(health_id=DOSSIER + number, subject=NURSE) for number in range(35)]
    again = [happened(health_id=DOSSIER + number, subject=NURSE) for number in range(35)]
    usual = [happened(health_id=DOSSIER + number) for number in range(5)]
    blocked = happened(reason=reasons.ERROR_REASON_BLOCKED, subject="899700000001")
    for batch in (many, again, usual, [blocked]):
        places(await audit.log.append(*batch))
    await audit.derive()
    items = (await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)).unusual_accesses
    assert sorted((each.detector, each.subject) for each in items) == [
        ("after_block", "899700000001"), ("many_dossiers", NURSE),
    ]  # fmt: skip
    found = {each.detector: each for each in items}
    assert "35 dossiers ouverts pour la première fois en une heure (seuil : 30)" in found["many_dossiers"].explanation
    request = notice_pb2.DecideUnusualAccessRequest(
        name=found["after_block"].name, decision=notice_pb2.UNUSUAL_DECISION_CONFIRMED, request_id="decide-1"
    )
    for _ in range(2):
        decided = (await audit.ask("DecideUnusualAccess", request, OPERATOR)).unusual_access
        assert (decided.decision, decided.decided_by) == (notice_pb2.UNUSUAL_DECISION_CONFIRMED, "operator-1")
    request.decision = notice_pb2.UNUSUAL_DECISION_EXPLAINED
    with pytest.raises(DmpError) as late:
        await audit.ask("DecideUnusualAccess", request, OPERATOR)
    assert late.value.reason == reasons.ERROR_REASON_UNUSUAL_ACCESS_NOT_FOUND
    notices = (await audit.ask("ListNotices", notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER)))).notices
    assert [each.kind for each in notices] == [notice_pb2.NOTICE_KIND_UNUSUAL_ACCESS]
    waiting = await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)
    assert [each.detector for each in waiting.unusual_accesses] == ["many_dossiers"]


async def test_whoever_bears_the_patients_name_is_found_at_the_first_time_and_nothing_is_kept_while_identity_is_silent(
    audit: Asked,
) -> None:
    places(await audit.log.append(happened(name="Claire Martin"), happened(name="Claire Martin")))

    async def silent(asked: Sequence[tuple[int, str]]) -> list[bool]:
        raise unavailable("identity")

    with pytest.raises(DmpError):
        await audit.derive(silent)
    assert await audit.log.pool.fetchval("SELECT count(*) FROM day_count") == 0
    asked: list[tuple[int, str]] = []

    async def namesake(names: Sequence[tuple[int, str]]) -> list[bool]:
        asked.extend(names)
        return [True] * len(names)

    await audit.derive(namesake)
    assert asked == [(DOSSIER, "Claire Martin")]
    items = (await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)).unusual_accesses
    assert [each.detector for each in items] == ["same_name"]


async def test_an_event_that_cannot_be_looked_at_is_set_aside_alarmed_and_tried_again_and_ends_nothing(
    audit: Asked,
) -> None:
    bad, glass = DOSSIER + 3, context_pb2.ACCESS_MODE_BREAK_GLASS
    places(
        await audit.log.append(*(happened(health_id=DOSSIER + number, mode=glass, said="coma") for number in range(6)))
    )
    names = Names(bad)
    work = asyncio.ensure_future(audit.derivation(names).run())
    kept = "SELECT leaf_index, error_type FROM set_aside"
    await until(lambda: audit.log.pool.fetchval("SELECT next_leaf = 6 FROM derived"))
    assert [tuple(row) for row in await audit.log.pool.fetch(kept)] == [(3, "ValueError")]
    places(await audit.log.append(happened(health_id=DOSSIER + 9)))
    await until(lambda: audit.log.pool.fetchval("SELECT next_leaf = 7 FROM derived"))
    assert not work.done(), "the work goes on"
    assert await audit.log.pool.fetchval("SELECT sum(event_count) FROM day_count") == 6
    await audit.log.pool.execute("UPDATE set_aside SET next_attempt_at = now()")
    await until(lambda: audit.log.pool.fetchval("SELECT next_attempt_at > now() FROM set_aside"))
    names.bad = 0
    await audit.log.pool.execute("UPDATE set_aside SET next_attempt_at = now()")
    await until(lambda: audit.log.pool.fetchval("SELECT count(*) = 0 FROM set_aside"))
    work.cancel()
    assert await audit.log.pool.fetchval("SELECT sum(event_count) FROM day_count") == 7
    told = notice_pb2.ListNoticesRequest(parent=dossier_name(bad))
    assert len((await audit.ask("ListNotices", told, health_id=bad)).notices) == 1, "its patient is told in the end"


async def test_a_first_look_that_was_set_aside_is_still_the_first_when_it_is_taken_up(audit: Asked) -> None:
    places(await audit.log.append(*(happened() for _ in range(3)), happened(health_id=DOSSIER + 1)))
    names = Names(DOSSIER)
    derivation, counted = audit.derivation(names), "SELECT coalesce(sum(new_dossiers), 0) FROM actor_window"
    while await derivation.step():
        pass
    assert await audit.log.pool.fetchval(counted) == 1, "in the other dossier: here he has looked before"
    names.bad = 0
    await audit.log.pool.execute("UPDATE set_aside SET next_attempt_at = now()")
    assert await derivation.step()
    assert await audit.log.pool.fetchval(counted) == 2


class Names:
    """Nobody bears a patient's name, and one dossier cannot be asked about."""

    def __init__(self, bad: int) -> None:
        self.bad = bad

    async def __call__(self, asked: Sequence[tuple[int, str]]) -> list[bool]:
        if any(dossier == self.bad for dossier, _ in asked):
            return []
        return [False] * len(asked)


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    deadline = time.monotonic() + 60
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# --- destruction by law ----------------------------------------------------------------------------------------------


async def test_a_destroyed_dossier_is_gone_from_every_table_and_the_tree_stays_whole(audit: Asked) -> None:
    glass = context_pb2.ACCESS_MODE_BREAK_GLASS
    sent = [happened(mode=glass, said="coma"), happened(reason=reasons.ERROR_REASON_BLOCKED, subject=NURSE), happened()]
    kept = happened(health_id=OTHER_DOSSIER)
    places(await audit.log.append(*sent, kept))
    await audit.derive()
    await audit.log.integrate()
    before = await audit.log.logs.trees[0].bundle(Bundle(0, 4))
    request = audit_pb2.DestroyDossierRequest(health_id=DOSSIER, request_id="destroy-1")
    first = await audit.ask("DestroyDossier", request)
    again = await audit.ask("DestroyDossier", request)
    assert first.destroy_time == again.destroy_time
    assert await audit.log.logs.trees[0].bundle(Bundle(0, 4)) == before
    rows = await audit.log.pool.fetch("SELECT * FROM event WHERE health_id = $1", DOSSIER)
    assert all((len(row["actor_digest"]), row["content_digest"]) == (END_BYTES, b"") for row in rows)
    assert await audit.log.pool.fetchval("SELECT wrapped FROM dossier_key WHERE health_id = $1", DOSSIER) is None
    for table in ("notice", "unusual_access"):
        count = await audit.log.pool.fetchval(f"SELECT count(*) FROM {table} WHERE health_id = $1", DOSSIER)  # noqa: S608
        assert count == 0, table
    with pytest.raises(DmpError) as gone:
        await audit.ask("ListEvents", listing())
    assert gone.value.reason == reasons.ERROR_REASON_CONTENT_DESTROYED
    assert places(await audit.log.append(sent[0])) == [0], "a retry of an old event keeps its place"
    await audit.log.integrate()
    told = [each for each in await audit.recorded(0) if each.action == "dossier.destroy"]
    assert [each.objects[0] for each in told] == [dossier_name(DOSSIER)]
    other = audit_pb2.ListEventsRequest(parent=dossier_name(OTHER_DOSSIER))
    assert (await audit.ask("ListEvents", other, health_id=OTHER_DOSSIER)).events


async def test_a_line_in_the_log_tells_of_nobody(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS, said="coma")))
    await audit.derive()
    assert (
        await Outbox(
            audit.log.pool, audit.log.digests.tags, LogDelivery(), Metrics(), Lease(audit.log.pool, "n")
        ).step()
        == 2
    )
