"""What documents say, as each caller may see it: lists follow their documents, pages are whole, all is recorded."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document import clinical_store
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from services.runtime.postgres import Connection
from tests import clinical_documents as bodies
from tests.document_world import World, document_database, world
from tests.documents import AUTHOR, OTHER, call, cda, decision, new_oid, no, plain_metadata, professional, submission

__all__ = ["document_database", "world"]

T = TypeVar("T", bound=Message)


async def ask(world: World, method: str, request: type[Message], **criteria: Any) -> Any:
    """A list of the world's dossier, as its physician sees it."""
    subject = criteria.pop("subject", AUTHOR)
    made = call(method, world.dossier, professional(subject))
    asked = request(parent=dossier_name(world.dossier), **criteria)
    return await getattr(world.service.clinical, method)(asked, made)


async def medications(world: World, **criteria: Any) -> clinical_pb2.ListMedicationsResponse:
    response: clinical_pb2.ListMedicationsResponse = await ask(
        world, "ListMedications", clinical_pb2.ListMedicationsRequest, **criteria
    )
    return response


async def results(world: World, **criteria: Any) -> clinical_pb2.ListResultsResponse:
    response: clinical_pb2.ListResultsResponse = await ask(
        world, "ListResults", clinical_pb2.ListResultsRequest, **criteria
    )
    return response


async def test_a_prescription_is_listed_at_once_with_its_document(world: World) -> None:
    document = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    listed = await medications(world)
    assert (listed.total_size, listed.pending, listed.next_page_token) == (1, 0, "")
    [entry] = listed.entries
    assert entry.source.document == document.name
    assert entry.source.type_code.code == "57833-6"
    assert entry.medication.kind == values.MEDICATION_KIND_PRESCRIBED
    assert entry.medication.product.name == "PARACÉTAMOL 500 mg"
    event = world.last_event()
    assert (event.action, event.outcome) == ("clinical.medications", audit_pb2.OUTCOME_SUCCESS)
    assert list(event.objects) == [document.name]
    assert event.result_count == 1


async def test_results_come_as_series_over_time(world: World) -> None:
    for year, value in (("2022", "1.1"), ("2024", "1.3"), ("2023", "1.2")):
        observed = [
            bodies.result("3016-3", f'<value xsi:type="PQ" value="{value}" unit="mU/L"/>', time=f"{year}0104"),
            bodies.result("718-7", f'<value xsi:type="PQ" value="{year[2:]}" unit="g/dL"/>', time=f"{year}0104"),
        ]
        await world.add(type_code="11502-2", body=bodies.laboratory(*observed))
    listed = await results(world)
    assert listed.total_size == 6
    series = {one.code.code.code: [r.result.values[0].quantity.value for r in one.results] for one in listed.series}
    assert series == {"3016-3": ["1.3", "1.2", "1.1"], "718-7": ["24", "23", "22"]}
    one = await results(world, codes=["3016-3"])
    assert [s.unit for s in one.series] == ["mU/L"]
    assert one.total_size == 3


async def test_values_of_two_units_never_stand_in_one_series(world: World) -> None:
    mass = bodies.result("2345-7", '<value xsi:type="PQ" value="0.88" unit="g/L"/>', time="20230104")
    moles = bodies.result("2345-7", '<value xsi:type="PQ" value="4.89" unit="mmol/L"/>', time="20240104")
    await world.add(type_code="11502-2", body=bodies.laboratory(mass, moles, mass))
    listed = await results(world)
    assert {series.unit: len(series.results) for series in listed.series} == {"g/L": 2, "mmol/L": 1}


async def test_pages_of_series_hold_everything_once(world: World) -> None:
    for year in range(2010, 2020):
        observed = [bodies.result(f"{code}-{code}", time=f"{year}0104") for code in range(3)]
        await world.add(type_code="11502-2", body=bodies.laboratory(*observed))
    token, seen = "", []
    while True:
        page = await results(world, page_size=7, page_token=token)
        assert page.total_size == 30
        seen += [(s.code.code.code, r.result.time.time.seconds) for s in page.series for r in s.results]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == 30
    by_code: dict[str, list[int]] = {}
    for code, seconds in seen:
        by_code.setdefault(code, []).append(seconds)
    assert all(times == sorted(times, reverse=True) for times in by_code.values())


async def test_what_cannot_be_read_is_shown_as_the_document(world: World) -> None:
    document = (await world.submit((plain_metadata(new_oid()), b"%PDF-1.7 ordonnance"))).documents[0]
    [entry] = (await medications(world)).entries
    assert entry.source.document == document.name
    assert entry.unread.reason == clinical_pb2.UNREAD_REASON_UNSTRUCTURED
    report = await world.add(type_code="11502-2")
    listed = await results(world)
    assert [source.document for source in listed.unread] == [report.name]
    assert listed.total_size == 0


@pytest.mark.parametrize(
    ("flags", "narrowed"),
    [
        (("MASQUE_PS",), {"masked": consent_pb2.MASKED_VIEW_OWN}),
        (("INVISIBLE_PATIENT",), {"patient_view": True}),
        (("INVISIBLE_REPRESENTANTS_LEGAUX",), {"representative_view": True}),
        ((), {"denied_type_codes": ["57833-6"]}),
        ((), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_OWN}),
        ((), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_PATIENT_TYPES}),
    ],
)
async def test_whoever_may_not_know_of_a_document_sees_nothing_of_what_it_says(
    world: World, flags: tuple[str, ...], narrowed: dict[str, Any]
) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()), flags=flags)
    assert (await medications(world)).total_size == 1
    world.consent.answer = decision(**narrowed)
    if "masked" in narrowed:
        world.consent.answer.filter.masked = consent_pb2.MASKED_VIEW_OWN
    hidden = await medications(world, subject=OTHER)
    assert (hidden.total_size, list(hidden.entries), hidden.pending) == (0, [], 0)
    pathway = await ask(world, "GetPathway", clinical_pb2.GetPathwayRequest, subject=OTHER)
    assert pathway.total_size == 0


@pytest.mark.parametrize(
    "status",
    [
        document_pb2.DOCUMENT_STATUS_DEPRECATED,
        document_pb2.DOCUMENT_STATUS_ARCHIVED,
        document_pb2.DOCUMENT_STATUS_DELETED,
    ],
)
async def test_what_a_document_says_follows_it_when_it_is_replaced_archived_or_deleted(
    world: World, status: int
) -> None:
    document = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    assert (await medications(world)).total_size == 1
    await world.pool.execute(
        "UPDATE document SET status = $3 WHERE health_id = $1 AND document_id = $2",
        world.dossier,
        document.name[-36:],
        status,
    )
    assert (await medications(world)).total_size == 0


async def test_those_who_may_not_read_content_get_nothing_of_it(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    world.consent.answer = decision(content_readable=False)
    with pytest.raises(DmpError) as refused:
        await medications(world)
    assert refused.value.reason == reasons.ERROR_REASON_RIGHT_DENIED
    assert world.consent.actions[-1] == consent_pb2.ACTION_READ
    assert world.last_event().outcome == audit_pb2.OUTCOME_DENIED
    world.consent.answer = no(reasons.ERROR_REASON_BLOCKED)
    with pytest.raises(DmpError):
        await medications(world)
    assert world.last_event().reason == reasons.ERROR_REASON_BLOCKED


async def test_nothing_leaves_when_the_trail_is_down(world: World) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    world.audit.down = True
    with pytest.raises(DmpError) as failed:
        await medications(world)
    assert failed.value.reason == reasons.ERROR_REASON_AUDIT_UNAVAILABLE


async def test_masking_archiving_and_deleting_take_what_a_document_says_along(world: World) -> None:
    """By the acts themselves: each holds for the list from the moment it is acknowledged."""
    document = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    stranger = decision()
    stranger.filter.masked = consent_pb2.MASKED_VIEW_NONE
    for change, seen_by_all, seen_by_some in (
        (document_pb2.DOCUMENT_CHANGE_MASK, 1, 0),
        (document_pb2.DOCUMENT_CHANGE_UNMASK, 1, 1),
        (document_pb2.DOCUMENT_CHANGE_ARCHIVE, 0, 0),
        (document_pb2.DOCUMENT_CHANGE_UNARCHIVE, 1, 1),
        (document_pb2.DOCUMENT_CHANGE_DELETE, 0, 0),
    ):
        world.consent.answer = decision()
        await world.change(document.name, change)
        assert (await medications(world)).total_size == seen_by_all, change
        world.consent.answer = stranger
        assert (await medications(world, subject=OTHER)).total_size == seen_by_some, change


async def test_a_replacement_says_what_holds_from_then_on(world: World) -> None:
    old = await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))
    assert (await medications(world)).total_size == 1
    named = bodies.product("IBUPROFÈNE 400 mg", "60000002")
    content = cda(new_oid(), type_code="57833-6", body=bodies.prescription(bodies.prescribed(named=named)))
    request = submission(world.dossier, (document_pb2.Document(), content))
    request.documents[0].relationships.add(type=document_pb2.RELATIONSHIP_TYPE_REPLACES, target=old.name)
    new = (await world.send(request)).documents[0]
    [entry] = (await medications(world)).entries
    assert (entry.source.document, entry.medication.product.name) == (new.name, "IBUPROFÈNE 400 mg")


async def test_a_reading_that_breaks_off_leaves_nothing_and_is_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add(type_code="57833-6", body=bodies.prescription(bodies.prescribed()))

    async def broken(conn: Connection, *given: Any) -> bool:
        await replace(conn, *given)
        raise ConnectionResetError

    replace = clinical_store.replace
    with monkeypatch.context() as patch:
        patch.setattr(clinical_store, "replace", broken)
        listed = await medications(world)
        assert (listed.total_size, listed.pending) == (0, 1)
    assert await world.pool.fetchval("SELECT count(*) FROM projection WHERE health_id = $1", world.dossier) == 0
    listed = await medications(world)
    assert (listed.total_size, listed.pending) == (1, 0)
