"""How documents come to be read: joined images, work ahead, the sweep, damage, destruction; and the plans of lists."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document import clinical_store
from services.document.reading.model import READER_VERSION
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import new_health_id
from services.runtime.keyring import Keyring
from services.runtime.postgres import transaction
from tests import clinical_documents as bodies
from tests import dicom_files as dicom
from tests import fhir_bundles as fhir
from tests.document_world import World, document_database, world
from tests.documents import call, decision, new_oid, plain_metadata
from tests.integration.test_clinical_lists import ask, medications, results

__all__ = ["document_database", "world"]


async def imaging(world: World, **criteria: Any) -> clinical_pb2.ListImagingResponse:
    response: clinical_pb2.ListImagingResponse = await ask(
        world, "ListImaging", clinical_pb2.ListImagingRequest, **criteria
    )
    return response


def references(
    study: str, accession: str = "A-1", issuer: str = "1.2.250.1.9", order: str = "O-9"
) -> tuple[document_pb2.Document, bytes]:
    """A key-object selection as it is handed in."""
    metadata = plain_metadata(new_oid())
    metadata.mime_type = "application/dicom"
    metadata.type_code.code, metadata.type_code.system = "IMG-KOS", "1.2.250.1.213.1.1.4.12"
    metadata.format_code.code, metadata.format_code.system = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1"
    return metadata, dicom.part10(dicom.selection(study, accession, issuer, order=order))


async def test_a_report_comes_with_the_references_of_its_examination(world: World) -> None:
    report = await world.add(
        type_code="18748-4", extra=bodies.imaging_header("1.2.3.4.5"), body=bodies.section("19005-8", title="RAS")
    )
    same = (await world.submit(references("1.2.3.4.5"))).documents[0]
    by_number = (await world.submit(references("1.2.99", "A-1", ""))).documents[0]
    other = (await world.submit(references("1.2.77", "A-1", "1.2.250.1.66"))).documents[0]
    listed = await imaging(world)
    assert listed.total_size == 2
    [joined] = [entry for entry in listed.entries if entry.HasField("report")]
    assert joined.source.document == report.name
    assert {r.source.document for r in joined.references} == {same.name, by_number.name}
    [alone] = [entry for entry in listed.entries if not entry.HasField("report")]
    assert [r.source.document for r in alone.references] == [other.name]
    assert {same.name, by_number.name, other.name, report.name} == set(world.last_event().objects)


async def test_references_of_a_report_that_is_hidden_stand_by_themselves(world: World) -> None:
    await world.add(type_code="18748-4", extra=bodies.imaging_header("1.2.3.4.5"), flags=("MASQUE_PS",))
    alone = (await world.submit(references("1.2.3.4.5"))).documents[0]
    assert (await imaging(world)).total_size == 1
    world.consent.answer = decision()
    world.consent.answer.filter.masked = consent_pb2.MASKED_VIEW_NONE
    [entry] = (await imaging(world)).entries
    assert not entry.HasField("report")
    assert [r.source.document for r in entry.references] == [alone.name]


async def test_a_fhir_document_is_read_like_any_other(world: World) -> None:
    metadata = plain_metadata(new_oid())
    metadata.mime_type = "application/fhir+json"
    metadata.type_code.code = "11502-2"
    content = fhir.written(json.dumps(fhir.bundle(fhir.observation()), ensure_ascii=False))
    document = (await world.submit((metadata, content))).documents[0]
    [series] = (await results(world)).series
    assert [(r.source.document, r.result.values[0].quantity.value) for r in series.results] == [
        (document.name, "1.950")
    ]


async def test_the_pathway_is_of_all_kinds_and_pages_are_whole(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await world.add(type_code="11502-2", body=bodies.laboratory(bodies.result()))
    await world.add(type_code="SYNTH", body=bodies.section("11450-4", bodies.entry(bodies.problem())))
    vaccinated = [bodies.vaccinated(time=str(year)) for year in range(1990, 2000)]
    await world.add(type_code="11369-6", body=bodies.vaccinations(*vaccinated))
    token, seen = "", []
    while True:
        page = await ask(world, "GetPathway", clinical_pb2.GetPathwayRequest, page_size=4, page_token=token)
        assert page.total_size == 15
        seen += [(entry.source.document, entry.event.category) for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 15
    categories = {category for _, category in seen}
    assert {
        values.PATHWAY_CATEGORY_BIOLOGY,
        values.PATHWAY_CATEGORY_SUMMARY,
        values.PATHWAY_CATEGORY_PROBLEM,
        values.PATHWAY_CATEGORY_VACCINATION,
    } <= categories
    only = await ask(world, "GetPathway", clinical_pb2.GetPathwayRequest, categories=[values.PATHWAY_CATEGORY_PROBLEM])
    assert [entry.event.label.code.code for entry in only.entries] == ["I20.0"]


async def test_a_page_token_goes_with_its_list_alone(world: World) -> None:
    for _ in range(3):
        await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    page = await medications(world, page_size=2)
    assert (await medications(world, page_size=2, page_token=page.next_page_token)).entries
    with pytest.raises(DmpError) as refused:
        await medications(world, page_size=2, page_token=page.next_page_token, codes=["N02BE01"])
    assert refused.value.reason_name == "INVALID_PAGE_TOKEN"
    assert world.last_event().outcome == audit_pb2.OUTCOME_REJECTED


async def test_codes_in_any_system_and_times_bound_a_list(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    assert (await medications(world, codes=["N02BE01"])).total_size == 1
    assert (await medications(world, codes=["63107752", "nothing"])).total_size == 1
    assert (await medications(world, codes=["C09AA05"])).total_size == 0
    time = document_pb2.TimeRange()
    time.start_time.FromDatetime(datetime(2024, 2, 1, tzinfo=UTC))
    assert (await medications(world, time=time)).total_size == 0
    assert (await medications(world, kinds=[values.MEDICATION_KIND_DISPENSED])).total_size == 0


async def test_documents_are_read_ahead_of_whoever_asks(world: World) -> None:
    task = asyncio.ensure_future(world.service.ahead.run())
    try:
        await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
        async with asyncio.timeout(20):
            while not await count(world, "reading"):
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
    assert await count(world, "projection") == 2


async def test_nothing_is_kept_of_what_a_deleted_document_said(world: World) -> None:
    document = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await medications(world)
    before = await count(world, "projection")
    statement = "UPDATE document SET status = 4 WHERE health_id = $1 AND document_id = $2"
    await world.pool.execute(statement, world.dossier, document.name[-36:])
    world.service.ahead.told([world.dossier])
    task = asyncio.ensure_future(world.service.ahead.run())
    try:
        async with asyncio.timeout(20):
            while await count(world, "projection") == before:
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
    assert await count(world, "projection") == before // 2


async def count(world: World, table: str) -> int:
    statement = "SELECT count(*) FROM {} WHERE health_id = $1"
    found: int = await world.pool.fetchval(statement.format(table), world.dossier)
    return found


async def test_callers_at_the_same_time_read_a_document_once(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    pages = await asyncio.gather(*(medications(world) for _ in range(8)))
    assert [page.total_size for page in pages] == [1] * 8
    assert await count(world, "projection") == 2


async def test_nothing_in_clear_tells_what_a_document_says(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await medications(world)
    rows = await world.pool.fetch("SELECT * FROM projection WHERE health_id = $1", world.dossier)
    shown = repr([dict(row) for row in rows])
    for secret in ("PARAC", "N02BE01", "63107752", "item-1", "PATIENTE", "DOMINIQUE"):
        assert secret not in shown
    other = new_health_id()
    digests = [bytes(digest) for row in rows for digest in row["code_digests"]]
    world.dossier = other
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await medications(world)
    again = await world.pool.fetch("SELECT code_digests FROM projection WHERE health_id = $1", other)
    assert not {bytes(digest) for row in again for digest in row["code_digests"]} & set(digests)


async def test_a_changed_projection_is_never_shown(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed(), bodies.prescribed()))
    await medications(world)
    await world.pool.execute(
        "UPDATE projection SET place = place - 100 WHERE health_id = $1 AND kind = 1 AND place = 0", world.dossier
    )
    with pytest.raises(DmpError) as refused:
        await medications(world)
    assert refused.value.reason_name == "CONTENT_CORRUPTED"


async def test_a_damaged_content_stands_in_its_list_unread(world: World) -> None:
    document = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await world.pool.execute(
        "UPDATE content SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE health_id = $1", world.dossier
    )
    [entry] = (await medications(world)).entries
    assert (entry.source.document, entry.unread.reason) == (document.name, clinical_pb2.UNREAD_REASON_DAMAGED)


async def test_nothing_is_kept_of_a_dossier_whose_key_is_destroyed(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    keys = DossierKeys(Keyring({1: b"k" * 32}, current=1, digests=[1]), "document")
    async with transaction(world.pool) as conn:
        await keys.destroy(conn, world.dossier, world.clock())
        await clinical_store.forget(conn, world.dossier)
    assert (await medications(world)).total_size == 0
    assert await count(world, "projection") == 0


def operator() -> Call:
    actor = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_OPERATOR, subject="operator-1")
    return call("RereadDocuments", 0, actor)


async def reread(
    world: World, *, restart: bool = False, request_id: str = "reread-1"
) -> clinical_pb2.RereadDocumentsResponse:
    """What an operator is told; with `restart` once for each request_id."""
    request = clinical_pb2.RereadDocumentsRequest(restart=restart, request_id=request_id)
    return await world.service.clinical.RereadDocuments(request, operator()._replace(request_id=request_id))


async def test_the_sweep_reads_what_waits_and_reads_all_again_when_told(world: World) -> None:
    for _ in range(3):
        await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await world.service.sweep.run(world.clock())
    state = await reread(world)
    assert (state.reader_version, state.done) == (READER_VERSION, True)
    assert await count(world, "reading") == 3
    before = await world.pool.fetchval("SELECT max(read_at) FROM reading WHERE health_id = $1", world.dossier)
    again = await reread(world, restart=True)
    assert (again.done, again.read_count) == (False, 0)
    assert world.last_event().action == "clinical.reread"
    await world.service.sweep.run(world.clock())
    after = await reread(world, restart=True)  # the same request: it does not begin a third time
    assert after.done
    assert after.read_count >= 3
    assert await world.pool.fetchval("SELECT min(read_at) FROM reading WHERE health_id = $1", world.dossier) > before
    assert (await medications(world)).total_size == 3


async def test_a_sweep_that_was_stopped_goes_on_from_there(world: World) -> None:
    for _ in range(3):
        await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    await reread(world, restart=True, request_id=str(uuid.uuid4()))
    task = asyncio.ensure_future(world.service.sweep.run(world.clock()))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.service.sweep.run(world.clock() + timedelta(seconds=1))
    assert (await reread(world)).done
    assert await count(world, "reading") == 3


_LISTS: Final = {
    name: statement
    for name, statement in vars(clinical_store).items()
    if name
    in {
        "_LIST",
        "_SERIES",
        "_IMAGING",
        "_LINKED",
        "_ONE_OF_EACH_SERIES",
        "_IMAGES",
        "_UNREAD",
        "_PENDING",
        "_WAITING",
        "_LEFT_OUT",
        "_RECORD",
        "_CLEAR",
        "_FORGET_DELETED",
    }
}


@pytest.mark.parametrize("name", sorted(_LISTS))
async def test_each_list_goes_through_indexes_that_begin_with_the_dossier(world: World, name: str) -> None:
    statement = _LISTS[name]
    parameters = max(int(number) for number in re.findall(r"\$(\d+)", statement))
    async with world.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL enable_seqscan = off")
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await conn.execute(f"PREPARE probe AS {statement}")
        rows = await conn.fetch(f"EXPLAIN EXECUTE probe({', '.join(['NULL'] * parameters)})")
        await conn.execute("DEALLOCATE probe")
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan" not in plan, plan
    conditions = re.findall(r"(?:Index|Recheck) Cond: \((.*)\)", plan)
    assert conditions, plan
    assert all("health_id = " in condition for condition in conditions), plan
