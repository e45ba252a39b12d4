"""What becomes due by the passing of time: each deadline once, with a clock that the test moves, and across crashes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.duties import Duties
from services.consent.terms import years_after
from services.runtime import faults
from services.runtime.identifiers import dossier_name, new_health_id
from tests.consent_service import (
    NOW,
    NURSE,
    STRUCTURE,
    YEAR,
    Consent,
    grantee_of,
    operator,
    patient,
    professional,
    staff,
)
from tests.integration.test_consent_life import reopen
from tests.integration.test_consent_representatives import MAJORITY, register
from tests.refusals import refused

END = years_after(NOW, 10)


class Elsewhere:
    """The other services: what they were told to destroy, and how often they fail first."""

    def __init__(self, failures: int = 0) -> None:
        self.told: list[tuple[int, str]] = []
        self.failures = failures

    async def destroy(self, health_id: int, request_id: str) -> None:
        self.told.append((health_id, request_id))
        if self.failures:
            self.failures -= 1
            raise ConnectionError("not now")


def duties(consent: Consent, *elsewhere: Elsewhere) -> Duties:
    return Duties(consent.pool, tuple(each.destroy for each in elsewhere), lambda: None)


async def delivered(consent: Consent) -> None:
    """The relay has done its work."""
    await consent.pool.execute("DELETE FROM outbox")


async def events(consent: Consent, kind: str) -> list[audit_pb2.AuditEvent]:
    return [event for event in await consent.told() if event.action == kind]


async def kinds(consent: Consent, dossier: int) -> list[str]:
    rows = await consent.pool.fetch("SELECT kind FROM consent_event WHERE health_id = $1 ORDER BY epoch", dossier)
    return [row["kind"] for row in rows]


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_each_expiry_is_said_once_when_it_is_due_and_not_before(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.grant(dossier, staff())
    await register(consent, dossier, new_health_id())
    at_work = duties(consent)
    await at_work.run(NOW + YEAR - timedelta(seconds=1))
    assert await kinds(consent, dossier) == [
        "dossier.open",
        "authorization.grant",
        "authorization.grant",
        "representative.register",
    ]
    for _ in range(3):
        await at_work.run(NOW + YEAR)
    assert (await kinds(consent, dossier))[4:] == ["authorization.expire", "authorization.expire"]
    await at_work.run(MAJORITY)
    assert (await kinds(consent, dossier))[6:] == ["representative.expire"]
    told = await events(consent, "authorization.expire")
    assert {change.before for event in told for change in event.changes} == {
        f"professional/{professional().subject}",
        f"structure/{STRUCTURE}",
    }


async def test_what_was_renewed_ended_or_blocked_meanwhile_does_not_expire_at_its_old_time(consent: Consent) -> None:
    dossier = await consent.open()
    for actor in (professional(), professional(NURSE, "60"), staff()):
        await consent.grant(dossier, actor)
    consent.now[0] = NOW + YEAR
    await consent.grant(dossier)
    await consent.block(dossier, grantee_of(NURSE))
    await consent.revoke(dossier, patient(dossier), grantee=pb.Grantee(kind=pb.GRANTEE_KIND_STRUCTURE, id=STRUCTURE))
    await duties(consent).run(NOW + YEAR)
    assert "authorization.expire" not in await kinds(consent, dossier)
    await duties(consent).run(NOW + 2 * YEAR)
    assert (await kinds(consent, dossier)).count("authorization.expire") == 1


# --- the end of the archive -------------------------------------------------------------------------------------------


async def test_after_ten_years_the_archive_is_destroyed_once_and_nothing_comes_back(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.close(dossier)
    await delivered(consent)
    documents, trail = Elsewhere(), Elsewhere()
    at_work = duties(consent, documents, trail)
    await at_work.run(END - timedelta(seconds=1))
    assert documents.told == []
    await at_work.run(END)
    assert documents.told == [], "its own last event is on its way to its trail"
    await delivered(consent)
    for _ in range(3):
        await at_work.run(END)
    assert len(documents.told) == len(trail.told) == 1
    state = await consent.pool.fetchval("SELECT state FROM dossier WHERE health_id = $1", dossier)
    assert state == "destroyed"
    counts = "SELECT count(*) FROM {} WHERE health_id = $1"
    for table in ("access_grant", "grantee_dossier", "deadline", "idempotency"):
        count = counts.format(table)
        assert await consent.pool.fetchval(count, dossier) == 0
    assert await kinds(consent, dossier) == ["dossier.destroy"]
    assert (await consent.check(dossier)).reason == reasons.ERROR_REASON_DOSSIER_DESTROYED
    for attempt in (reopen(consent, dossier), consent.open(dossier), consent.get(dossier, operator())):
        with refused(reasons.ERROR_REASON_DOSSIER_DESTROYED):
            await attempt
    assert all(event.health_id == 0 for event in consent.events.recorded[-3:]), "its own trail is no more"
    assert all(dossier_name(dossier) in event.objects for event in consent.events.recorded[-3:])


async def test_what_was_reopened_or_taken_back_is_not_destroyed(consent: Consent) -> None:
    reopened, kept = await consent.open(), await consent.open()
    for dossier in (reopened, kept):
        await consent.close(dossier)
        request = pb.RequestDestructionRequest(name=dossier_name(dossier))
        await consent.do("RequestDestruction", request, patient(dossier), dossier)
    await reopen(consent, reopened)
    keep = pb.WithdrawDestructionRequest(name=dossier_name(kept))
    await consent.do("WithdrawDestruction", keep, patient(kept), kept)
    await delivered(consent)
    documents = Elsewhere()
    await duties(consent, documents).run(NOW + timedelta(days=91))
    assert documents.told == []


async def test_on_request_it_is_destroyed_within_three_months(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.close(dossier)
    await consent.do(
        "RequestDestruction", pb.RequestDestructionRequest(name=dossier_name(dossier)), patient(dossier), dossier
    )
    await delivered(consent)
    documents = Elsewhere()
    at_work = duties(consent, documents)
    await at_work.run(NOW + timedelta(days=90))
    await delivered(consent)
    await at_work.run(NOW + timedelta(days=90))
    assert [health_id for health_id, _ in documents.told] == [dossier]


async def test_a_service_that_is_down_is_asked_again_with_the_same_request_and_holds_up_no_other_dossier(
    consent: Consent,
) -> None:
    first, second = await consent.open(), await consent.open()
    for dossier in (first, second):
        await consent.close(dossier)
    await delivered(consent)
    documents, trail = Elsewhere(failures=1), Elsewhere()
    at_work = duties(consent, documents, trail)
    await at_work.run(END)
    await delivered(consent)
    with pytest.raises(RuntimeError):
        await at_work.run(END)
    assert len(trail.told) == 1
    await at_work.run(END)
    assert len(set(documents.told)) == 2
    assert len(documents.told) == 3
    assert await consent.pool.fetchval("SELECT count(*) FROM dossier WHERE state = 'destroyed'") == 2


class Crash(BaseException):
    """The process is gone: nothing catches this."""


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """`crashing(point, n)`: the process ends when it passes that point for the n-th time."""

    def arm(point: str, number: int) -> None:
        passed = 0

        def count(name: str) -> None:
            nonlocal passed
            passed += name == point
            if passed == number:
                raise Crash

        monkeypatch.setattr(faults, "point", count)

    return arm


async def thrice(consent: Consent, documents: Elsewhere) -> None:
    """Three runs, with the relay at work in between."""
    for _ in range(3):
        await duties(consent, documents).run(END)
        await delivered(consent)


@pytest.mark.parametrize("point", ["consent.before_commit", "consent.after_commit"])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_crash_in_the_middle_leaves_each_deadline_to_be_met_once(
    consent: Consent,
    crashing: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    number: int,
) -> None:
    closed, running = await consent.open(), await consent.open()
    await consent.grant(running)
    await consent.grant(running, staff())
    await consent.close(closed)
    await delivered(consent)
    documents = Elsewhere()
    crashing(point, number)
    with pytest.raises(Crash):
        await thrice(consent, documents)
    monkeypatch.undo()
    await thrice(consent, documents)
    assert (await kinds(consent, running)).count("authorization.expire") == 2
    assert await consent.pool.fetchval("SELECT state FROM dossier WHERE health_id = $1", closed) == "destroyed"
    assert len(set(documents.told)) == 1, "asked again, it is the same request"
    epochs = await consent.pool.fetch("SELECT epoch FROM consent_event WHERE health_id = $1 ORDER BY epoch", running)
    assert [row["epoch"] for row in epochs] == list(range(1, 6))


async def test_without_the_other_services_nothing_is_destroyed(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.close(dossier)
    await duties(consent).run(END)
    assert await consent.pool.fetchval("SELECT state FROM dossier") == "closed"
