"""A document's life on a real PostgreSQL: visibility, changes, deadlines. (Relations and versions of
one CDA: `test_document_succession`.)"""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2 as pb
from services.document.upkeep import Deadlines
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.keyring import Keyring
from tests import documents
from tests.document_world import World
from tests.documents import call, cda, decision, new_oid, no, submission
from tests.refusals import refused

APPROVED, DEPRECATED, ARCHIVED, DELETED = (
    pb.DOCUMENT_STATUS_APPROVED,
    pb.DOCUMENT_STATUS_DEPRECATED,
    pb.DOCUMENT_STATUS_ARCHIVED,
    pb.DOCUMENT_STATUS_DELETED,
)


async def test_on_demand_entries_are_refused_clearly(world: World) -> None:
    with refused(reasons.ERROR_REASON_ON_DEMAND_NOT_SUPPORTED, "documents[0].document.on_demand"):
        await world.submit((pb.Document(on_demand=True), cda(new_oid())))


async def test_what_is_fed_in_a_secret_connection_is_hidden_from_representatives(world: World) -> None:
    actor = documents.professional()
    actor.secret_connection = True
    request = submission(world.dossier, (pb.Document(), cda(new_oid())))
    made = await world.service.servicer.SubmitDocuments(request, call("SubmitDocuments", world.dossier, actor))
    assert "INVISIBLE_REPRESENTANTS_LEGAUX" in {code.code for code in made.documents[0].confidentiality}
    world.consent.answer = decision(representative_view=True)
    assert (await world.search()).total_size == 0


# --- changes ---------------------------------------------------------------------------------------------------------


async def test_each_change_is_a_version_with_its_event(world: World) -> None:
    document = await world.add()
    masked = await world.change(document.name, pb.DOCUMENT_CHANGE_MASK)
    assert "MASQUE_PS" in {code.code for code in masked.confidentiality}
    assert (masked.version, masked.name, masked.logical_id) == (2, document.name, document.logical_id)
    archived = await world.change(document.name, pb.DOCUMENT_CHANGE_ARCHIVE)
    assert archived.status == ARCHIVED
    assert (await world.change(document.name, pb.DOCUMENT_CHANGE_UNARCHIVE)).status == APPROVED
    shown = await world.change(document.name, pb.DOCUMENT_CHANGE_UNMASK)
    assert "MASQUE_PS" not in {code.code for code in shown.confidentiality}
    history = await world.versions(document.name)
    assert [(v.document.version, v.change) for v in history] == [
        (5, pb.DOCUMENT_CHANGE_UNMASK),
        (4, pb.DOCUMENT_CHANGE_UNARCHIVE),
        (3, pb.DOCUMENT_CHANGE_ARCHIVE),
        (2, pb.DOCUMENT_CHANGE_MASK),
        (1, pb.DOCUMENT_CHANGE_SUBMIT),
    ]
    assert len({v.document.entry_id for v in history}) == 5
    assert history[4].document.entry_id == document.entry_id
    for version in history:
        entry = document.name[:-36] + version.document.entry_id
        assert (await world.get(entry)).name == document.name
    payloads = await world.pool.fetch("SELECT payload FROM outbox WHERE health_id = $1", world.dossier)
    events = [audit_pb2.AuditEvent.FromString(row["payload"]) for row in payloads]
    actions = {(event.action, event.transaction) for event in events}
    assert ("document.mask", "TD3.3a") in actions
    assert ("document.archive", "TD3.3d") in actions


@pytest.mark.parametrize(
    "change",
    [
        pb.DOCUMENT_CHANGE_UNMASK,
        pb.DOCUMENT_CHANGE_UNARCHIVE,
        pb.DOCUMENT_CHANGE_SHOW_TO_PATIENT,
        pb.DOCUMENT_CHANGE_SHOW_TO_REPRESENTATIVES,
    ],
)
async def test_a_change_that_cannot_be_made_from_there_is_refused(
    world: World, change: pb.DocumentChange.ValueType
) -> None:
    document = await world.add()
    with refused(reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE):
        await world.change(document.name, change)
    assert (await world.get(document.name)).version == 1


async def test_of_changes_that_expect_one_version_one_is_made(world: World) -> None:
    document = await world.add()
    changes = [pb.DOCUMENT_CHANGE_MASK, pb.DOCUMENT_CHANGE_ARCHIVE, pb.DOCUMENT_CHANGE_DELETE]
    outcomes = await asyncio.gather(
        *(world.change(document.name, change, expected_version=1) for change in changes), return_exceptions=True
    )
    refusals = [outcome.reason for outcome in outcomes if isinstance(outcome, DmpError)]
    assert refusals in ([reasons.ERROR_REASON_CONCURRENT_CHANGE] * 2, [reasons.ERROR_REASON_DOCUMENT_NOT_FOUND] * 2)
    with refused(reasons.ERROR_REASON_CONCURRENT_CHANGE):
        other = await world.add()
        await world.change(other.name, pb.DOCUMENT_CHANGE_MASK, expected_status=ARCHIVED)


async def test_a_change_retried_is_made_once(world: World) -> None:
    document = await world.add()
    answers = [await world.change(document.name, pb.DOCUMENT_CHANGE_MASK, request_id="request-mask") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len(await world.versions(document.name)) == 2
    with refused(reasons.ERROR_REASON_REQUEST_ID_REUSED):
        await world.change(document.name, pb.DOCUMENT_CHANGE_DELETE, request_id="request-mask")


async def test_the_rights_bound_on_which_documents_a_change_is_made(world: World) -> None:
    mine = await world.add()
    theirs = await world.add(author=documents.OTHER)
    world.consent.answer = decision(restriction=consent_pb2.DOCUMENT_RESTRICTION_OWN)
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await world.change(theirs.name, pb.DOCUMENT_CHANGE_DELETE)
    assert world.last_event().outcome == audit_pb2.OUTCOME_DENIED
    assert (await world.change(mine.name, pb.DOCUMENT_CHANGE_DELETE)).status == DELETED
    world.consent.answer = decision(masked=consent_pb2.MASKED_VIEW_NONE)
    hidden = await world.add(flags=["MASQUE_PS"])
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.change(hidden.name, pb.DOCUMENT_CHANGE_UNMASK)


async def test_a_feeder_takes_back_what_it_may_not_see_and_is_told_nothing_of_others(world: World) -> None:
    """Neither a mask nor a denied type hides a document from its author; another's is absent to who may not search."""
    own = consent_pb2.DOCUMENT_RESTRICTION_OWN
    bounds: dict[str, object] = {"masked": consent_pb2.MASKED_VIEW_NONE, "denied_type_codes": ["11488-4"]}
    mine = await world.add(flags=["MASQUE_PS"])
    theirs = await world.add(author=documents.OTHER)
    refusal = no(reasons.ERROR_REASON_AUTHORIZATION_MISSING)
    fed = decision(restriction=own, **bounds)
    world.consent.by_action = lambda _, action: fed if action == consent_pb2.ACTION_DELETE else refusal
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.change(theirs.name, pb.DOCUMENT_CHANGE_DELETE)
    assert (await world.change(mine.name, pb.DOCUMENT_CHANGE_DELETE)).status == DELETED
    with refused(reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE):
        await world.change(mine.name, pb.DOCUMENT_CHANGE_DELETE)
    fed = decision(restriction=own)
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.change(theirs.name, pb.DOCUMENT_CHANGE_DELETE)
    event = world.last_event()
    assert (event.outcome, event.reason) == (audit_pb2.OUTCOME_DENIED, reasons.ERROR_REASON_RIGHT_DENIED), (
        "the trail is told the truth"
    )


async def test_a_deleted_document_is_gone_and_only_its_trace_is_told(world: World) -> None:
    document = await world.add()
    await world.change(document.name, pb.DOCUMENT_CHANGE_DELETE)
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await world.get(document.name)
    assert (await world.search(statuses=[APPROVED, DELETED])).total_size == 0
    world.consent.answer = decision(deleted_traces=True)
    trace = await world.get(document.name)
    assert (trace.status, trace.title, trace.hash) == (DELETED, "", b"")
    with refused(reasons.ERROR_REASON_CONTENT_DESTROYED):
        await world.content(document.name)
    with refused(reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE):
        await world.change(document.name, pb.DOCUMENT_CHANGE_ARCHIVE)


async def test_an_announcement_waits_two_weeks_is_told_of_and_after_a_month_is_visible(world: World) -> None:
    document = await world.add(flags=["INVISIBLE_PATIENT"])
    world.consent.answer = decision(patient_view=True)
    await world.service.deadlines.run(world.clock())
    assert await world.events("document.waiting") == []
    world.later(timedelta(days=15))
    for _ in range(2):
        await world.service.deadlines.run(world.clock())
    assert len(await world.events("document.waiting")) == 1
    assert (await world.search()).total_size == 0
    world.later(timedelta(days=17))
    assert (await world.search()).total_size == 1, "computed when read, before any job ran"
    await world.service.deadlines.run(world.clock())
    [event] = await world.events("document.show_patient")
    assert event.actor.actor_kind == context_pb2.ACTOR_KIND_SYSTEM
    assert "INVISIBLE_PATIENT" not in {code.code for code in (await world.get(document.name)).confidentiality}


async def test_representatives_are_not_told_that_what_is_hidden_from_them_waits_or_is_shown(world: World) -> None:
    hidden = await world.add(flags=["INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX"])
    shown = await world.add(flags=["INVISIBLE_PATIENT"])
    for days in (15, 17):
        world.later(timedelta(days=days))
        await world.service.deadlines.run(world.clock())
    for action in ("document.waiting", "document.show_patient"):
        secret = {each.objects[0]: each.actor.secret_connection for each in await world.events(action)}
        assert secret == {hidden.name: True, shown.name: False}


async def test_an_announcement_that_cannot_be_shown_keeps_no_other_waiting(world: World) -> None:
    broken, sound = [await world.add(flags=["INVISIBLE_PATIENT"]) for _ in range(2)]
    spoil = "UPDATE document SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE document_id = $1"
    await world.pool.execute(spoil, uuid.UUID(broken.name[-36:]))
    world.later(timedelta(days=40))
    keys = DossierKeys(Keyring({1: b"k" * 32}, current=1, digests=[1]), "document")
    told: list[int] = []
    deadlines = Deadlines(world.pool, keys, clock=world.clock, committed=told.extend, slice_=1)
    await deadlines.run(world.clock())
    [event] = await world.events("document.show_patient")
    assert list(event.objects) == [sound.name]
    await world.pool.execute("DELETE FROM document WHERE document_id = $1", uuid.UUID(broken.name[-36:]))
