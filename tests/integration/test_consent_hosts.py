"""The dossiers of a home host, listed whole to who takes them over, and to nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from dmp.consent.v1 import rights_pb2
from services.consent import store
from services.consent.acting import read_actor
from services.consent.history import facts_at, replay
from services.runtime.identifiers import dossier_name, dossier_of, new_health_id
from tests.consent_service import (
    NOW,
    NURSE,
    PHYSICIAN,
    STRUCTURE,
    YEAR,
    Consent,
    certificate,
    grantee_of,
    operator,
    patient,
    professional,
    representative,
    staff,
    structure_grantee,
    taking_over,
)
from tests.refusals import refused

NORTH = taking_over("north")
SYSTEM = ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="intake-1")


async def of_north(consent: Consent, health_id: int = 0) -> int:
    """A dossier whose home host is north."""
    dossier = await consent.open(health_id)
    await move(consent, dossier, "north")
    return dossier


async def move(consent: Consent, health_id: int, host: str) -> None:
    await consent.do(
        "MoveDossier", pb.MoveDossierRequest(name=dossier_name(health_id), home_host=host), operator(), health_id
    )


async def listed(
    consent: Consent, actor: ActingContext = NORTH, *, size: int = 2, host: str = ""
) -> list[pb.HostDossier]:
    """All pages."""
    found: list[pb.HostDossier] = []
    token = ""
    while True:
        request = pb.ListHostDossiersRequest(home_host=host, page_size=size, page_token=token)
        page = await consent.do("ListHostDossiers", request, actor, 0)
        assert len(page.dossiers) <= size
        found += page.dossiers
        token = page.next_page_token
        if not token:
            return found


def ids(found: Sequence[pb.HostDossier]) -> list[int]:
    return [dossier_of(each.dossier.name, "name") for each in found]


async def test_every_dossier_of_the_host_is_on_one_page_and_none_of_another(consent: Consent) -> None:
    north = sorted([await of_north(consent) for _ in range(5)])
    for _ in range(3):
        await consent.open()
    assert ids(await listed(consent)) == north
    assert ids(await listed(consent, operator(), host="north")) == north
    assert await listed(consent, taking_over("south")) == []
    await move(consent, north[2], "south")
    assert ids(await listed(consent)) == [*north[:2], *north[3:]]
    assert ids(await listed(consent, taking_over("south"))) == [north[2]]


async def test_a_listing_is_in_the_trail_of_each_dossier_with_why_it_was_allowed(consent: Consent) -> None:
    north = [await of_north(consent) for _ in range(3)]
    before = len(consent.events.recorded)
    await listed(consent, size=200)
    told = consent.events.recorded[before:]
    assert {event.health_id for event in told} == set(north)
    assert {(event.action, event.basis, event.actor.takes_over_host) for event in told} == {
        ("host.list_dossiers", audit_pb2.ACCESS_BASIS_TAKEOVER, "north")
    }
    consent.events.down = True
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await listed(consent)


async def test_what_consent_holds_of_a_dossier_comes_with_it_secrets_and_the_expired_too(consent: Consent) -> None:
    dossier = await of_north(consent)
    secret = professional("810000000017")
    secret.secret_connection = True
    await consent.grant(dossier, attending=True)
    await consent.grant(dossier, staff(), care_team=True)
    await consent.grant(dossier, secret)
    await consent.block(dossier, grantee_of(NURSE))
    mother = int(new_health_id())
    registration = pb.RegisterRepresentativeRequest(
        parent=dossier_name(dossier), person=f"people/{dossier_name(mother)[9:]}", kind=pb.REPRESENTATION_KIND_GUARDIAN,
        documents_seen=True,
    )  # fmt: skip
    await consent.do("RegisterRepresentative", registration, operator(), dossier)
    consent.now[0] = NOW + YEAR * 2
    [found] = await listed(consent)
    assert found.dossier == (await consent.get(dossier, patient(dossier))).dossier
    assert (found.consent.method, found.consent.collector) == (pb.CONSENT_METHOD_ORAL, PHYSICIAN)
    standings = {each.grantee.id: each for each in found.standings}
    assert {key: pb.AuthorizationState.Name(each.state)[20:] for key, each in standings.items()} == {
        PHYSICIAN: "EXPIRED", STRUCTURE: "EXPIRED", "810000000017": "EXPIRED", NURSE: "FORBIDDEN"
    }  # fmt: skip
    assert standings[PHYSICIAN].authorization.attending_physician
    assert standings[STRUCTURE].authorization.care_team
    assert standings["810000000017"].authorization.secret
    assert [each.person for each in found.representatives] == [f"people/{dossier_name(mother)[9:]}"]


async def test_closed_merged_and_opposed_are_listed_and_the_destroyed_are_not(consent: Consent) -> None:
    closed, destroyed = await of_north(consent), await of_north(consent)
    await consent.close(closed)
    await consent.close(destroyed)
    await consent.pool.execute("UPDATE dossier SET state = 'destroyed' WHERE health_id = $1", destroyed)
    opposed = int(new_health_id())
    oppose = pb.OpposeOpeningRequest(name=dossier_name(opposed), patient_consented=True)
    await consent.do("OpposeOpening", oppose, professional(), opposed)
    await move_opposed(consent, opposed)
    states = {dossier_of(each.dossier.name, "name"): each.dossier.state for each in await listed(consent)}
    assert states == {closed: pb.DOSSIER_STATE_CLOSED, opposed: pb.DOSSIER_STATE_OPPOSED}


async def move_opposed(consent: Consent, health_id: int) -> None:
    """As an earlier host's opposition stands in the table: there is no dossier that an operator could move."""
    await consent.pool.execute("UPDATE dossier SET home_host = 'north' WHERE health_id = $1", health_id)


@pytest.mark.parametrize(
    "actor",
    [
        professional(),
        staff(),
        certificate(),
        patient(7),
        representative(8, 7),
        SYSTEM,
    ],
    ids=["professional", "staff", "certificate", "patient", "representative", "system"],
)
async def test_nobody_else_is_told_which_dossiers_a_host_has(consent: Consent, actor: ActingContext) -> None:
    await of_north(consent)
    for host in ("", "north"):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await listed(consent, actor, host=host)
    assert consent.events.recorded[-1].outcome == audit_pb2.OUTCOME_DENIED


async def test_who_takes_over_one_host_names_no_other_and_pages_are_bound_to_host_and_caller(consent: Consent) -> None:
    for _ in range(3):
        await of_north(consent)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await listed(consent, host="national")
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await listed(consent, operator())
    page = await consent.do("ListHostDossiers", pb.ListHostDossiersRequest(page_size=1), NORTH, 0)
    again = pb.ListHostDossiersRequest(page_size=1, page_token=page.next_page_token)
    with refused(reasons.ERROR_REASON_INVALID_PAGE_TOKEN):
        await consent.do("ListHostDossiers", again, taking_over("south"), 0)


async def test_the_rights_table_says_whether_dossiers_are_handed_over_at_all(consent: Consent) -> None:
    dossier = await of_north(consent)
    assert (await consent.check(dossier, NORTH)).permitted
    tables = (await consent.do("GetRights", rights_pb2.GetRightsRequest(), operator(), 0)).tables
    tables.functional_rights_csv = tables.functional_rights_csv.replace("host/normal,yes", "host/normal,no")
    replacing = rights_pb2.ReplaceRightsRequest(tables=tables, base_version=0, comment="as decided")
    await consent.do("ReplaceRights", replacing, operator(), 0)
    assert (await consent.check(dossier, NORTH)).reason == reasons.ERROR_REASON_RIGHT_DENIED
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await listed(consent)


async def test_once_moved_a_dossier_is_out_of_reach_and_its_history_says_when(
    consent: Consent,
) -> None:
    dossier = await of_north(consent)
    assert (await consent.check(dossier, NORTH, pb.ACTION_SEARCH)).permitted
    await move(consent, dossier, "national")
    assert (await consent.check(dossier, NORTH)).reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    assert (await consent.check(dossier, taking_over("national"))).permitted
    lines = await store.events_until(consent.pool, dossier, 1 << 62)
    past = [facts_at(replay(lines[:number]), read_actor(NORTH)) for number in range(1, len(lines) + 1)]
    assert [facts.home_host for facts in past if facts] == ["national", "north", "national"]


async def test_a_block_is_handed_over_and_does_not_keep_from_it(consent: Consent) -> None:
    dossier = await of_north(consent)
    await consent.block(dossier, structure_grantee())
    assert (await consent.check(dossier, NORTH)).permitted
