"""Metadata read for many calls at once, on a real PostgreSQL: what each gets, and what is recorded of it, is what it
would be alone; and with what is not plainly to be shown the reader of single documents goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import codes
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import dossier_name, new_health_id, uuid7
from services.runtime.together import Asked, Outcome
from tests.document_world import World
from tests.documents import call, decision, no, professional
from tests.refusals import refused


async def together(
    world: World, names: Sequence[str], actor: context_pb2.ActingContext | None = None, timeout: float = 10.0
) -> list[Outcome]:
    asked = [
        Asked(call("GetDocument", int(name[9:28]), actor, timeout=timeout), document_pb2.GetDocumentRequest(name=name))
        for name in names
    ]
    return list(await world.service.servicer.together["GetDocument"](asked))


def without_its_own(event: audit_pb2.AuditEvent) -> audit_pb2.AuditEvent:
    """An event without what no two events share."""
    event = audit_pb2.AuditEvent.FromString(event.SerializeToString())
    event.ClearField("event_id")
    event.ClearField("event_time")
    return event


async def test_each_gets_and_leaves_what_it_would_alone(world: World) -> None:
    documents = [await world.add() for _ in range(5)]
    documents.append(await world.add(flags=[codes.MASKED_FROM_PROFESSIONALS]))
    changed = await world.change(documents[1].name, document_pb2.DOCUMENT_CHANGE_ARCHIVE)
    assert changed.version > documents[1].version
    names = [document.name for document in documents] * 2
    before = len(world.audit.events)
    alone = [await world.get(name) for name in names]
    middle = len(world.audit.events)
    outcomes = await together(world, names)
    assert [
        document_pb2.GetDocumentResponse.FromString(each).document for each in outcomes if isinstance(each, bytes)
    ] == alone
    events = list(map(without_its_own, world.audit.events))
    assert events[before:middle] == events[middle:]
    assert len({event.event_id for event in world.audit.events[before:]}) == 2 * len(names)


async def test_what_is_not_plainly_to_be_shown_ends_as_it_would_alone_and_is_decided_once(world: World) -> None:
    shown, masked, deleted, damaged, renamed = [await world.add() for _ in range(5)]
    await world.change(masked.name, document_pb2.DOCUMENT_CHANGE_MASK)
    await world.change(deleted.name, document_pb2.DOCUMENT_CHANGE_DELETE)
    changed = await world.change(renamed.name, document_pb2.DOCUMENT_CHANGE_ARCHIVE)
    await world.pool.execute(
        "UPDATE document SET version = 9 WHERE health_id = $1 AND document_id = $2", world.dossier, damaged.name[-36:]
    )
    world.consent.answer, world.consent.any_dossier = decision(masked=consent_pb2.MASKED_VIEW_OWN), True
    here = f"{dossier_name(world.dossier)}/documents"
    hidden = [masked.name, deleted.name, damaged.name, f"{here}/{uuid7()}"]
    names = [*hidden, f"{dossier_name(new_health_id())}/documents/{shown.name[-36:]}", f"{here}/{changed.entry_id}"]
    stranger = professional("899700999999")

    async def compared() -> list[str]:
        """What each is told, when it is the same alone and together, and leaves the same event."""
        before = len(world.audit.events)
        alone = [await end(partial(world.get, name, stranger)) for name in names]
        middle, asked = len(world.audit.events), len(world.consent.actions)
        outcomes = await together(world, names, stranger)
        assert len(world.audit.events) == middle, "nothing is said of them yet"
        assert [await end(rest) for rest in outcomes if callable(rest)] == alone
        assert len(world.consent.actions) == asked + len(names), "consent is not asked again"
        events = list(map(without_its_own, world.audit.events))
        assert events[before:middle] == events[middle:]
        assert middle - before == len(names)
        return alone

    assert await compared() == ["DOCUMENT_NOT_FOUND"] * 2 + ["CONTENT_CORRUPTED"] + ["DOCUMENT_NOT_FOUND"] * 2 + [""]
    world.consent.answer = no(reasons.ERROR_REASON_BLOCKED)
    names.append(shown.name)  # unsealed while consent decides, and shown after its yes alone
    assert await compared() == ["BLOCKED"] * 7
    [malformed] = await together(world, [f"{here}/nothing"], stranger)
    assert malformed is None, "left to the handler that says what is wrong with it"


async def end(rest: Callable[[], Awaitable[object]]) -> str:
    """The reason of a refusal; empty without one."""
    try:
        await rest()
    except DmpError as error:
        return error.reason_name
    return ""


async def test_nothing_is_answered_that_is_not_decided_found_in_time_and_recorded(world: World) -> None:
    name = (await world.add()).name
    world.audit.down = True
    [told] = await together(world, [name])
    assert isinstance(told, DmpError)
    assert told.reason == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
    world.audit.down = False
    before = len(world.audit.events)
    [late] = await together(world, [name], timeout=0.0)
    assert isinstance(late, DmpError)
    assert late.reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED
    world.consent.answer = unavailable("consent")
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await together(world, [name, name])
    world.consent.answer = decision()
    await world.pool.execute("ALTER TABLE document RENAME TO document_away")
    try:
        with refused(reasons.ERROR_REASON_INTERNAL):
            await together(world, [name])
    finally:
        await world.pool.execute("ALTER TABLE document_away RENAME TO document")
    assert len(world.audit.events) == before
    assert isinstance((await together(world, [name]))[0], bytes)
