"""Hard cases of access: what changes in the middle of something else, and clocks that disagree.

A minor of age while somebody acts for him, or within an emergency; a dossier closed under an open emergency; the two
oppositions side by side; rights replaced between a decision and its explanation; clocks of replicas that are wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.changes import as_in_secret
from services.consent.mapping import write_time
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    NURSE,
    REGULATION,
    YEAR,
    Consent,
    certificate,
    consent_on,
    grantee_of,
    operator,
    patient,
    professional,
    representative,
    structure_grantee,
)
from tests.integration.test_consent_duties import duties
from tests.integration.test_consent_life import die, prefer, reopen
from tests.integration.test_consent_links import told
from tests.integration.test_consent_reading import explain, party
from tests.integration.test_consent_representatives import MAJORITY, childhood, end, register
from tests.integration.test_consent_rights_versions import get, without_reading
from tests.integration.test_consent_rights_versions import replace as replace_rights
from tests.refusals import refused

NORMAL = context_pb2.ACCESS_MODE_NORMAL
URGENT = professional("810000000025", mode=BREAK_GLASS)
CALL_CENTRE = professional("810000000025", mode=REGULATION)
LAST_MOMENT = MAJORITY - timedelta(microseconds=1)


async def reason(
    consent: Consent,
    health_id: int,
    actor: ActingContext | None = None,
    action: pb.Action.ValueType = pb.ACTION_READ,
) -> int:
    """Why not; 0 for yes."""
    return int((await consent.check(health_id, actor, action)).reason)


# --- of age in the middle ---------------------------------------------------------------------------------------------


async def test_of_age_in_the_middle_of_an_emergency_the_parents_are_out_and_the_emergency_goes_on(
    consent: Consent,
) -> None:
    child, mother = await childhood(consent)
    for now, parents in ((LAST_MOMENT, 0), (MAJORITY, reasons.ERROR_REASON_REPRESENTATION_MISSING)):
        consent.now[0] = now
        for urgent in (URGENT, CALL_CENTRE):
            assert await reason(consent, child, urgent) == 0, "who treats an emergency treats a person"
        assert await reason(consent, child, representative(mother, child)) == parents
        assert await reason(consent, child, patient(child)) == 0


async def test_what_a_parent_had_begun_ends_at_majority_a_retry_and_a_page_too(consent: Consent) -> None:
    child, mother = await childhood(consent)
    parent = representative(mother, child)
    for other in (NURSE, "810000000017"):
        await consent.block(child, grantee_of(other), parent)
    block = pb.BlockProfessionalRequest(
        parent=dossier_name(child), grantee=grantee_of("810000000033"), request_id="mother-blocks"
    )
    consent.now[0] = LAST_MOMENT
    done = await consent.do("BlockProfessional", block, parent, child)
    assert (await consent.do("BlockProfessional", block, parent, child)) == done, "a retry has the same answer"
    pages = pb.ListAuthorizationsRequest(parent=dossier_name(child), page_size=1)
    first = await consent.do("ListAuthorizations", pages, parent, child)
    consent.now[0] = MAJORITY
    following = pb.ListAuthorizationsRequest(parent=dossier_name(child), page_size=1, page_token=first.next_page_token)
    for method, request in (("BlockProfessional", block), ("ListAuthorizations", following)):
        with refused(reasons.ERROR_REASON_REPRESENTATION_MISSING):
            await consent.do(method, request, parent, child)
    represented = pb.ListRepresentedRequest(parent=person_name(mother))
    assert not (await consent.do("ListRepresented", represented, patient(mother), mother)).dossiers
    assert await reason(consent, child, professional(NURSE, "60")) == reasons.ERROR_REASON_BLOCKED, (
        "what was done stays"
    )
    await consent.unblock(child, grantee_of(NURSE), patient(child))


async def test_nobody_prolongs_a_representation_beyond_majority_not_even_just_before_it(consent: Consent) -> None:
    child, mother = await childhood(consent)
    consent.now[0] = LAST_MOMENT
    for actor in (representative(mother, child), patient(child)):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await register(consent, child, mother, actor, end_time=write_time(MAJORITY + YEAR))
    consent.now[0] = MAJORITY
    assert await reason(consent, child, representative(mother, child)) == reasons.ERROR_REASON_REPRESENTATION_MISSING


async def test_a_secret_of_the_minor_stays_hidden_from_a_guardian_who_follows(consent: Consent) -> None:
    child, _ = await childhood(consent)
    secret = ActingContext()
    secret.CopyFrom(professional(NURSE, "60"))
    secret.secret_connection = True
    await consent.grant(child, secret)
    consent.now[0] = MAJORITY
    guardian = new_health_id()
    await consent.grant(child)
    await register(consent, child, guardian, kind=pb.REPRESENTATION_KIND_GUARDIAN)
    seen = (await consent.check(child, representative(guardian, child), pb.ACTION_SEARCH)).filter
    assert (seen.patient_view, seen.representative_view) == (True, True)
    everybody = pb.ListAuthorizationsRequest(parent=dossier_name(child))
    page = await consent.do("ListAuthorizations", everybody, representative(guardian, child), child)
    assert NURSE not in {each.grantee.id for each in page.standings}


async def test_nothing_tells_a_parent_of_what_was_given_in_a_secret_connection_not_even_how_it_ended(
    consent: Consent,
) -> None:
    child, mother = await childhood(consent)
    parent, nurse = representative(mother, child), professional(NURSE, "60", structure="1750000009")
    secret = as_in_secret(nurse)

    async def told_to_the_parent() -> list[str]:
        request = pb.ListConsentEventsRequest(parent=dossier_name(child), page_size=200)
        events = (await consent.do("ListConsentEvents", request, parent, child)).events
        trail = [event for event in await consent.told() if not event.actor.secret_connection]
        assert NURSE not in "".join(f"{event.grantee.id}{event.details}" for event in events)
        assert NURSE not in "".join(f"{change.before}{change.after}" for each in trail for change in each.changes)
        them = party(NURSE, "60")
        them.structure = nurse.structure
        now = (await explain(consent, child, parent, party=them)).decision.reason
        epoch = await consent.pool.fetchval("SELECT epoch FROM dossier WHERE health_id = $1", child)
        then = (await explain(consent, child, parent, party=them, as_of_epoch=epoch)).decision.reason
        return [reasons.ErrorReason.Name(each).removeprefix("ERROR_REASON_") for each in (now, then)]

    missing = ["AUTHORIZATION_MISSING"] * 2
    for end_of_it in ("revoked by the child", "expired", "ended by himself"):
        await consent.grant(child, secret)
        assert await told_to_the_parent() == missing
        assert await reason(consent, child, nurse) == 0
        for method in ("RevokeAuthorization", "RemoveAttendingPhysician"):
            request = getattr(pb, f"{method}Request")(parent=dossier_name(child), grantee=grantee_of(NURSE))
            with refused(reasons.ERROR_REASON_AUTHORIZATION_MISSING):
                await consent.do(method, request, parent, child)
        if end_of_it == "revoked by the child":
            await consent.revoke(child, patient(child), grantee=grantee_of(NURSE))
        elif end_of_it == "expired":
            consent.now[0] += YEAR
            await duties(consent).run(consent.now[0])
        else:
            await consent.revoke(child, nurse)
        assert await told_to_the_parent() == missing
    await consent.grant(child, secret)
    await consent.block(child, grantee_of(NURSE), parent)
    trail = [each for each in await consent.told() if each.action == "authorization.block"]
    assert [[change.attribute for change in event.changes] for event in trail] == [["block"]]
    await consent.unblock(child, grantee_of(NURSE), parent)
    mine = pb.ListConsentEventsRequest(parent=dossier_name(child), page_size=200)
    events = (await consent.do("ListConsentEvents", mine, patient(child), child)).events
    kinds = Counter(event.kind.removeprefix("authorization.") for event in events if event.grantee.id == NURSE)
    assert kinds == {"grant": 4, "revoke": 2, "expire": 1, "block": 1, "unblock": 1}
    given = pb.GrantAuthorizationRequest(parent=dossier_name(child), grantee=grantee_of(NURSE))
    await consent.grant(child, secret)
    await consent.do("GrantAuthorization", given, parent, child)  # as if there were none
    assert [change.before for change in (await consent.told())[-1].changes] == [""]


async def test_a_structure_that_names_another_as_itself_is_nobody(consent: Consent) -> None:
    """Or a block of the one would not be found when it acts as the other."""
    dossier = await consent.open()
    other = certificate()
    other.structure = "1750000009"
    assert await reason(consent, dossier, certificate(), pb.ACTION_SUBMIT) == 0
    assert await reason(consent, dossier, other, pb.ACTION_SUBMIT) == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID
    other.structure = ""
    await consent.block(dossier, structure_grantee())
    assert await reason(consent, dossier, other, pb.ACTION_SUBMIT) == reasons.ERROR_REASON_BLOCKED


# --- emergencies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("break_glass", [False, True])
@pytest.mark.parametrize("regulation", [False, True])
async def test_each_opposition_shuts_its_own_mode_in_one_dossier_and_in_linked_ones(
    consent: Consent, break_glass: bool, regulation: bool
) -> None:
    opposed = {REGULATION: regulation, BREAK_GLASS: break_glass, NORMAL: False}
    alone = await consent.open(break_glass_opposed=break_glass, regulation_opposed=regulation)
    one, other = await consent.open(break_glass_opposed=break_glass), await consent.open(regulation_opposed=regulation)
    for dossier in (alone, one, other):
        await consent.grant(dossier)
    await told(consent, 1, (one, other))
    for dossier in (alone, one, other):
        for mode, shut in opposed.items():
            expected = reasons.ERROR_REASON_EMERGENCY_OPPOSED if shut else 0
            for action in (pb.ACTION_READ, pb.ACTION_SEARCH):
                assert await reason(consent, dossier, professional(mode=mode), action) == expected
        assert await reason(consent, alone, CALL_CENTRE, pb.ACTION_SUBMIT) == 0, "feeding is never opposed"


async def test_closed_under_an_open_emergency_nothing_more_is_read_and_reopened_it_needs_to_be_allowed_still(
    consent: Consent,
) -> None:
    dossier = await consent.open()
    urgent = (URGENT, CALL_CENTRE)
    assert [await reason(consent, dossier, actor) for actor in urgent] == [0, 0]
    await consent.close(dossier)
    for actor in urgent:
        for action in (pb.ACTION_READ, pb.ACTION_SEARCH, pb.ACTION_SUBMIT, pb.ACTION_READ_ADMINISTRATIVE):
            assert await reason(consent, dossier, actor, action) == reasons.ERROR_REASON_DOSSIER_CLOSED
    await reopen(consent, dossier)
    assert [await reason(consent, dossier, actor) for actor in urgent] == [0, 0]
    await prefer(consent, dossier, patient(dossier), break_glass_opposed=True)
    await consent.block(dossier, grantee_of("810000000033"))
    await consent.close(dossier)
    await reopen(consent, dossier)
    assert await reason(consent, dossier, URGENT) == reasons.ERROR_REASON_EMERGENCY_OPPOSED, "it comes back as archived"
    assert await reason(consent, dossier, CALL_CENTRE) == 0
    blocked = professional("810000000033", mode=REGULATION)
    assert await reason(consent, dossier, blocked) == reasons.ERROR_REASON_BLOCKED
    await die(consent, dossier)
    for actor in urgent:
        assert await reason(consent, dossier, actor) == reasons.ERROR_REASON_DOSSIER_CLOSED
    await reopen(consent, dossier, operator())
    assert await reason(consent, dossier, blocked) == reasons.ERROR_REASON_BLOCKED


async def test_an_emergency_leaves_nothing_behind_that_lets_in_later(consent: Consent) -> None:
    dossier = await consent.open()
    before = await consent.pool.fetchval("SELECT epoch FROM dossier WHERE health_id = $1", dossier)
    for mode in (BREAK_GLASS, REGULATION):
        urgent = professional("810000000025", mode=mode)
        assert await reason(consent, dossier, urgent) == 0
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await consent.grant(dossier, urgent)
        calm = professional("810000000025")
        assert await reason(consent, dossier, calm) == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    assert await consent.pool.fetchval("SELECT epoch FROM dossier WHERE health_id = $1", dossier) == before


# --- rights replaced between a decision and its explanation -----------------------------------------------------------


async def test_each_decision_of_the_past_is_made_again_by_the_rights_of_its_own_time(consent: Consent) -> None:
    """Of one epoch there are several decisions when the tables are replaced in it: each instant has its own."""
    dossier = await consent.open()
    nurse = professional(NURSE, "60")
    await consent.grant(dossier, nurse)
    tables = [await without_reading(consent), (await get(consent)).tables]
    made: list[tuple[pb.Decision, datetime]] = []
    for day in range(1, 7):
        consent.now[0] = NOW + timedelta(days=day, hours=1)
        made.append((await consent.check(dossier, nurse), consent.now[0]))
        if day == 3:
            await consent.block(dossier, grantee_of("810000000033"))
        consent.now[0] = NOW + timedelta(days=day, hours=2)
        await replace_rights(consent, tables[day % 2], day - 1)
    assert [decision.permitted for decision, _ in made] == [True, True, False, True, False, True]
    assert [decision.rights_version for decision, _ in made] == list(range(6))
    for decision, at in made:
        asked, then = patient(dossier), write_time(at)
        again = await explain(
            consent, dossier, asked, party=party(NURSE, "60"), as_of_epoch=decision.epoch, as_of_time=then
        )
        assert again.decision == decision


# --- clocks -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def with_clocks(consent: Consent, *offsets: timedelta) -> AsyncIterator[list[Consent]]:
    """Replicas of the service on the same database, each with a clock of its own."""
    made = []
    for offset in offsets:
        replica, service = consent_on(consent.pool, [consent.now[0] + offset])
        made.append((replace(replica, numbers=consent.numbers), service))
    try:
        yield [replica for replica, _ in made]
    finally:
        for _, service in made:
            await service.close()


HOUR = timedelta(hours=1)
WRONG = (-HOUR, timedelta(seconds=-1), timedelta(0), timedelta(seconds=1), HOUR)


async def on_each(replicas: Sequence[Consent], health_id: int, actor: ActingContext | None = None) -> list[int]:
    return [await reason(replica, health_id, actor) for replica in replicas]


async def test_a_no_holds_whatever_the_clocks_say(consent: Consent) -> None:
    """Revocations, blocks, oppositions and closings are states and not times: no clock can undo one."""
    async with with_clocks(consent, *WRONG) as replicas:
        for one in replicas:
            dossier = await one.open(collected=NOW - HOUR)
            await one.grant(dossier)
            assert await on_each(replicas, dossier) == [0] * len(WRONG), "an acknowledged yes holds too"
            await one.revoke(dossier)
            assert await on_each(replicas, dossier) == [reasons.ERROR_REASON_AUTHORIZATION_MISSING] * len(WRONG)
            await one.grant(dossier)
            await prefer(one, dossier, patient(dossier), break_glass_opposed=True)
            glass = professional(mode=BREAK_GLASS)
            assert await on_each(replicas, dossier, glass) == [reasons.ERROR_REASON_EMERGENCY_OPPOSED] * len(WRONG)
            await one.block(dossier, structure_grantee())
            assert await on_each(replicas, dossier) == [reasons.ERROR_REASON_BLOCKED] * len(WRONG)
            await one.unblock(dossier, structure_grantee())
            await one.close(dossier)
            assert await on_each(replicas, dossier) == [reasons.ERROR_REASON_DOSSIER_CLOSED] * len(WRONG)


async def test_a_representation_registered_at_once_is_in_force_at_once_by_every_clock_within_five_minutes(
    consent: Consent,
) -> None:
    offsets = [timedelta(seconds=seconds) for seconds in (-299, -1, 0, 1)]
    async with with_clocks(consent, *offsets) as replicas:
        for one in replicas[1:]:
            child, mother = await consent.open(), new_health_id()
            await consent.grant(child)
            await register(one, child, mother)
            assert await on_each(replicas, child, representative(mother, child)) == [0] * len(offsets)
            await end(consent, child, mother, operator())
            missing = [reasons.ERROR_REASON_REPRESENTATION_MISSING] * len(offsets)
            assert await on_each(replicas, child, representative(mother, child)) == missing


async def test_a_clock_that_steps_moves_what_expires_by_its_step_and_nothing_else(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    expired, until = reasons.ERROR_REASON_AUTHORIZATION_EXPIRED, NOW + YEAR
    for now, expected in (
        (until - timedelta(seconds=1), 0),
        (until, expired),
        (until - timedelta(seconds=1), 0),  # a step back: valid again for as long as it was set back
        (NOW - timedelta(days=1), 0),  # before it was given: what was acknowledged holds
        (until + 10 * YEAR, expired),
        (until, expired),
    ):
        consent.now[0] = now
        assert await reason(consent, dossier) == expected, now
    consent.now[0] = NOW - timedelta(days=1)
    await consent.block(dossier, grantee_of())
    epochs = await consent.pool.fetch("SELECT epoch FROM consent_event WHERE health_id = $1 ORDER BY epoch", dossier)
    assert [row["epoch"] for row in epochs] == [1, 2, 3], "the order of changes is the epoch's, not the clock's"
    again = await explain(consent, dossier, patient(dossier), party=party(), as_of_epoch=2)
    assert again.decision.permitted
    assert (await explain(consent, dossier, patient(dossier), party=party(), as_of_epoch=3)).decision.reason == (
        reasons.ERROR_REASON_BLOCKED
    )
