"""What is submitted to one of a person's dossiers meets what the others hold: refused, replaced, followed as in one."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.runtime.errors import DmpError
from services.runtime.identifiers import document_name, dossier_name
from tests.document_world import World, document_database, world
from tests.documents import cda, new_oid, submission
from tests.integration.test_document_links import found, link, two
from tests.refusals import refused

__all__ = ["document_database", "two", "world"]

REPLACES: Final = document_pb2.RELATIONSHIP_TYPE_REPLACES
APPENDS: Final = document_pb2.RELATIONSHIP_TYPE_APPENDS
DEPRECATED: Final = document_pb2.DOCUMENT_STATUS_DEPRECATED
EVERY: Final = (1, 2, 3)


def relating(
    dossier: int, kind: document_pb2.RelationshipType.ValueType, target: str, **given: str
) -> document_pb2.SubmitDocumentsRequest:
    """A document that is something to another one."""
    request = submission(dossier, (document_pb2.Document(), cda(new_oid(), **given)))
    request.documents[0].relationships.add(type=kind, target=target)
    return request


async def test_what_the_other_dossier_holds_is_not_taken_twice(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, *_ = two
    content, set_id = cda(new_oid()), "1.2.250.1.998.77"
    versioned = cda(new_oid(), extra='<setId root="1.2.3.4"/><versionNumber value="1"/>')
    again = cda(new_oid(), extra='<setId root="1.2.3.4"/><versionNumber value="1"/>')
    first = submission(other, (document_pb2.Document(), content), (document_pb2.Document(), versioned))
    first.submission_set.unique_id = set_id
    await world.send(first)
    field = "documents[0].document.unique_id"
    for dossier in (one, other):
        for taken in (content, again):
            with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, field):
                await world.submit((document_pb2.Document(), taken), dossier=dossier)
    repeated = submission(one, (document_pb2.Document(), cda(new_oid())))
    repeated.submission_set.unique_id = set_id
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, "submission_set.unique_id"):
        await world.send(repeated)
    link(world)
    await world.send(repeated)
    for taken in (content, again):
        await world.submit((document_pb2.Document(), taken), dossier=one)


async def test_a_document_of_the_other_dossier_is_replaced_where_it_lies_and_both_trails_say_so(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, _, theirs = two
    old = document_name(one, uuid.UUID(theirs[0]))
    cursor = (await world.changes("", other)).cursor
    new = (await world.send(relating(one, REPLACES, old))).documents[0]
    for dossier in (one, other):
        seen = await world.get(document_name(dossier, uuid.UUID(theirs[0])))
        assert (seen.status, seen.version) == (DEPRECATED, 2)
        assert seen.replaced_by == document_name(dossier, uuid.UUID(new.name[-36:]))
        assert [r.target for r in (await world.get(seen.replaced_by)).relationships] == [seen.name]
        assert sorted(await found(world, dossier, statuses=EVERY)).count(theirs[0]) == 1
        assert theirs[0] not in await found(world, dossier)
        assert [v.document.version for v in await world.versions(seen.name)] == [2, 1]
    told = await world.changes(cursor, other)
    assert {change.document.name[-36:] for change in told.changes} == {theirs[0], new.name[-36:]}
    for dossier, objects in ((one, [new.submission_set, new.name, old]), (other, [f"{dossier_name(other)}{old[30:]}"])):
        world.dossier = dossier
        event = (await world.events("document.submit"))[-1]
        assert list(event.objects) == objects
        assert [(change.attribute, change.before) for change in event.changes] == [("replaced", objects[-1])]
    with refused(reasons.ERROR_REASON_REPLACE_FAILED, "documents[0].relationships"):
        await world.send(relating(one, REPLACES, old))


async def test_a_document_of_the_other_dossier_is_completed_archived_and_deleted(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, _, theirs = two
    names = [document_name(one, uuid.UUID(each)) for each in theirs]
    added = (await world.send(relating(one, APPENDS, names[0]))).documents[0]
    assert [d.name for d in (await world.search(dossier=other, related_to=names[0])).documents] == [
        document_name(other, uuid.UUID(added.name[-36:]))
    ]
    for name, change, status in (
        (names[0], document_pb2.DOCUMENT_CHANGE_ARCHIVE, document_pb2.DOCUMENT_STATUS_ARCHIVED),
        (names[0], document_pb2.DOCUMENT_CHANGE_UNARCHIVE, document_pb2.DOCUMENT_STATUS_APPROVED),
        (names[1], document_pb2.DOCUMENT_CHANGE_DEPRECATE, DEPRECATED),
        (names[2], document_pb2.DOCUMENT_CHANGE_DELETE, document_pb2.DOCUMENT_STATUS_DELETED),
    ):
        assert (await world.change(name, change)).status == status


async def test_versions_of_one_document_follow_each_other_across_dossiers(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, *_ = two
    versions = [_version(number) for number in range(1, 4)]
    submitted = [
        (await world.submit((document_pb2.Document(), versions[number - 1]), dossier=dossier)).documents[0]
        for number, dossier in ((1, other), (3, one), (2, one))  # the second comes late
    ]
    shown = [(d.status, d.replaced_by[-36:]) for d in [await world.get(each.name) for each in submitted]]
    newest = submitted[1].name[-36:]
    assert shown == [(DEPRECATED, newest), (document_pb2.DOCUMENT_STATUS_APPROVED, ""), (DEPRECATED, newest)]


async def test_who_was_replaced_from_a_dossier_that_was_parted_is_replaced_again(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    one, other, _, theirs = two
    await world.submit((document_pb2.Document(), _version(1)), dossier=other)
    await world.submit((document_pb2.Document(), _version(2)), dossier=one)
    await world.send(relating(one, REPLACES, document_name(one, uuid.UUID(theirs[0]))))
    link(world)
    (late,) = (await world.submit((document_pb2.Document(), _version(2)), dossier=other)).documents
    again = relating(other, REPLACES, document_name(other, uuid.UUID(theirs[0])))
    new = (await world.send(again)).documents[0]
    old = await world.get(document_name(other, uuid.UUID(theirs[0])))
    assert (old.status, old.version, old.replaced_by) == (DEPRECATED, 3, new.name)
    assert {late.name[-36:], new.name[-36:], *theirs[1:]} == set(await found(world, other))
    with refused(reasons.ERROR_REASON_REPLACE_FAILED, "documents[0].relationships"):
        await world.send(relating(other, REPLACES, old.name))


async def test_submissions_under_way_while_dossiers_are_linked_and_parted_are_each_whole_or_not_at_all(
    world: World, two: tuple[int, int, list[str], list[str]]
) -> None:
    """Those that the link finds under way end as before it or as after it, and none waits for another for ever."""
    one, other, _, theirs = two
    content, old = cda(new_oid()), document_name(one, uuid.UUID(theirs[0]))
    requests = [
        request
        for _ in range(6)
        for request in (
            submission(one, (document_pb2.Document(), content)),
            relating(one, REPLACES, old),
            submission(one, (document_pb2.Document(), cda(new_oid()))),
            submission(other, (document_pb2.Document(), cda(new_oid()))),
        )
    ]

    async def linking() -> None:
        for groups in ((), ((one, other),), ((other, one),), (), ((one, other),)):
            await asyncio.sleep(0.008)
            link(world, *groups)

    async def sending(number: int, request: document_pb2.SubmitDocumentsRequest) -> object:
        await asyncio.sleep(0.002 * number)
        return await world.send(request)

    sent = (sending(number, request) for number, request in enumerate(requests))
    outcomes, _ = await asyncio.gather(asyncio.gather(*sent, return_exceptions=True), linking())
    made = [isinstance(outcome, document_pb2.SubmitDocumentsResponse) for outcome in outcomes]
    told = {outcome.reason for outcome in outcomes if isinstance(outcome, DmpError)}
    assert told <= {reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, reasons.ERROR_REASON_REPLACE_FAILED}
    assert (sum(made[0::4]), sum(made[2::4]), sum(made[3::4])) == (1, 6, 6)
    replaced = (await world.get(document_name(other, uuid.UUID(theirs[0])))).status == DEPRECATED
    assert sum(made[1::4]) == replaced
    link(world, (one, other))
    everything = await found(world, one, statuses=EVERY)
    assert len(everything) == len(set(everything)) == 6 + 13 + replaced


def _version(number: int) -> bytes:
    """A version of one and the same CDA."""
    parent = f'<parentDocument><id root="1.2.250.1.999.5.{number - 1}"/></parentDocument>'
    related = f'<relatedDocument typeCode="RPLC">{parent}</relatedDocument>' if number > 1 else ""
    extra = f'<setId root="1.2.250.1.999.5"/><versionNumber value="{number}"/>{related}'
    return cda(f"1.2.250.1.999.5.{number}", extra=extra)
