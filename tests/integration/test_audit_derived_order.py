"""What is made of the trail when events come out of order, in one heap, in secret, or to nobody who answers."""

from __future__ import annotations

import datetime as dt

from dmp.audit.v1 import audit_pb2, notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit.notices import Outbox, SmtpDelivery
from services.audit.sights import classes
from services.runtime.identifiers import dossier_name
from services.runtime.jobs import Lease
from services.runtime.metrics import Metrics
from tests.audit_log import DOSSIER, places
from tests.audit_questions import DOCTOR, NOW, NURSE, OPERATOR, Asked, happened
from tests.integration.test_audit_derived import audit, derived_database
from tests.ports import free_port

__all__ = ["audit", "derived_database"]


async def test_an_address_that_fails_for_months_is_tried_again_and_ends_nothing(audit: Asked) -> None:
    places(await audit.log.append(happened(mode=context_pb2.ACCESS_MODE_BREAK_GLASS)))
    await audit.derive()
    await audit.log.pool.execute("UPDATE notice SET attempts = 5000")
    delivery = SmtpDelivery("127.0.0.1", free_port(), "dmp@notices.test", "{recipient}@notices.test", start_tls=False)
    assert (
        await Outbox(
            audit.log.pool, audit.log.digests.tags, delivery, Metrics(), Lease(audit.log.pool, "notices")
        ).step()
        == 0
    )
    again = "SELECT count(*) FROM notice WHERE attempts = 5001 AND next_attempt_at > now() + interval '59 minutes'"
    assert await audit.log.pool.fetchval(again) == 2


async def test_events_of_one_moment_are_one_episode_in_whatever_order_they_reach_the_log(audit: Asked) -> None:
    mode = context_pb2.ACCESS_MODE_BREAK_GLASS
    first = dt.datetime(2026, 11, 25, 0, 0, tzinfo=dt.UTC)
    moments = (0, -40, 15, -90, 7_000_000)
    for batch in (moments[:2], moments[2:]):
        at = [first + dt.timedelta(milliseconds=each) for each in batch]
        places(await audit.log.append(*(happened(mode=mode, at=each) for each in at)))
        await audit.derive()
    places(await audit.log.append(happened(mode=mode, at=first + dt.timedelta(hours=9))))
    places(await audit.log.append(happened(mode=mode, at=first + dt.timedelta(hours=7))))
    await audit.derive()
    told = (await audit.ask("ListNotices", notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER)))).notices
    assert sorted(len(each.events) for each in told) == [1, 6]


async def test_what_is_unusual_is_found_across_the_hours_of_one_step(audit: Asked) -> None:
    mode = context_pb2.ACCESS_MODE_BREAK_GLASS
    hours = [NOW.replace(minute=30) - dt.timedelta(hours=each) for each in (3, 3, 3, 2, 2, 2)]
    emergencies = [happened(mode=mode, at=at, health_id=DOSSIER + n, subject=NURSE) for n, at in enumerate(hours)]
    places(await audit.log.append(*emergencies))
    await audit.derive()
    items = (await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)).unusual_accesses
    assert [(each.detector, each.subject) for each in items] == [("break_glass_rate", NURSE)]
    assert "6 accès en urgence en 24 heures" in items[0].explanation


async def found_of(audit: Asked, detector: str) -> list[str]:
    work = await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)
    return [each.explanation for each in work.unusual_accesses if each.detector == detector]


async def test_whatever_shows_a_dossier_counts_also_after_acts_that_show_nothing(audit: Asked) -> None:
    """As software does it: ask how one stands, declare the authorisation, look; and each looks at something else."""
    ways = sorted(action for action, sight in classes().items() if sight)
    before = ("dossier.check", "authorization.grant", "document.submit")
    for number in range(30):
        dossier = DOSSIER + number
        acts = [happened(action, health_id=dossier, subject=NURSE) for action in before]
        seen = [happened(ways[(number + more) % len(ways)], health_id=dossier, subject=NURSE) for more in range(3)]
        places(await audit.log.append(*acts, *seen))
    await audit.derive()
    assert len(await found_of(audit, "many_dossiers")) == 1
    counted = await audit.log.pool.fetchval("SELECT sum(new_dossiers) FROM actor_window")
    assert counted == 30, "each dossier once, however much is looked at in it"


async def test_a_first_sight_is_found_behind_any_number_of_acts_that_show_nothing_and_is_one(audit: Asked) -> None:
    fed = [happened("document.submit", subject=NURSE) for _ in range(150)]
    for batch in (fed, [happened(subject=NURSE)], [happened("document.submit", subject=NURSE) for _ in range(3)]):
        places(await audit.log.append(*batch))
        await audit.derive()
    places(await audit.log.append(*(happened(subject=NURSE) for _ in range(3))))
    await audit.derive()
    assert await audit.log.pool.fetchval("SELECT sum(new_dossiers) FROM actor_window") == 1


async def test_an_unusual_access_of_a_secret_connection_is_not_told_to_whom_it_is_secret(audit: Asked) -> None:
    places(await audit.log.append(happened(reason=reasons.ERROR_REASON_BLOCKED, subject=NURSE, secret=True)))
    await audit.derive()
    [item] = (
        await audit.ask("ListUnusualAccesses", notice_pb2.ListUnusualAccessesRequest(), OPERATOR)
    ).unusual_accesses
    confirmed = notice_pb2.UNUSUAL_DECISION_CONFIRMED
    request = notice_pb2.DecideUnusualAccessRequest(name=item.name, decision=confirmed, request_id="decide-2")
    await audit.ask("DecideUnusualAccess", request, OPERATOR)
    notices = notice_pb2.ListNoticesRequest(parent=dossier_name(DOSSIER))
    assert not (await audit.ask("ListNotices", notices)).notices, "which representatives read as well"
    [told] = (await audit.ask("ListNotices", notices, DOCTOR)).notices
    assert "médecin traitant" in told.text


async def test_nobody_is_told_of_a_document_that_waits_in_secret(audit: Asked) -> None:
    def waits(*, secret: bool) -> audit_pb2.AuditEvent:
        return happened("document.waiting", secret=secret, basis=audit_pb2.ACCESS_BASIS_UNSPECIFIED)

    places(await audit.log.append(waits(secret=True), waits(secret=False)))
    await audit.derive()
    rows = await audit.log.pool.fetch("SELECT recipient FROM notice")
    assert [row["recipient"] for row in rows] == [notice_pb2.NOTICE_RECIPIENT_PATIENT]
