"""What several dossiers of one person say is listed as if one dossier said it: the same series and examinations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from services.runtime.identifiers import dossier_name, new_health_id
from tests import clinical_documents as bodies
from tests.document_world import World, document_database, world
from tests.documents import OTHER, call, cda, decision, new_oid, professional
from tests.integration.test_clinical_readings import references
from tests.integration.test_document_links import link

__all__ = ["document_database", "world"]

Handed = tuple[document_pb2.Document, bytes]


def laboratory(year: int, *codes: str, masked: bool = False) -> Handed:
    """Results of a year, each with the year as its value."""
    observed = [
        bodies.result(code, f'<value xsi:type="PQ" value="{year}" unit="g/L"/>', time=f"{year}0104") for code in codes
    ]
    metadata = document_pb2.Document()
    if masked:
        metadata.confidentiality.add(system="1.2.250.1.213.1.1.4.13", code="MASQUE_PS")
    return metadata, cda(new_oid(), type_code="11502-2", body=bodies.laboratory(*observed))


def report(study: str, accession: str, issuer: str = "1.2.250.1.9") -> Handed:
    """A report, without the reference that it is about."""
    extra = bodies.imaging_header(study, accession, issuer).replace("O-1", f"O-{study}")
    return document_pb2.Document(), cda(new_oid(), type_code="18748-4", extra=extra, body=bodies.section("19005-8"))


def by_reference_id(study: str, reference_id: str) -> Handed:
    """A selection that its document's metadata alone join to a report."""
    metadata, content = references(study, f"A-{study}", "1.2.250.1.77", f"P-{study}")
    metadata.reference_ids.add(system="1.2.250.1.8", value=reference_id)
    return metadata, content


async def pages(world: World, method: str, request: Any, dossier: int, size: int) -> list[Any]:
    """Every page of a list."""
    made: list[Any] = []
    while True:
        asked = request(
            parent=dossier_name(dossier), page_size=size, page_token=made[-1].next_page_token if made else ""
        )
        answer = await getattr(world.service.clinical, method)(asked, call(method, dossier, professional(OTHER)))
        made.append(answer)
        if not answer.next_page_token:
            assert {page.total_size for page in made} == {made[0].total_size}
            return made


async def series(world: World, dossier: int, size: int = 100) -> dict[str, list[str]]:
    """The values of each series, in order. A series may go on on the next page, and is never taken up again."""
    found: dict[str, list[str]] = {}
    before = ""
    for page in await pages(world, "ListResults", clinical_pb2.ListResultsRequest, dossier, size):
        for one in page.series:
            code = one.code.code.code
            assert code == before or code not in found
            found.setdefault(code, []).extend(each.result.values[0].quantity.value for each in one.results)
            before = code
    return found


async def examinations(world: World, dossier: int, size: int = 100) -> list[tuple[str, list[str]]]:
    """Each entry: the report's study, and those of its references."""
    entries = [
        (
            entry.report.acts[0].study_uid if entry.HasField("report") else "",
            sorted(each.reference.studies[0].study_uid for each in entry.references),
        )
        for page in await pages(world, "ListImaging", clinical_pb2.ListImagingRequest, dossier, size)
        for entry in page.entries
    ]
    return sorted(entries)


async def spread(world: World, handed: Sequence[Handed]) -> tuple[int, tuple[int, int]]:
    """The same documents in one dossier, and turn by turn in two that are linked."""
    alone, one, other = (int(new_health_id()) for _ in range(3))
    for number, each in enumerate(handed):
        for dossier in (alone, (one, other)[number % 2]):
            await world.submit(each, dossier=dossier)
    link(world, (one, other))
    return alone, (one, other)


@pytest.mark.parametrize("masked_shown", [True, False])
async def test_results_of_both_are_the_series_that_one_dossier_would_have(world: World, masked_shown: bool) -> None:
    codes = ("3016-3", "718-7", "2345-7")
    handed = [laboratory(2010 + year, *codes[: 1 + year % 3], masked=year == 5) for year in range(8)]
    alone, both = await spread(world, handed)
    if not masked_shown:
        world.consent.answer = decision(masked=consent_pb2.MASKED_VIEW_NONE)
    expected = await series(world, alone)
    assert [len(values) for values in expected.values()].count(0) == 0
    assert len(expected["3016-3"]) == (8 if masked_shown else 7)
    for dossier in both:
        for size in (1, 3, 100):
            assert await series(world, dossier, size) == expected
    link(world)
    parted = [await series(world, dossier) for dossier in both]
    assert {
        code: sorted(parted[0].get(code, []) + parted[1].get(code, []), reverse=True) for code in expected
    } == expected


async def test_reports_of_one_come_with_the_references_of_the_other(world: World) -> None:
    handed = [
        report("1.2.3.1", "A-1"),
        references("1.2.3.1", "B-1", "1.2.250.1.5", "Q-1"),  # by the study
        references("1.2.3.20", "A-2", "", "Q-2"),  # by the number, whose authority it does not state
        report("1.2.3.2", "A-2"),
        report("1.2.3.3", "A-3"),
        by_reference_id("1.2.3.30", "O-1.2.3.3"),  # by what the metadata say
        references("1.2.3.99", "Z-9", "1.2.250.1.6", "Q-9"),  # by nothing
    ]
    alone, both = await spread(world, handed)
    expected = await examinations(world, alone)
    assert expected == [
        ("", ["1.2.3.99"]),
        ("1.2.3.1", ["1.2.3.1"]),
        ("1.2.3.2", ["1.2.3.20"]),
        ("1.2.3.3", ["1.2.3.30"]),
    ]
    for dossier in both:
        for size in (1, 2, 100):
            assert await examinations(world, dossier, size) == expected
    link(world)
    parted = [("", ["1.2.3.20"]), ("", ["1.2.3.99"]), ("1.2.3.1", []), ("1.2.3.3", [])]
    assert await examinations(world, both[0]) == parted
