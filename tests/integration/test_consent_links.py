"""Dossiers of one person: what shuts out of one shuts out of all, authorisations hold where they were given."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.common.v1.links_pb2 import LinkedSet
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.__main__ import MIGRATIONS
from services.consent.acting import read_actor
from services.consent.history import LINK, facts_at, replay
from services.consent.mapping import write_time
from services.consent.merging import Merging
from services.runtime.checks import refusal
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from services.runtime.links import apply_links
from services.runtime.postgres import transaction
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    NURSE,
    REGULATION,
    Consent,
    check_request,
    consent_record,
    grantee_of,
    operator,
    patient,
    professional,
    structure_grantee,
)
from tests.faults.campaign import amount
from tests.integration.test_consent_attending import attending
from tests.integration.test_consent_duties import Elsewhere, delivered, duties
from tests.integration.test_consent_life import prefer, reopen
from tests.integration.test_consent_reading import explain
from tests.refusals import refused

_WAITING_FOR_THE_OUTBOX = "SELECT count(*) FROM pg_locks WHERE relation = 'outbox'::regclass AND NOT granted"


async def told(consent: Consent, revision: int, *sets: tuple[int, ...]) -> None:
    made = [LinkedSet(health_ids=members, revision=revision) for members in sets]
    async with transaction(consent.pool) as conn:
        await apply_links(conn, made)
        await Merging(lambda: consent.now[0], lambda: None).follow(conn, made)


async def reason(consent: Consent, health_id: int) -> int:
    return int((await consent.check(health_id)).reason)


async def test_a_block_on_one_dossier_of_a_person_holds_on_all_while_they_are_linked(consent: Consent) -> None:
    one, other = await consent.open(), await consent.open()
    for dossier in (one, other):
        await consent.grant(dossier)
    await consent.block(other, grantee_of())
    assert (await consent.check(one)).permitted
    await told(consent, 1, (one, other))
    assert await reason(consent, one) == reasons.ERROR_REASON_BLOCKED
    assert await reason(consent, other) == reasons.ERROR_REASON_BLOCKED
    await told(consent, 2, (one,), (other,))
    assert (await consent.check(one)).permitted
    await told(consent, 1, (one, other))  # late, and older than what is known
    assert (await consent.check(one)).permitted


async def test_who_is_blocked_on_another_dossier_of_the_person_changes_nothing_here_either(consent: Consent) -> None:
    """Getting in is not only reading: what a professional may do in the patient's name is shut to the blocked too."""
    one, other = await two(consent)
    name, mother = dossier_name(one), int(new_health_id())
    acts: list[tuple[str, Any]] = [
        ("UpdatePreferences", pb.UpdatePreferencesRequest(name=name, regulation_opposed=True, patient_consented=True)),
        ("CloseDossier", pb.CloseDossierRequest(name=name, reason=pb.CLOSE_REASON_PATIENT_REQUEST)),
        ("GrantAuthorization", pb.GrantAuthorizationRequest(parent=name, patient_consented=True)),
        ("RevokeAuthorization", pb.RevokeAuthorizationRequest(parent=name)),
        (
            "RegisterRepresentative",
            pb.RegisterRepresentativeRequest(
                parent=name,
                person=person_name(mother),
                kind=pb.REPRESENTATION_KIND_GUARDIAN,
                documents_seen=True,
            ),
        ),
    ]
    physician = grantee_of()
    for whom in (physician, structure_grantee()):
        await consent.block(other, whom)
        for method, request in acts:
            with refused(reasons.ERROR_REASON_BLOCKED):
                await consent.do(method, request, professional(), one)
        given = pb.GrantAuthorizationRequest(parent=name, grantee=whom)
        with refused(reasons.ERROR_REASON_BLOCKED):
            await consent.do("GrantAuthorization", given, patient(one), one)
        await consent.unblock(other, whom)
    await consent.block(other, physician)
    told_of = await consent.do("ListAuthorizations", pb.ListAuthorizationsRequest(parent=name), patient(one), one)
    assert [each.state for each in told_of.standings] == [pb.AUTHORIZATION_STATE_FORBIDDEN]
    await told(consent, 2, (one,), (other,))
    told_of = await consent.do("ListAuthorizations", pb.ListAuthorizationsRequest(parent=name), patient(one), one)
    assert [each.state for each in told_of.standings] == [pb.AUTHORIZATION_STATE_VALID]
    await consent.do("UpdatePreferences", acts[0][1], professional(), one)


async def test_an_attending_physician_blocked_on_another_dossier_of_the_person_has_no_notices(consent: Consent) -> None:
    one, other = await consent.open(), await consent.open()
    await consent.grant(one, attending=True)
    await consent.block(other, grantee_of())
    assert await attending(consent, one) == [[grantee_of().id]]
    await told(consent, 1, (one, other))
    assert await attending(consent, one, other) == [[], []]


async def test_an_authorisation_holds_on_the_dossier_that_it_was_given_for(consent: Consent) -> None:
    one, other = await consent.open(), await consent.open()
    await consent.grant(other)
    await told(consent, 1, (one, other))
    assert (await consent.check(other)).permitted
    assert await reason(consent, one) == reasons.ERROR_REASON_AUTHORIZATION_MISSING


async def test_a_dossier_opened_while_its_person_is_being_linked_is_merged_all_the_same(consent: Consent) -> None:
    one, other = await consent.open(), new_health_id()
    async with transaction(consent.pool) as held:
        await held.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")  # an opening waits for it, all but committed
        opening = asyncio.create_task(consent.open(other))
        async with asyncio.timeout(10):
            while not await held.fetchval(
                "SELECT count(*) FROM pg_locks WHERE relation = 'outbox'::regclass AND NOT granted"
            ):
                await asyncio.sleep(0.01)
        linking = asyncio.create_task(told(consent, 1, (one, other)))
        await asyncio.wait({linking}, timeout=0.3)
    await asyncio.gather(opening, linking)
    assert await states(consent, one, other) == ["open", "merged"]


@contextmanager
def sent_to(dossier: int) -> Iterator[None]:
    with pytest.raises(DmpError) as caught:
        yield
    assert caught.value.reason == reasons.ERROR_REASON_DOSSIER_MERGED
    assert caught.value.metadata == {"merged_into": dossier_name(dossier)}


async def states(consent: Consent, *dossiers: int) -> list[str]:
    return [await consent.pool.fetchval("SELECT state FROM dossier WHERE health_id = $1", one) for one in dossiers]


async def two(consent: Consent) -> tuple[int, int]:
    """Two open dossiers of one person, each with an authorisation of the physician; the second is merged."""
    one, other = await consent.open(), await consent.open()
    for dossier in (one, other):
        await consent.grant(dossier)
    await told(consent, 1, (one, other))
    return one, other


async def test_of_two_open_dossiers_the_survivor_stays_open_and_the_other_is_merged_until_they_are_parted(
    consent: Consent,
) -> None:
    one, other = await two(consent)
    assert await states(consent, one, other) == ["open", "merged"]
    shown = (await consent.get(other)).dossier
    assert (shown.state, shown.merged_into) == (pb.DOSSIER_STATE_MERGED, dossier_name(one))
    await told(consent, 1, (one, other))  # told twice
    await told(consent, 2, (one,), (other,))
    assert await states(consent, one, other) == ["open", "open"]
    await told(consent, 3, (other, one))
    assert await states(consent, one, other) == ["merged", "open"]


async def test_what_is_new_is_refused_with_where_the_dossier_went(consent: Consent) -> None:
    one, other = await two(consent)
    fed = await consent.check(other, action=pb.ACTION_SUBMIT)
    assert (fed.reason, fed.merged_into) == (reasons.ERROR_REASON_DOSSIER_MERGED, one)
    assert refusal(fed).metadata == {"merged_into": dossier_name(one)}
    assert (await consent.check(one, action=pb.ACTION_SUBMIT)).permitted
    stranger = professional("810000000017")
    for attempt in (consent.open(other), consent.grant(other, stranger), consent.close(other), reopen(consent, other)):
        with sent_to(one):
            await attempt
    await consent.block(other, grantee_of())  # shutting out is possible wherever there is something to shut out of
    assert await reason(consent, one) == reasons.ERROR_REASON_BLOCKED


async def test_who_was_merged_and_has_no_dossier_gets_none_the_survivor_does(consent: Consent) -> None:
    one, other = int(new_health_id()), int(new_health_id())
    await told(consent, 1, (one, other))
    with sent_to(one):
        await consent.open(other)
    await consent.open(one)


async def test_opening_the_survivors_dossier_merges_the_one_that_was_there(consent: Consent) -> None:
    one, other = int(new_health_id()), await consent.open()
    await told(consent, 1, (one, other))
    assert await states(consent, other) == ["open"]
    await consent.open(one)
    assert await states(consent, one, other) == ["open", "merged"]


async def test_a_yes_names_the_dossiers_that_are_read_together_and_closing_one_closes_what_was_merged_into_it(
    consent: Consent,
) -> None:
    one, other = await two(consent)
    closed = await consent.open()
    await consent.close(closed)
    await told(consent, 2, (one, other, closed))
    assert [list((await consent.check(each)).linked) for each in (one, other)] == [[other], [one]]
    await consent.close(one)
    assert await reason(consent, one) == reasons.ERROR_REASON_DOSSIER_CLOSED
    assert await reason(consent, other) == reasons.ERROR_REASON_DOSSIER_CLOSED
    await reopen(consent, one)
    assert list((await consent.check(one)).linked) == [other]
    await told(consent, 3, (one,), (other,), (closed,))
    assert list((await consent.check(one)).linked) == []


async def test_what_was_merged_into_a_destroyed_dossier_is_destroyed_with_it(consent: Consent) -> None:
    one, other = await two(consent)
    await consent.close(one)
    documents = Elsewhere()
    later = NOW.replace(year=NOW.year + 11)
    for _ in range(4):
        await delivered(consent)
        await duties(consent, documents).run(later)
    assert await states(consent, one, other) == ["destroyed", "destroyed"]


async def test_the_history_of_a_merged_dossier_says_what_it_was_at_each_epoch(consent: Consent) -> None:
    one, other = await two(consent)
    await told(consent, 2, (one,), (other,))
    lines = await store.events_until(consent.pool, other, 1 << 62)
    actor = read_actor(professional())
    past = [facts_at(replay(lines[:number]), actor) for number in range(1, len(lines) + 1)]
    assert [(facts.state.value, facts.merged_into) for facts in past if facts] == [
        ("open", 0),
        ("open", 0),
        ("open", 0),
        ("merged", one),
        ("merged", one),
        ("open", 0),
    ]
    assert [line.payload["linked"] for line in lines if line.kind == LINK] == [[str(one)], []]
    survivor = await store.events_until(consent.pool, one, 1 << 62)
    assert [line.kind for line in survivor] == ["dossier.open", "authorization.grant", LINK, LINK]
    assert [event.action for event in await consent.told() if event.health_id == other][-2:] == [
        "dossier.merge",
        "dossier.part",
    ]


class People:
    """Three dossiers that are one person's, or not, in changing ways; what was decided about them; and a model that
    knows only who is linked and whom each dossier blocks."""

    def __init__(self, consent: Consent, dossiers: Sequence[int], chance: random.Random) -> None:
        self._consent = consent
        self._dossiers = list(dossiers)
        self._chance = chance
        self._revision = 0
        self._sets: list[tuple[int, ...]] = [(each,) for each in dossiers]
        self._blocked: dict[int, set[str]] = {each: set() for each in dossiers}
        self.decided: list[tuple[int, ActingContext, pb.Decision, datetime]] = []

    async def something(self) -> None:
        """One more thing that happens, or is refused."""
        self._consent.now[0] += timedelta(minutes=1)
        dossier, what = self._chance.choice(self._dossiers), self._chance.choice(_HAPPENINGS)
        try:
            await getattr(self, f"_{what}")(dossier)
        except DmpError as error:
            if error.reason_name not in _REFUSED:
                raise

    async def _link(self, _: int) -> None:
        order = self._chance.sample(self._dossiers, len(self._dossiers))
        cut = self._chance.randrange(len(order))
        self._sets = [tuple(part) for part in (order[:cut], order[cut:]) if part]
        self._revision += 1
        await told(self._consent, self._revision, *self._sets)

    async def _block(self, dossier: int) -> None:
        whom = self._chance.choice((grantee_of(), structure_grantee()))
        await self._consent.block(dossier, whom)
        self._blocked[dossier].add(whom.id)

    async def _unblock(self, dossier: int) -> None:
        whom = self._chance.choice((grantee_of(), structure_grantee()))
        await self._consent.unblock(dossier, whom)
        self._blocked[dossier].discard(whom.id)

    async def _grant(self, dossier: int) -> None:
        await self._consent.grant(dossier, attending=self._chance.random() < 0.5)

    async def _prefer(self, dossier: int) -> None:
        name = self._chance.choice(("break_glass_opposed", "regulation_opposed", "masked_shown_in_emergency"))
        await prefer(self._consent, dossier, patient(dossier), **{name: self._chance.random() < 0.5})

    async def _close(self, dossier: int) -> None:
        await self._consent.close(dossier)

    async def _reopen(self, dossier: int) -> None:
        request = pb.ReopenDossierRequest(name=dossier_name(dossier), consent=consent_record(self._consent.now[0]))
        await self._consent.do("ReopenDossier", request, patient(dossier), dossier)

    async def ask(self) -> None:
        """Everybody about every dossier: whom any dossier of the person shuts out gets into none of them."""
        self._consent.now[0] += timedelta(seconds=1)
        asked = [(dossier, actor) for dossier in self._dossiers for actor in _ACTORS]
        requests = [check_request(*each) for each in asked]
        results = (await self._consent.batch(requests)).results
        for (dossier, actor), result in zip(asked, results, strict=True):
            (person,) = (each for each in self._sets if dossier in each)
            shut_out = {actor.subject, actor.structure} & {whom for one in person for whom in self._blocked[one]}
            assert (result.decision.reason == reasons.ERROR_REASON_BLOCKED) == bool(shut_out)
            self.decided.append((dossier, actor, result.decision, self._consent.now[0]))


_HAPPENINGS = ("link", "link", "block", "unblock", "unblock", "grant", "grant", "prefer", "close", "reopen", "reopen")
_REFUSED = {
    "AUTHORIZATION_EXISTS",
    "BLOCKED",
    "DOSSIER_ALREADY_CLOSED",
    "DOSSIER_ALREADY_EXISTS",
    "DOSSIER_CLOSED",
    "DOSSIER_MERGED",
}
_ACTORS = (professional(), professional(mode=BREAK_GLASS), professional(mode=REGULATION), professional(NURSE, "60"))


async def test_a_block_on_either_side_shuts_out_of_all_and_each_past_decision_is_made_again_the_same(
    consent: Consent,
) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    for number in range(amount(3, 300)):
        chance = random.Random(seed + number)
        people = People(consent, [await consent.open() for _ in range(3)], chance)
        for _ in range(25):
            await people.something()
            await people.ask()
        for dossier, actor, decision, at in chance.sample(people.decided, 60):
            party = pb.ExplainedParty(
                kind=actor.actor_kind,
                subject=actor.subject,
                profession=actor.profession,
                structure=actor.structure,
                access_mode=actor.access_mode,
            )
            again = await explain(
                consent, dossier, operator(), party=party, as_of_epoch=decision.epoch, as_of_time=write_time(at)
            )
            assert again.decision == decision, (seed + number, dossier, actor, at)


async def test_a_set_told_twice_or_in_another_order_adds_nothing_to_the_histories(consent: Consent) -> None:
    one, other = await two(consent)
    before = [len(await store.events_until(consent.pool, each, 1 << 62)) for each in (one, other)]
    for revision in (1, 5, 3):
        await told(consent, revision, (one, other))
    assert [len(await store.events_until(consent.pool, each, 1 << 62)) for each in (one, other)] == before


async def test_dossiers_linked_before_histories_said_so_have_their_line_from_the_migration(consent: Consent) -> None:
    one, other = [await consent.open() for _ in range(2)]
    async with transaction(consent.pool) as conn:
        await apply_links(conn, [LinkedSet(health_ids=(one, other), revision=1)])
    await consent.pool.execute((MIGRATIONS / "0012_links_in_history.sql").read_text(encoding="utf-8"))
    past = [replay(await store.events_until(consent.pool, each, 1 << 62)) for each in (one, other)]
    assert [(each.epoch, each.linked) for each in past] == [(2, (other,)), (2, (one,))]
    assert (await consent.check(one)).epoch == 2
    await told(consent, 2, (one, other))
    assert replay(await store.events_until(consent.pool, one, 1 << 62)).epoch == 2, "it is known already"
