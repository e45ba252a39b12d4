"""What documents are to each other on a real PostgreSQL: replacement, relations, versions of one CDA."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest

from dmp.common.v1 import coding_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2 as pb
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id
from tests import documents
from tests.document_world import World
from tests.documents import call, cda, decision, new_oid, plain_metadata, submission
from tests.refusals import refused

REPLACES, APPENDS = pb.RELATIONSHIP_TYPE_REPLACES, pb.RELATIONSHIP_TYPE_APPENDS
APPROVED, DEPRECATED = pb.DOCUMENT_STATUS_APPROVED, pb.DOCUMENT_STATUS_DEPRECATED


def version_of(set_id: str, number: int, parent: str = "") -> str:
    """The elements of a CDA's header that make it a version of a set."""
    related = (
        f'<relatedDocument typeCode="RPLC"><parentDocument><id root="{parent}"/></parentDocument></relatedDocument>'
    )
    return f'<setId root="{set_id}"/><versionNumber value="{number}"/>' + (related if parent else "")


async def test_what_replaces_takes_the_place_and_the_old_one_says_by_whom(world: World) -> None:
    old = await world.add()
    new = await world.replace(old)
    assert [(r.type, r.target) for r in new.relationships] == [(REPLACES, old.name)]
    now = await world.get(old.name)
    assert (now.status, now.replaced_by, now.version) == (DEPRECATED, new.name, 2)
    assert now.logical_id == old.logical_id
    assert now.entry_id != old.entry_id
    assert [d.name for d in (await world.search()).documents] == [new.name]
    assert [d.name for d in (await world.search(related_to=old.name, statuses=[APPROVED])).documents] == [new.name]
    with refused(reasons.ERROR_REASON_REPLACE_FAILED, "documents[0].relationships"):
        await world.replace(old)


async def test_of_two_who_replace_at_once_one_wins_and_the_other_is_told(world: World) -> None:
    old = await world.add()
    outcomes = await asyncio.gather(*(world.replace(old) for _ in range(8)), return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, pb.Document)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, DmpError)]
    assert len(won) == 1
    assert {error.reason for error in lost} == {reasons.ERROR_REASON_REPLACE_FAILED}
    assert (await world.search()).total_size == 1


async def test_a_hundred_submissions_of_one_unique_id_make_one_document(world: World) -> None:
    content = cda(new_oid())
    outcomes = await asyncio.gather(
        *(world.submit((pb.Document(), content)) for _ in range(100)), return_exceptions=True
    )
    assert sum(isinstance(outcome, pb.SubmitDocumentsResponse) for outcome in outcomes) == 1
    told = [outcome.reason for outcome in outcomes if isinstance(outcome, DmpError)]
    assert told == [reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID] * 99
    assert (await world.rows())["document"] == 1


async def test_a_correction_is_hidden_as_what_it_corrects(world: World) -> None:
    old = await world.add(flags=["MASQUE_PS"])
    new = await world.replace(old, author=documents.OTHER)
    assert "MASQUE_PS" in {code.code for code in new.confidentiality}
    world.consent.answer = decision(masked=consent_pb2.MASKED_VIEW_NONE)
    assert (await world.search()).total_size == 0


@pytest.mark.parametrize(
    ("kind", "code"), [(pb.RELATIONSHIP_TYPE_TRANSFORMS, "XFRM"), (APPENDS, "APND")], ids=["transform", "append"]
)
async def test_what_transforms_or_completes_leaves_the_other_in_its_place(world: World, kind: int, code: str) -> None:
    """Stated by the request, or by the header of a CDA alone."""
    first = await world.add()
    request = submission(world.dossier, (pb.Document(), cda(new_oid())))
    request.documents[0].relationships.add(type=kind, target=first.name)
    stated = (await world.send(request)).documents[0]
    parent = f'<parentDocument><id root="{first.unique_id}"/></parentDocument>'
    related = f'<relatedDocument typeCode="{code}">{parent}</relatedDocument>'
    by_header = await world.add_version(new_oid(), related)
    for document in (stated, by_header):
        assert [(r.type, r.target) for r in document.relationships] == [(kind, first.name)]
    now = await world.get(first.name)
    assert (now.status, now.version, now.replaced_by) == (APPROVED, 1, "")
    found = {d.name for d in (await world.search(related_to=first.name)).documents}
    assert found == {stated.name, by_header.name}


async def test_another_form_of_a_masked_document_is_masked(world: World) -> None:
    first = await world.add(flags=["MASQUE_PS"])
    request = submission(world.dossier, (pb.Document(), cda(new_oid())), (pb.Document(), cda(new_oid())))
    request.documents[0].relationships.add(type=pb.RELATIONSHIP_TYPE_TRANSFORMS, target=first.name)
    request.documents[1].relationships.add(type=APPENDS, target=first.name)
    form, complement = (await world.send(request)).documents
    assert "MASQUE_PS" in {code.code for code in form.confidentiality}
    world.consent.answer = decision(masked=consent_pb2.MASKED_VIEW_NONE)
    assert [d.name for d in (await world.search()).documents] == [complement.name]


async def test_patients_replace_what_patients_deposited_and_nobody_else_does(world: World) -> None:
    """Neither by naming it, nor by a CDA of the same set: a higher number would put a report behind a patient's."""
    set_id = new_oid()
    report = await world.add_version(new_oid(), version_of(set_id, 1))
    deposit, patient = plain_metadata(new_oid()), documents.professional()
    deposit.type_code.CopyFrom(coding_pb2.Coding(code="EXPPAT_2"))
    patient.actor_kind = context_pb2.ACTOR_KIND_PATIENT

    async def deposited(request: pb.SubmitDocumentsRequest) -> pb.Document:
        made = call("SubmitDocuments", world.dossier, patient)
        return (await world.service.servicer.SubmitDocuments(request, made)).documents[0]

    own = await deposited(submission(world.dossier, (deposit, b"%PDF-1.7 mine")))
    named = pb.Relationship(type=REPLACES, target=report.name)
    deposit.unique_id = new_oid()
    over_a_report = submission(world.dossier, (deposit, b"%PDF-1.7 mine too"))
    over_a_report.documents[0].relationships.append(named)
    with refused(reasons.ERROR_REASON_REPLACE_FAILED, "documents[0].relationships"):
        await deposited(over_a_report)
    named.target = own.name
    over_a_deposit = submission(world.dossier, (pb.Document(), cda(new_oid())))
    over_a_deposit.documents[0].relationships.append(named)
    with refused(reasons.ERROR_REASON_REPLACE_FAILED, "documents[0].relationships"):
        await world.send(over_a_deposit)
    of_the_set = (pb.Document(), cda(new_oid(), extra=version_of(set_id, 9), type_code="EXPPAT_2"))
    ninth = await deposited(submission(world.dossier, of_the_set))
    second = await world.add_version(new_oid(), version_of(set_id, 2, report.unique_id))
    assert (ninth.status, second.status) == (APPROVED, APPROVED)
    found = {d.name for d in (await world.search()).documents}
    assert found == {own.name, ninth.name, second.name}


async def test_relations_to_what_is_not_there_are_refused(world: World) -> None:
    absent = f"{dossier_name(world.dossier)}/documents/{uuid.uuid4()}"
    for kind in (REPLACES, APPENDS):
        request = submission(world.dossier, (pb.Document(), cda(new_oid())))
        request.documents[0].relationships.add(type=kind, target=absent)
        with refused(reasons.ERROR_REASON_REPLACE_FAILED, "documents[0].relationships"):
            await world.send(request)
    other = new_health_id()
    foreign = (await world.submit((pb.Document(), cda(new_oid())), dossier=other)).documents[0]
    request = submission(world.dossier, (pb.Document(), cda(new_oid())))
    request.documents[0].relationships.add(type=REPLACES, target=foreign.name)
    with refused(reasons.ERROR_REASON_REPLACE_FAILED):
        await world.send(request)
    assert set((await world.rows()).values()) == {0}


async def test_versions_of_a_cda_follow_each_other_in_whatever_order_they_come(world: World) -> None:
    set_id, first, second, third = (new_oid() for _ in range(4))
    one = await world.add_version(first, version_of(set_id, 1))
    with refused(reasons.ERROR_REASON_METADATA_ERROR, "documents[0].content"):
        await world.add_version(second, version_of(set_id, 2))
    three = await world.add_version(third, version_of(set_id, 3, second))
    assert (three.status, three.set_id, three.set_version) == (APPROVED, set_id, 3)
    two = await world.add_version(second, version_of(set_id, 2, first))
    assert (two.status, two.replaced_by) == (DEPRECATED, three.name)
    assert (await world.get(one.name)).status == DEPRECATED
    assert [d.name for d in (await world.search()).documents] == [three.name]
    with refused(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID):
        await world.add_version(new_oid(), version_of(set_id, 2, first))


async def test_a_version_takes_the_place_of_an_archived_one_too(world: World) -> None:
    """Else that would come back beside it as approved, and what is masked in it would be shown in its correction."""
    set_id, first, second, third = (new_oid() for _ in range(4))
    one = await world.add_version(first, version_of(set_id, 1))
    for change in (pb.DOCUMENT_CHANGE_MASK, pb.DOCUMENT_CHANGE_ARCHIVE):
        await world.change(one.name, change)
    with refused(reasons.ERROR_REASON_REPLACE_FAILED):  # an archived one is replaced by nothing that names it
        await world.add_version(second, version_of(set_id, 2, first))
    three = await world.add_version(third, version_of(set_id, 3, second))
    assert "MASQUE_PS" in {code.code for code in three.confidentiality}
    archived = await world.get(one.name)
    assert (archived.status, archived.replaced_by) == (pb.DOCUMENT_STATUS_ARCHIVED, three.name)
    back = await world.change(one.name, pb.DOCUMENT_CHANGE_UNARCHIVE)
    assert (back.status, back.replaced_by) == (DEPRECATED, three.name)
    assert [d.name for d in (await world.search()).documents] == [three.name]


async def test_versions_of_a_cda_that_come_together_are_as_if_they_had_come_one_by_one(world: World) -> None:
    """In whatever order the submission has them; only the last is found, hidden as any of them is."""
    set_id, before, first, second, third = (new_oid() for _ in range(5))
    old = await world.add_version(before, version_of(set_id, 1))
    masked = pb.Document()
    masked.confidentiality.add(system="1.2.250.1.213.1.1.4.13", code="MASQUE_PS")
    orphan = (pb.Document(), cda(third, extra=version_of(set_id, 4)))
    two = (masked, cda(first, extra=version_of(set_id, 2, before)))
    three = (pb.Document(), cda(second, extra=version_of(set_id, 3, first)))
    with refused(reasons.ERROR_REASON_METADATA_ERROR, "documents[0].content"):
        await world.submit(orphan, three, two)
    four = (pb.Document(), cda(third, extra=version_of(set_id, 4, second)))
    answer = (await world.submit(four, two, three)).documents
    assert [d.status for d in answer] == [APPROVED, DEPRECATED, DEPRECATED]
    assert (answer[1].replaced_by, answer[2].replaced_by) == (answer[2].name, answer[0].name)
    assert [(r.type, r.target) for r in answer[0].relationships if r.type == REPLACES][-1] == (REPLACES, answer[2].name)
    assert (await world.get(old.name)).status == DEPRECATED
    assert [d.name for d in (await world.search()).documents] == [answer[0].name]
    for document in answer:
        assert "MASQUE_PS" in {code.code for code in document.confidentiality}
    world.consent.answer = decision(masked=consent_pb2.MASKED_VIEW_NONE)
    assert (await world.search()).total_size == 0


async def test_a_correction_of_an_announcement_is_hidden_as_long_as_that_is(world: World) -> None:
    """Also when no job has written down that its month is over."""
    document = await world.add(flags=["INVISIBLE_PATIENT"])
    corrected = await world.replace(document)
    shown = await world.replace(await world.add())
    world.consent.answer = decision(patient_view=True)
    assert [each.name for each in (await world.search()).documents] == [shown.name]
    world.consent.answer = decision()
    world.later(timedelta(days=32))
    again = await world.replace(corrected)
    world.consent.answer = decision(patient_view=True)
    assert {each.name for each in (await world.search()).documents} == {shown.name, again.name}
