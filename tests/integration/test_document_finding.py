"""Finding documents on a real PostgreSQL: criteria, orders, sets, folders, changes since a visit; and uploads."""

from __future__ import annotations

from datetime import timedelta

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import coding_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2 as pb
from services.document.upkeep import UniqueIdIndex
from services.runtime.identifiers import dossier_name, new_health_id
from services.runtime.jobs import Lease
from tests import documents
from tests.document_world import World
from tests.documents import call, cda, decision, new_oid, plain_metadata, submission
from tests.refusals import refused

REPLACES, APPENDS = pb.RELATIONSHIP_TYPE_REPLACES, pb.RELATIONSHIP_TYPE_APPENDS
APPROVED, DEPRECATED, ARCHIVED, DELETED = (
    pb.DOCUMENT_STATUS_APPROVED,
    pb.DOCUMENT_STATUS_DEPRECATED,
    pb.DOCUMENT_STATUS_ARCHIVED,
    pb.DOCUMENT_STATUS_DELETED,
)


# --- searching, sets, folders ----------------------------------------------------------------------------------------


async def test_each_criterion_finds_what_has_it_and_nothing_else(world: World) -> None:
    wanted = plain_metadata(new_oid())
    wanted.title = "Compte rendu opératoire de PATIENTE"
    wanted.facility_type.code, wanted.practice_setting.code = "SA01", "ETABLISSEMENT"
    wanted.event_codes.add(system="1.2.3", code="ACT1")
    wanted.reference_ids.add(system="1.2.3.9", value="order-7")
    wanted.authors[0].institution_id.system, wanted.authors[0].institution_id.value = "1.2.250.1.71.4.2.2", "1999"
    wanted.service_start_time.seconds, wanted.service_stop_time.seconds = 1_704_186_900, 1_704_286_900
    found = (await world.submit((wanted, b"%PDF-1.7 a"))).documents[0]
    await world.add(author=documents.OTHER)
    identifier = coding_pb2.Identifier
    stop = pb.TimeRange()
    stop.start_time.seconds = 1_704_286_000
    for criteria in (
        {"type_codes": ["57833-6"]},
        {"class_codes": [found.class_code.code]},
        {"format_codes": ["urn:ihe:iti:xds-sd:pdf:2008"]},
        {"facility_types": ["SA01"]},
        {"practice_settings": ["ETABLISSEMENT"]},
        {"event_codes": ["ACT1", "ACT2"]},
        {"reference_ids": [identifier(system="1.2.3.9", value="order-7")]},
        {"authors": [identifier(system="1.2.250.1.71.4.2.1", value=documents.AUTHOR)]},
        {"author_institutions": [identifier(system="1.2.250.1.71.4.2.2", value="1999")]},
        {"unique_ids": [found.unique_id]},
        {"documents": [found.name]},
        {"submission_set": found.submission_set},
        {"title": "Patiente"},
        {"title": "rendu OPERA"},
    ):
        answer = await world.search(**criteria)
        assert [d.name for d in answer.documents] == [found.name], criteria
        assert answer.total_size == 1
    for criteria in ({"title": "chirurgie"}, {"title": "opér rendez"}, {"confidentiality_codes": ["V"]}):
        assert (await world.search(**criteria)).total_size == 0
    assert (await world.search(confidentiality_codes=["N"])).total_size == 2
    assert (await world.search(service_stop_time=stop)).total_size == 1


async def test_titles_and_their_words_are_nowhere_in_clear(world: World) -> None:
    await world.add()
    for record in await world.pool.fetch("SELECT * FROM document"):
        line = repr(tuple(record.values())).lower()
        assert "consultation" not in line
        assert "janvier" not in line


async def test_every_order_pages_through_all_while_documents_arrive(world: World) -> None:
    for day in range(9):
        await world.add(effective=f"2024010{9 - day}101500+0100")
    for order in pb.DocumentOrder.values():
        seen: list[str] = []
        token = ""
        while True:
            answer = await world.search(page_size=2, page_token=token, order=order)
            seen += [d.unique_id for d in answer.documents]
            await world.add(effective="20240115101500+0100")
            token = answer.next_page_token
            if not token:
                break
        assert len(seen) == len(set(seen)), order
        assert len(seen) >= 9


async def test_sets_and_folders_are_listed_with_what_may_be_known_of_them(world: World) -> None:
    request = submission(world.dossier, (pb.Document(), cda(new_oid())), (pb.Document(), cda(new_oid())))
    request.submission_set.content_type.system, request.submission_set.content_type.code = "1.2", "consult"
    request.folders.add(unique_id="2.25.1001", title="Grossesse")
    request.documents[0].folders.append("2.25.1001")
    made = await world.send(request)
    assert made.documents[0].folders == [made.folders[0].name]
    lister = world.service.servicer
    parent = dossier_name(world.dossier)
    sets = await lister.ListSubmissionSets(
        pb.ListSubmissionSetsRequest(parent=parent, content_types=["consult"], source_id="1.2.250.1.997"),
        call("ListSubmissionSets", world.dossier),
    )
    assert (list(sets.submission_sets), sets.total_size) == ([made.submission_set], 1)
    one = await lister.GetSubmissionSet(
        pb.GetSubmissionSetRequest(name=made.submission_set.name), call("GetSubmissionSet", world.dossier)
    )
    assert {d.name for d in one.documents} == {d.name for d in made.documents}
    folders = await lister.ListFolders(pb.ListFoldersRequest(parent=parent), call("ListFolders", world.dossier))
    assert list(folders.folders) == list(made.folders)
    assert [d.name for d in (await world.search(folder=made.folders[0].name)).documents] == [made.documents[0].name]
    later = submission(world.dossier, (pb.Document(), cda(new_oid())))
    later.documents[0].folders.append(made.folders[0].name)
    await world.send(later)
    assert (await world.search(folder=made.folders[0].name)).total_size == 2
    world.consent.answer = decision(denied_type_codes=["11488-4"])
    hidden = await lister.ListFolders(pb.ListFoldersRequest(parent=parent), call("ListFolders", world.dossier))
    assert hidden.total_size == 0
    with refused(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND):
        await lister.GetSubmissionSet(
            pb.GetSubmissionSetRequest(name=made.submission_set.name), call("GetSubmissionSet", world.dossier)
        )


async def test_a_feeder_gets_technical_ids_with_and_without_the_patient(world: World) -> None:
    document = await world.add()
    await world.index()
    for parent in (dossier_name(world.dossier), ""):
        request = pb.ResolveUniqueIdRequest(parent=parent, unique_id=document.unique_id)
        made = call("ResolveUniqueId", world.dossier if parent else 0)
        world.consent.any_dossier = not parent
        answer = await world.service.servicer.ResolveUniqueId(request, made)
        assert [(d.name, d.entry_id) for d in answer.documents] == [(document.name, document.entry_id)]
        assert world.last_event().health_id == world.dossier


class Feeder:
    """A consent that lets look up references, and searches only where it is said so."""

    def __init__(self, searches: consent_pb2.Decision) -> None:
        self.searches = searches

    def __call__(self, health_id: int, action: int) -> consent_pb2.Decision:
        return self.searches if action == consent_pb2.ACTION_SEARCH else decision()


async def resolved(world: World, unique_id: str, actor: context_pb2.ActingContext | None = None) -> list[str]:
    request = pb.ResolveUniqueIdRequest(parent=dossier_name(world.dossier), unique_id=unique_id)
    made = call("ResolveUniqueId", world.dossier, actor)
    return [each.name for each in (await world.service.servicer.ResolveUniqueId(request, made)).documents]


async def test_who_may_not_search_finds_what_he_or_his_structure_fed_and_nothing_else(world: World) -> None:
    mine, others = await world.add(), await world.add(author=documents.OTHER)
    stranger = documents.professional()
    stranger.subject, stranger.structure = "899700777777", "1690000009"
    handed_in = (await world.submit((pb.Document(), cda(new_oid(), author=documents.OTHER)))).documents[0]
    world.consent.by_action = Feeder(documents.no(reasons.ERROR_REASON_AUTHORIZATION_MISSING))
    assert await resolved(world, mine.unique_id) == [mine.name]
    assert await resolved(world, handed_in.unique_id) == [handed_in.name], "handed in, whoever wrote it"
    for document in (mine, others, handed_in):
        assert await resolved(world, document.unique_id, stranger) == []
    world.consent.by_action = Feeder(decision(denied_type_codes=["11488-4"]))
    assert await resolved(world, mine.unique_id, stranger) == [], "what a search hides from him"
    world.consent.by_action = Feeder(decision())
    assert await resolved(world, mine.unique_id, stranger) == [mine.name]


async def test_a_search_by_unique_id_alone_gives_a_feeder_the_technical_id_and_is_one_event(world: World) -> None:
    mine = await world.add()
    gone = await world.add()
    await world.change(gone.name, pb.DOCUMENT_CHANGE_DELETE)
    missing = reasons.ERROR_REASON_AUTHORIZATION_MISSING
    world.consent.by_action = Feeder(documents.no(missing))
    world.audit.events.clear()
    answer = await world.search(unique_id=mine.unique_id, reference_if_refused=True)
    assert not answer.documents
    assert [(each.name, each.status) for each in answer.references] == [(mine.name, APPROVED)]
    assert answer.total_size == 1
    assert [(event.action, event.outcome) for event in world.audit.events] == [
        ("document.search", audit_pb2.OUTCOME_SUCCESS)
    ]
    assert (await world.search(unique_id=gone.unique_id, reference_if_refused=True)).total_size == 0
    for more in ({"reference_if_refused": False}, {"title": "consultation"}, {"unique_id": ""}, {"type_codes": ["x"]}):
        with refused(missing):
            await world.search(**{"unique_id": mine.unique_id, "reference_if_refused": True, **more})
    world.consent.by_action = None
    full = await world.search(unique_id=mine.unique_id, reference_if_refused=True)
    assert [document.title for document in full.documents] == [mine.title]
    assert not full.references


async def test_the_same_unique_id_in_two_dossiers_is_counted_for_operators(world: World) -> None:
    unique_id = new_oid()
    await world.submit((pb.Document(), cda(unique_id)))
    await world.index()
    counted: list[int] = []
    index = UniqueIdIndex(world.pool, Lease(world.pool, "unique-ids"), counted.append)
    assert counted == []
    await world.submit((pb.Document(), cda(unique_id)), dossier=new_health_id())
    while await index.feed():
        pass
    assert counted == [1]


# --- changes since, watching -----------------------------------------------------------------------------------------


async def test_changes_are_told_in_order_from_a_cursor_on_and_each_once(world: World) -> None:
    first = await world.add()
    opening = await world.service.servicer.GetFirstOpening(
        pb.GetFirstOpeningRequest(parent=dossier_name(world.dossier)), call("GetFirstOpening", world.dossier)
    )
    assert [d.name for d in opening.documents] == [first.name]
    second = await world.replace(first)
    await world.change(second.name, pb.DOCUMENT_CHANGE_MASK)
    for _ in range(23):
        await world.add()
    told: list[pb.Change] = []
    cursor = opening.cursor
    while True:
        answer = await world.changes(cursor)
        told += answer.changes
        cursor = answer.cursor
        if not answer.changes:
            break
        assert len(answer.changes) <= 20
    assert [change.change for change in told[:3]] == [
        pb.DOCUMENT_CHANGE_REPLACE,
        pb.DOCUMENT_CHANGE_SUBMIT,
        pb.DOCUMENT_CHANGE_MASK,
    ]
    assert len(told) == 26
    with refused(reasons.ERROR_REASON_INVALID_PAGE_TOKEN):
        await world.changes(cursor, dossier=new_health_id())


async def test_a_watch_tells_of_what_happens_and_ends_when_the_rights_do(world: World) -> None:
    request = pb.WatchChangesRequest(parent=dossier_name(world.dossier))
    stream = world.service.servicer.WatchChanges(request, call("WatchChanges", world.dossier, timeout=60))
    opened = await anext(stream)
    assert not opened.changes
    document = await world.add()
    told = await anext(stream)
    assert [change.document.name for change in told.changes] == [document.name]
    resumed = await world.changes(opened.cursor)
    assert [change.document.name for change in resumed.changes] == [document.name]
    world.consent.answer = documents.no(reasons.ERROR_REASON_BLOCKED)
    await world.pool.execute("UPDATE dossier_clock SET sequence = sequence + 1 WHERE health_id = $1", world.dossier)
    with refused(reasons.ERROR_REASON_BLOCKED):
        await anext(stream)


# --- uploads ---------------------------------------------------------------------------------------------------------


async def test_an_upload_in_chunks_survives_lost_answers_and_becomes_a_document(world: World) -> None:
    content = b"%PDF-1.7 " + bytes(range(256)) * 9000
    upload = await world.upload(content, 1 << 20, lose=True)
    request = submission(world.dossier, (plain_metadata(new_oid()), b""))
    request.documents[0].upload = upload.name
    first = await world.send(request)
    assert await world.send(request) == first, "a retry is answered although the upload is gone"
    assert await world.content(first.documents[0].name) == content
    assert await world.pool.fetchval("SELECT count(*) FROM upload_chunk WHERE health_id = $1", world.dossier) == 0
    with refused(reasons.ERROR_REASON_UPLOAD_NOT_FOUND):
        again = submission(world.dossier, (plain_metadata(new_oid()), b""))
        again.documents[0].upload = upload.name
        await world.send(again)


async def test_a_broken_stream_is_found_by_its_request_id_and_goes_on(world: World) -> None:
    content, request_id = b"%PDF-1.7 " + bytes(range(256)) * 90, f"request-{new_oid()}"
    broken = await world.stream(content, 5000, request_id=request_id, stop=2)
    create = pb.CreateUploadRequest(parent=dossier_name(world.dossier), size=len(content), request_id=request_id)
    known = (await world.service.servicer.CreateUpload(create, call("CreateUpload", world.dossier))).upload
    assert known == broken
    assert known.written == 10_000
    whole = await world.stream(content, 3000, request_id=request_id, offset=7000)  # overlaps what is durable
    assert (whole.name, whole.written) == (known.name, len(content))
    request = submission(world.dossier, (plain_metadata(new_oid()), b""))
    request.documents[0].upload = whole.name
    assert await world.content((await world.send(request)).documents[0].name) == content


async def test_a_stream_is_bounded_and_in_step_like_single_calls(world: World) -> None:
    with refused(reasons.ERROR_REASON_INVALID_FIELD, "chunk"):
        await world.stream(bytes(3 << 20), (1 << 20) + 1, request_id="stream-large-chunk")
    with refused(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP):
        await world.stream(bytes(100), 10, request_id="stream-with-a-gap", offset=10)
    request = pb.UploadContentRequest(parent=dossier_name(world.dossier), size=4, request_id="stream-too-long")
    collecting = await world.service.servicer.UploadContent(request, call("UploadContent", world.dossier))
    with refused(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP):
        await collecting.add(pb.UploadContentRequest(chunk=b"12345"))
    recorded = [event for event in world.audit.events if event.action == "document.upload"]
    assert recorded[-1].outcome == audit_pb2.OUTCOME_REJECTED
    huge = pb.UploadContentRequest(parent=dossier_name(world.dossier), size=3 << 30, request_id="stream-3gb")
    with refused(reasons.ERROR_REASON_REQUEST_TOO_LARGE, "size"):
        await world.service.servicer.UploadContent(huge, call("UploadContent", world.dossier))
    empty = pb.UploadContentRequest(parent=dossier_name(world.dossier), request_id="stream-empty")
    with refused(reasons.ERROR_REASON_INVALID_FIELD, "size"):
        await world.service.servicer.UploadContent(empty, call("UploadContent", world.dossier))


async def test_uploads_are_bounded_and_in_step(world: World) -> None:
    create = pb.CreateUploadRequest(parent=dossier_name(world.dossier), size=3 << 30, request_id="request-3gb")
    with refused(reasons.ERROR_REASON_REQUEST_TOO_LARGE, "size"):
        await world.service.servicer.CreateUpload(create, call("CreateUpload", world.dossier))
    upload = await world.upload(b"%PDF-half", 4, stop=1)
    with refused(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP):
        await world.write(upload.name, 8, b"x")
    with refused(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP):
        await world.write(upload.name, 4, b"x" * 100)
    request = submission(world.dossier, (plain_metadata(new_oid()), b""))
    request.documents[0].upload = upload.name
    with refused(reasons.ERROR_REASON_UPLOAD_OUT_OF_STEP):
        await world.send(request)
    other = call("GetUpload", world.dossier, client_id="another")
    with refused(reasons.ERROR_REASON_UPLOAD_NOT_FOUND):
        await world.service.servicer.GetUpload(pb.GetUploadRequest(name=upload.name), other)


async def test_an_upload_that_nobody_submits_is_swept_after_a_day(world: World) -> None:
    upload, _, _ = [await world.upload(b"%PDF-half", 4, stop=1) for _ in range(3)]

    async def swept() -> int:
        """In slices of one: all that may go, goes in one sweep."""
        request, uploads = pb.SweepContentsRequest(request_id="request-sweep", limit=1), 0
        while True:
            answer = await world.service.servicer.SweepContents(request, call("SweepContents", 0))
            uploads += answer.uploads
            if not (token := answer.next_page_token):
                return uploads
            request.page_token = token

    world.later(timedelta(hours=23))
    await swept()
    assert (await world.write(upload.name, 4, b"more")).written == 8
    world.later(timedelta(hours=2))
    assert await swept() >= 3
    with refused(reasons.ERROR_REASON_UPLOAD_NOT_FOUND):
        await world.write(upload.name, 8, b"x")
    assert await world.pool.fetchval("SELECT count(*) FROM upload_chunk WHERE health_id = $1", world.dossier) == 0
