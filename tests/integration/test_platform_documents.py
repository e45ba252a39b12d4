"""Real documents go in by the command and come out byte for byte, authorised and traced (design §1, promises 1 and 4).

Each test runs on two corpora: documents of the project's own making, and the nine published examples, where they are.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import clinical_pb2, document_pb2
from ops.acts import Acts
from ops.demo.cda_document import DocumentKind, cda_document
from ops.local.registrations import INTERNAL
from ops.session import Statement
from services.document.cda import read_header
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, dossier_of
from tests.platform_fixture import Platform, eventually
from tests.platform_people import Caregiver
from tests.platform_process import dmp

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES: Final = Path(__file__).resolve().parents[3] / "shared" / "data" / "cda"
EXAMPLE_COUNT: Final = 9
INS_DOMAINS: Final = tuple(f"1.2.250.1.213.1.4.{last}" for last in (8, 9, 10, 11))


@dataclass(frozen=True, slots=True)
class Fed:
    """A file, the document that it became, and the INS in it as a FHIR search parameter."""

    file: Path
    name: str
    identifier: str

    @property
    def health_id(self) -> int:
        return dossier_of(self.name, "name")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files fed by one run of the command, and who fed them."""

    fed: tuple[Fed, ...]
    caregiver: Caregiver
    acts: Acts


def write_demo_files(platform: Platform, caregiver: Caregiver, directory: Path) -> list[Path]:
    """Documents of three kinds about each of two people."""
    files = []
    for number in range(2):
        person = platform.person()
        for kind in (DocumentKind.CONSULTATION, DocumentKind.PRESCRIPTION, DocumentKind.BIOLOGY):
            files.append(directory / f"{number}-{kind.name}.xml")
            files[-1].write_bytes(cda_document(person, *caregiver, kind, seed=7))
    return files


def stated_identifier(file: Path) -> str:
    """The INS that a document names, as `urn:oid:<domain>|<value>`."""
    identifiers = read_header(file.read_bytes()).patient.identifiers
    stated = next(each for each in identifiers if each.root in INS_DOMAINS)
    return f"urn:oid:{stated.root}|{stated.extension}"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where files to be fed are written."""
    made = Path(tempfile.mkdtemp(prefix="dmp-files-"))
    yield made
    shutil.rmtree(made)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["own", "published"])
async def corpus(request: pytest.FixtureRequest, platform: Platform, directory: Path) -> AsyncIterator[Corpus]:
    """Every file of a corpus, registered and fed by `dmp submit --register`, once."""
    caregiver = platform.caregiver()
    if request.param == "own":
        files = write_demo_files(platform, caregiver, directory)
    else:
        files = sorted(EXAMPLES.glob("*.xml"))
        if len(files) != EXAMPLE_COUNT:
            pytest.skip(f"the nine published CDA examples are not in {EXAMPLES.name}/ beside the checkout")
    who = ("--as", caregiver.professional.idnps, "--profession", "10")
    code, out, err = await dmp(platform, "submit", "--register", *who, *map(str, files))
    assert (code, err) == (0, "")
    names = dict(line.split(": ", 1) for line in out.splitlines())
    fed = tuple(Fed(file, names[file.name], stated_identifier(file)) for file in files)
    professional = Statement.professional(caregiver.professional.idnps, "10")
    yield Corpus(fed, caregiver, platform.acts(professional))


async def test_each_file_comes_back_byte_for_byte_by_every_way(platform: Platform, corpus: Corpus) -> None:
    direct = platform.acts(Statement(INTERNAL, corpus.acts.professional.fields))
    for fed in corpus.fed:
        content = fed.file.read_bytes()
        document, served = await direct.read(fed.name)
        assert (document.name, document.size, served) == (fed.name, len(content), content), fed.file.name
        assert await corpus.acts.read(fed.name) == (document, content), fed.file.name
        found = await platform.get(
            "/DocumentReference",
            corpus.acts.professional,
            **{"patient.identifier": fed.identifier, "identifier": f"urn:ietf:rfc:3986|{_uri(document.unique_id)}"},
        )
        attachment = found.json()["entry"][0]["resource"]["content"][0]["attachment"]
        binary = await platform.get(attachment["url"], corpus.acts.professional)
        assert binary.status_code == 200
        assert binary.content == content, fed.file.name
        assert binary.headers["content-type"] == attachment["contentType"] == document.mime_type


async def test_search_finds_each_file_by_its_type_and_by_its_date(platform: Platform, corpus: Corpus) -> None:
    for fed in corpus.fed:
        document, _ = await corpus.acts.read(fed.name)
        for criteria in (
            document_pb2.SearchDocumentsRequest(type_codes=[document.type_code.code]),
            document_pb2.SearchDocumentsRequest(create_time=_around(document)),
        ):
            criteria.parent = dossier_name(fed.health_id)
            found = await platform.session.call(
                "document",
                "SearchDocuments",
                criteria,
                document_pb2.SearchDocumentsResponse,
                corpus.acts.professional,
            )
            assert fed.name in {each.name for each in found.documents}, fed.file.name
            assert found.total_size == len(found.documents) < len(corpus.fed)
        for parameter in (
            {"type": document.type_code.code},
            {"creation": document.create_time.ToDatetime(tzinfo=UTC).isoformat()},
        ):
            page = await platform.get(
                "/DocumentReference",
                corpus.acts.professional,
                **{"patient.identifier": fed.identifier, "status": "current", **parameter},
            )
            assert page.status_code == 200, page.text
            sizes = [each["resource"]["content"][0]["attachment"]["size"] for each in page.json()["entry"]]
            assert len(fed.file.read_bytes()) in sizes, fed.file.name
            assert page.json()["total"] == len(sizes) < len(corpus.fed)


async def test_a_search_for_another_type_or_day_finds_nothing(platform: Platform, corpus: Corpus) -> None:
    fed = corpus.fed[0]
    for parameter in ({"type": "DOCPAT01"}, {"creation": "1970-01-01"}):
        page = await platform.get(
            "/DocumentReference", corpus.acts.professional, **{"patient.identifier": fed.identifier, **parameter}
        )
        assert (page.status_code, page.json()["total"]) == (200, 0)


async def test_the_trail_has_every_step_refusals_too(platform: Platform, corpus: Corpus) -> None:
    stranger = platform.acts(platform.caregiver().statement())
    for fed in corpus.fed[:1]:
        await corpus.acts.search(fed.health_id)
        await corpus.acts.read(fed.name)
        with pytest.raises(DmpError) as refused:
            await stranger.read(fed.name)
        assert refused.value.reason == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    for health_id in {fed.health_id for fed in corpus.fed}:
        names = {fed.name for fed in corpus.fed if fed.health_id == health_id}
        steps = ("dossier.open", "authorization.grant", "document.submit", "document.search", "document.read")
        events = await platform.trail(health_id, *steps)
        served = [event for event in events if event.outcome == audit_pb2.OUTCOME_SUCCESS]
        assert set(steps) <= {event.action for event in served}
        for action in ("document.submit", "document.read"):
            touched = {name for event in served if event.action == action for name in event.objects}
            assert names <= touched, action
        assert all(event.actor.subject for event in events)
        assert len({event.event_id for event in events}) == len(events)
    events = await platform.trail(corpus.fed[0].health_id)
    denied = [event for event in events if event.actor.subject == dict(stranger.professional.fields)["subject"]]
    assert [(event.action, event.outcome, event.reason) for event in denied] == [
        ("document.read", audit_pb2.OUTCOME_DENIED, reasons.ERROR_REASON_AUTHORIZATION_MISSING)
    ]


async def test_a_document_of_another_patient_is_refused_and_the_refusal_is_in_the_trail(
    platform: Platform, corpus: Corpus
) -> None:
    other = await platform.patient()
    fed = corpus.fed[0]
    code, out, err = await dmp(platform, "submit", "--dossier", other.dossier, str(fed.file))
    assert (code, out) == (1, "")
    assert "PATIENT_MISMATCH" in err
    events = await platform.trail(other.health_id)
    rejected = [(event.action, event.outcome) for event in events if event.reason]
    assert rejected == [("document.submit", audit_pb2.OUTCOME_REJECTED)]
    assert (await other.acts.search(other.health_id)).total_size == 0


async def test_feeding_a_file_again_changes_nothing(platform: Platform, corpus: Corpus) -> None:
    fed = corpus.fed[0]
    before = (await corpus.acts.search(fed.health_id)).total_size
    again = await corpus.acts.submit(fed.health_id, fed.file.read_bytes(), fed.file.name)
    assert again.name == fed.name
    submitted = await eventually(
        lambda: platform.trail(fed.health_id), lambda events: any(fed.name in event.objects for event in events)
    )
    events = [event for event in submitted if event.action == "document.submit" and fed.name in event.objects]
    assert len(events) == 1
    assert (await corpus.acts.search(fed.health_id)).total_size == before


async def test_a_file_of_nobody_registered_is_refused_by_the_command(platform: Platform, directory: Path) -> None:
    caregiver = platform.caregiver()
    file = directory / "nobody.xml"
    file.write_bytes(cda_document(platform.person(), *caregiver, DocumentKind.CONSULTATION, seed=8))
    code, out, err = await dmp(platform, "submit", str(file))
    assert (code, out) == (1, "")
    assert "--register" in err


def _around(document: document_pb2.Document) -> document_pb2.TimeRange:
    """The second in which a document was authored."""
    span = document_pb2.TimeRange(start_time=document.create_time)
    span.end_time.FromDatetime(document.create_time.ToDatetime() + timedelta(seconds=1))
    return span


def _uri(unique_id: str) -> str:
    return unique_id if unique_id.startswith("urn:") else f"urn:oid:{unique_id}"


async def test_what_each_file_says_is_listed_with_it(platform: Platform, corpus: Corpus) -> None:
    """Through the relay, as partner software asks: every file is an event of its patient's pathway, and recorded."""
    for health_id in {fed.health_id for fed in corpus.fed}:
        names = {fed.name for fed in corpus.fed if fed.health_id == health_id}
        pathway = await platform.session.call(
            "document",
            "ClinicalService/GetPathway",
            clinical_pb2.GetPathwayRequest(parent=dossier_name(health_id), page_size=200),
            clinical_pb2.GetPathwayResponse,
            corpus.acts.professional,
        )
        assert names == {entry.source.document for entry in pathway.entries}
        assert pathway.pending == 0
        results = await platform.session.call(
            "document",
            "ClinicalService/ListResults",
            clinical_pb2.ListResultsRequest(parent=dossier_name(health_id), page_size=200),
            clinical_pb2.ListResultsResponse,
            corpus.acts.professional,
        )
        assert results.total_size == sum(len(series.results) for series in results.series)
        events = await platform.trail(health_id, "clinical.pathway", "clinical.results")
        assert {name for event in events if event.action == "clinical.pathway" for name in event.objects} == names


async def test_the_command_shows_how_far_reading_has_come(platform: Platform) -> None:
    code, out, err = await dmp(platform, "content", "reread")
    assert (code, err) == (0, "")
    assert out.startswith("reader ")
