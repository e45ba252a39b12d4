"""Criteria of searches that sealed metadata make hard, on a real PostgreSQL: names of authors, spans left out."""

from __future__ import annotations

import uuid

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2 as pb
from services.document.naming import AuthorNaming
from services.document.store.reading import DocumentStore
from services.document.unique_ids import UniqueIds
from services.runtime.dossier_keys import DossierKeys
from services.runtime.identifiers import dossier_name
from services.runtime.keyring import Keyring
from tests.document_world import World
from tests.documents import call, cda, new_oid, plain_metadata, submission
from tests.refusals import refused

KEYRING = Keyring({1: b"k" * 32}, current=1, digests=[1])
"""The world's."""


async def test_documents_and_sets_are_found_by_the_names_of_their_authors(world: World) -> None:
    """Exactly, and before pages are cut: by the beginning of a name or of its later words, whatever its case and
    accents; of a name in one piece by each word."""
    told_apart, in_one_piece = plain_metadata(new_oid()), plain_metadata(new_oid())
    told_apart.authors[0].name = "Zoé Marie Le Cœur-Évrard"
    told_apart.authors[0].family_name = "Le Cœur-Évrard"
    told_apart.authors[0].given_names.extend(["Zoé", "Marie"])
    in_one_piece.authors[0].name = "Jean DUPONT"
    one = (await world.submit((told_apart, b"%PDF-1.7 a"))).documents[0]
    other = (await world.submit((in_one_piece, b"%PDF-1.7 b"))).documents[0]
    cases: tuple[tuple[list[str], list[str], list[pb.Document]], ...] = (
        (["lecoeur"], [], [one]),
        (["EVR"], [], [one]),
        (["évrard"], ["zoe"], [one]),
        (["dup"], ["j"], [other]),
        (["jean"], ["dupont"], [other]),
        (["dupond", "Cœur"], [], [one]),
        (["d", "l"], [], [other, one]),
        (["marie"], [], []),
        (["zoe"], ["evrard"], []),
        (["evrards"], [], []),
        (["evrard"], ["jean"], []),
        (["-"], [], []),
    )
    for families, givens, found in cases:
        for size in (1, 20):
            answer = await world.search(author_family_names=families, author_given_names=givens, page_size=size)
            assert answer.total_size == len(found), (families, givens)
            assert [d.name for d in answer.documents] == [d.name for d in found][:size], (families, givens)
    servicer, parent = world.service.servicer, dossier_name(world.dossier)
    submitted = submission(world.dossier, (pb.Document(), cda(new_oid())))
    submitted.submission_set.author.name = "Anne O'Connor"
    made = (await world.send(submitted)).submission_set
    for family, names in (("oconn", {made.name}), ("connor", {made.name}), ("evrard", set[str]())):
        request = pb.ListSubmissionSetsRequest(parent=parent, author_family_names=[family])
        listed = await servicer.ListSubmissionSets(request, call("ListSubmissionSets", world.dossier))
        assert {each.name for each in listed.submission_sets} == names
        assert listed.total_size == len(names)
    for name, total in ((made.name, 1), (one.submission_set, 1), (one.name.replace("documents", "submissionSets"), 0)):
        request = pb.ListSubmissionSetsRequest(parent=parent, submission_set=name)
        listed = await servicer.ListSubmissionSets(request, call("ListSubmissionSets", world.dossier))
        assert listed.total_size == total
    for record in [*await world.pool.fetch("SELECT * FROM document"), *await world.pool.fetch("TABLE submission_set")]:
        line = repr(tuple(record.values())).lower()
        assert not any(word in line for word in ("dupont", "connor", "evrard", "vrard"))


async def test_what_was_stored_before_names_were_kept_is_found_by_them(world: World) -> None:
    """All of it but what cannot be opened, which verify tells of."""
    request = submission(world.dossier, *((plain_metadata(new_oid()), b"%%PDF-1.7 %d" % n) for n in range(3)))
    request.submission_set.author.name = "Anne O'Connor"
    documents = (await world.send(request)).documents
    await world.pool.execute("UPDATE document SET author_name_digests = '{}'")
    await world.pool.execute("UPDATE submission_set SET author_name_digests = '{}'")
    await world.pool.execute(
        "UPDATE document SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE document_id = $1",
        documents[1].name[-36:],
    )
    store = DocumentStore(world.pool, DossierKeys(KEYRING, "document"))
    for _ in range(2):
        await AuthorNaming(world.pool, store, UniqueIds(KEYRING), slice_=2).run(world.clock())
    named = await world.pool.fetchval("SELECT count(*) FROM document WHERE author_name_digests <> '{}'")
    assert named == await world.pool.fetchval("SELECT count(*) FROM document") - 1
    listing = pb.ListSubmissionSetsRequest(parent=request.parent, author_family_names=["oconn"])
    listed = await world.service.servicer.ListSubmissionSets(listing, call("ListSubmissionSets", world.dossier))
    assert listed.total_size == 1
    verify = pb.VerifyContentsRequest(parent=request.parent)
    answer = await world.service.servicer.VerifyContents(verify, call("VerifyContents", 0))
    assert [fault.document for fault in answer.faults] == [documents[1].name]
    await world.pool.execute("DELETE FROM document WHERE document_id = $1", documents[1].name[-36:])
    found = await world.search(author_family_names=["martin"])
    assert {each.name for each in found.documents} == {documents[0].name, documents[2].name}


async def test_a_span_that_is_left_out_takes_nothing_else_with_it(world: World) -> None:
    days = [await world.add(effective=f"2024010{day}101500+0100") for day in (1, 2, 3)]
    without = pb.TimeRange()
    without.excluded_start_time.FromJsonString("2024-01-01T23:00:00Z")
    without.excluded_end_time.FromJsonString("2024-01-02T23:00:00Z")
    assert {d.name for d in (await world.search(create_time=without)).documents} == {days[0].name, days[2].name}
    for name in ("service_time", "service_stop_time"):  # each act began, and ended, on the second day
        assert (await world.search(**{name: without})).total_size == 0, name
    for name in ("submit_time", "change_time"):
        assert (await world.search(**{name: without})).total_size == 3
    request = pb.ListSubmissionSetsRequest(parent=dossier_name(world.dossier))
    request.submit_time.excluded_start_time.FromJsonString("2000-01-01T00:00:00Z")
    request.submit_time.excluded_end_time.FromJsonString("2100-01-01T00:00:00Z")
    answer = await world.service.servicer.ListSubmissionSets(request, call("ListSubmissionSets", world.dossier))
    assert answer.total_size == 0
    without.ClearField("excluded_end_time")
    with refused(reasons.ERROR_REASON_INVALID_FIELD):
        await world.search(create_time=without)


async def test_an_identifier_is_the_producers_or_the_one_that_the_record_gave(world: World) -> None:
    """MHD: `identifier` is masterIdentifier or identifier, and identifier holds the entryUUID too."""
    made, other = await world.add(), await world.add()
    answer = await world.search(unique_id=made.entry_id)
    assert [document.name for document in answer.documents] == [made.name]
    both = await world.search(unique_ids=[made.unique_id, other.entry_id])
    assert {document.name for document in both.documents} == {made.name, other.name}
    assert (await world.search(unique_id=str(uuid.uuid4()))).total_size == 0
    servicer, parent = world.service.servicer, dossier_name(world.dossier)
    for unique_id, found in ((made.submission_set[-36:], [made.submission_set]), (made.entry_id, [])):
        request = pb.ListSubmissionSetsRequest(parent=parent, unique_id=unique_id)
        listed = await servicer.ListSubmissionSets(request, call("ListSubmissionSets", world.dossier))
        assert [each.name for each in listed.submission_sets] == found


async def test_a_set_whose_act_is_not_said_has_the_sector_of_its_document(world: World) -> None:
    """MHD requires a contentTypeCode of a set, and a simplified publication has no word for it."""
    made = (await world.submit((plain_metadata(new_oid()), b"%PDF-1.7 a"))).submission_set
    sector = plain_metadata(new_oid()).facility_type
    assert made.content_type.code == sector.code
    for code, total in ((sector.code, 1), ("other", 0)):
        request = pb.ListSubmissionSetsRequest(parent=dossier_name(world.dossier), content_types=[code])
        listed = await world.service.servicer.ListSubmissionSets(request, call("ListSubmissionSets", world.dossier))
        assert listed.total_size == total
    said = submission(world.dossier, (pb.Document(), cda(new_oid())))
    said.submission_set.content_type.system, said.submission_set.content_type.code = "1.2.250.1.213.2.2", "04"
    assert (await world.send(said)).submission_set.content_type.code == "04"
