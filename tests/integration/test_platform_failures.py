"""What the platform does while its parts are down or dying: it refuses rather than guesses, and keeps what it said
(design §1, promises 1, 3 and 4). Each test leaves the platform whole.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import httpx
import pytest
import pytest_asyncio

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from ops.demo.cda_document import DocumentKind
from ops.local.registrations import INTERNAL
from ops.local.state import ServiceName
from ops.session import Statement
from services.runtime.errors import DmpError
from services.runtime.identifiers import person_name
from tests.conformance.fhir_http import of
from tests.conformance.test_fhir_host_export import Host, block, taking_over
from tests.conformance.test_fhir_host_import import KINDS, begin, export, put, told_of
from tests.conformance.test_fhir_imports import note
from tests.platform_calls import attempt, bearer
from tests.platform_fixture import Patient, Platform, eventually, method, until_acknowledged

pytestmark = pytest.mark.asyncio(loop_scope="session")

T = TypeVar("T")
WAYS: Final = ("relay", "direct")
BACK_WITHIN: Final = 2.0
"""Seconds after a part's return in which all works again (the machine may be busy; alone it takes a tenth)."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(breakable: Platform) -> Platform:
    """A platform that may be broken."""
    return breakable


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def read(own: Platform) -> tuple[Patient, document_pb2.Document]:
    """A patient with a document to be read."""
    return await own.patient_with_document()


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def whole(own: Platform) -> None:
    """Each test begins when all services have found each other again after the one before it."""
    await until_acknowledged(own.patient_with_document)


@asynccontextmanager
async def without(platform: Platform, service: ServiceName) -> AsyncIterator[None]:
    """The platform while a service is down; it is back, and ready, afterwards."""
    await platform.stack.stop(service)
    try:
        yield
    finally:
        await platform.stack.restart(service)


async def refusals(platform: Platform, patient: Patient, name: str) -> list[DmpError | None]:
    """How each way of reading ends: both methods and the search, through the relay and directly."""
    ends = []
    for way in WAYS:
        token = await platform.token(way, patient.caregiver.statement())
        for access, request in (
            (method("GetDocument"), document_pb2.GetDocumentRequest(name=name)),
            (method("ReadDocument"), document_pb2.ReadDocumentRequest(name=name)),
            (method("SearchDocuments"), document_pb2.SearchDocumentsRequest(parent=patient.dossier)),
        ):
            ends.append(await attempt(platform.channel(way, access), access, request, bearer(token)))
    return ends


async def served_again(platform: Platform, patient: Patient, name: str) -> None:
    """Every way of reading works within BACK_WITHIN seconds."""
    returned = time.monotonic()
    ends = await eventually(lambda: refusals(platform, patient, name), lambda ends: not any(ends))
    assert [error.reason_name for error in ends if error] == []
    assert time.monotonic() - returned < BACK_WITHIN


async def submit(
    platform: Platform, patient: Patient, seed: int, request_id: str, way: str = "relay"
) -> document_pb2.Document:
    """One submission of a CDA under a request id of the caller's own."""
    content = patient.cda(DocumentKind.CONSULTATION, seed)
    request = document_pb2.SubmitDocumentsRequest(parent=patient.dossier, request_id=request_id)
    request.submission_set.unique_id = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, request_id).int}"
    request.submission_set.source_id = "1.2.250.1.213.4.99"
    document = request.documents.add(content=content).document
    document.mime_type = "text/xml"
    document.format_code.system, document.format_code.code = "1.3.6.1.4.1.19376.1.2.3", "urn:ihe:iti:xds:2017:x"
    statement = patient.caregiver.statement()
    who = statement if way == "relay" else Statement(INTERNAL, statement.fields)
    response = document_pb2.SubmitDocumentsResponse
    answer = await platform.session.call("document", "SubmitDocuments", request, response, who, timeout=5)
    return answer.documents[0]


def submitted(events: list[audit_pb2.AuditEvent]) -> list[str]:
    """The documents that the trail says were submitted, one for each event."""
    names = []
    for event in events:
        if event.action == "document.submit" and event.outcome == audit_pb2.OUTCOME_SUCCESS:
            names += [name for name in event.objects if "/documents/" in name]
    return sorted(names)


async def test_with_audit_down_nothing_is_read_and_with_audit_back_all_is(
    own: Platform, read: tuple[Patient, document_pb2.Document]
) -> None:
    patient, document = read
    found = await own.get(
        "/DocumentReference", patient.caregiver.statement(), **{"patient.identifier": patient.identifier}
    )
    url = found.json()["entry"][0]["resource"]["content"][0]["attachment"]["url"]
    async with without(own, "audit"):
        for error in await refusals(own, patient, document.name):
            assert error is not None, "something was served that nobody recorded"
            assert error.reason_name == "AUDIT_UNAVAILABLE"
        for path in (url, "/DocumentReference?patient.identifier=" + patient.identifier):
            response = await own.get(path, patient.caregiver.statement())
            assert (response.status_code, response.json()["resourceType"]) == (503, "OperationOutcome")
            assert response.headers["retry-after"]
        with pytest.raises(DmpError) as unrecorded:  # a refusal that cannot be recorded is not told either
            await own.acts(own.caregiver().statement()).read(document.name)
        assert unrecorded.value.reason == reasons.ERROR_REASON_AUDIT_UNAVAILABLE
    await served_again(own, patient, document.name)


async def test_a_submission_while_audit_is_down_is_kept_and_reaches_the_trail_when_it_is_back(own: Platform) -> None:
    patient = await own.patient()
    async with without(own, "audit"):
        document = await submit(own, patient, 1, "while-audit-is-down")
    returned = time.monotonic()
    events = await eventually(lambda: own.trail(patient.health_id), lambda events: submitted(events) != [])
    assert submitted(events) == [document.name]
    assert time.monotonic() - returned < BACK_WITHIN


async def test_with_consent_down_nothing_is_decided_and_nothing_served(
    own: Platform, read: tuple[Patient, document_pb2.Document]
) -> None:
    patient, document = read
    async with without(own, "consent"):
        for error in await refusals(own, patient, document.name):
            assert error is not None, "something was served that nobody allowed"
            assert error.reason_name == "DEPENDENCY_UNAVAILABLE"
        with pytest.raises(DmpError) as refused:
            await submit(own, patient, 2, "while-consent-is-down")
        assert refused.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    await served_again(own, patient, document.name)


async def test_with_identity_down_nothing_is_fed_but_what_is_there_is_read(
    own: Platform, read: tuple[Patient, document_pb2.Document]
) -> None:
    patient, document = read
    async with without(own, "identity"):
        with pytest.raises(DmpError) as refused:
            await submit(own, patient, 3, "while-identity-is-down")
        assert refused.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
        assert not any(await refusals(own, patient, document.name))
    returned = time.monotonic()
    await until_acknowledged(lambda: submit(own, patient, 3, "while-identity-is-down"))
    assert time.monotonic() - returned < BACK_WITHIN


async def found_over_http(own: Platform, patient: Patient) -> None:
    """Return when the gateway has found identity again, which the test before this one had stopped."""
    async with asyncio.timeout(30):
        while True:
            answer = await own.get("/Patient", patient.caregiver.statement(), identifier=patient.identifier)
            if answer.status_code == 200:
                return
            await asyncio.sleep(0.2)


async def test_with_redis_down_everything_works(own: Platform) -> None:
    await found_over_http(own, (await own.patient_with_document())[0])
    await own.stack.stop_redis()
    try:
        patient, document = await own.patient_with_document()
        assert not any(await refusals(own, patient, document.name))
        answer = await own.get("/Patient", patient.caregiver.statement(), identifier=patient.identifier)
        assert (answer.status_code, answer.json()["total"]) == (200, 1)
        assert "document.submit" in {event.action for event in await own.trail(patient.health_id, "document.submit")}
        fresh = own.caregiver().statement()  # a token that nobody has asked for yet
        with pytest.raises(DmpError) as refused:
            await own.acts(fresh).read(document.name)
        assert refused.value.reason == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    finally:
        await own.stack.start_redis()


async def test_kill_9_of_document_amid_submissions_loses_and_doubles_nothing(own: Platform) -> None:
    patient = await own.patient()

    async def feed(number: int) -> document_pb2.Document:
        way = WAYS[number % 2]
        return await until_acknowledged(lambda: submit(own, patient, 100 + number, f"amid-a-kill-{number}", way))

    feeding = [asyncio.create_task(feed(number)) for number in range(48)]
    for _ in range(2):
        await asyncio.sleep(0.08)
        await own.stack.kill("document")
        await own.stack.restart("document")
    documents = await asyncio.gather(*feeding)
    names = sorted(document.name for document in documents)
    assert len(set(names)) == len(documents)
    events = await eventually(lambda: own.trail(patient.health_id), lambda events: len(submitted(events)) >= len(names))
    assert submitted(events) == names
    for number, document in enumerate(documents[:6]):
        again = await submit(own, patient, 100 + number, f"amid-a-kill-{number}", WAYS[number % 2])
        assert again == document
    found = await patient.acts.search(patient.health_id)
    assert found.total_size == len(names)


async def test_kill_9_of_postgresql_keeps_what_was_acknowledged(own: Platform) -> None:
    patient = await own.patient()
    before = [await submit(own, patient, 200 + number, f"before-the-crash-{number}") for number in range(3)]
    amid = [
        asyncio.create_task(
            until_acknowledged(lambda number=number: submit(own, patient, 210 + number, f"amid-a-crash-{number}"))  # type: ignore[misc]
        )
        for number in range(8)
    ]
    await asyncio.sleep(0.03)
    await own.stack.kill_postgres()
    await own.stack.start_postgres()
    documents = [*before, *await asyncio.gather(*amid)]
    for document in documents:
        kept, content = await patient.acts.read(document.name)
        assert (kept.hash, len(content)) == (document.hash, document.size)
    names = sorted(document.name for document in documents)
    events = await eventually(lambda: own.trail(patient.health_id), lambda events: len(submitted(events)) >= len(names))
    assert submitted(events) == names


@pytest.mark.parametrize("service", ["document", "gateway"])
async def test_sigterm_finishes_what_is_under_way(own: Platform, service: ServiceName) -> None:
    patient = await own.patient()
    await until_acknowledged(lambda: submit(own, patient, 299, f"{service}-is-warm"))
    await own.stack.kill("consent", number=signal.SIGSTOP)  # so that each call that reaches the service stays under way
    try:
        calls = [asyncio.create_task(submit(own, patient, 300 + n, f"{service}-drains-{n}")) for n in range(12)]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await own.stack.kill(service, number=signal.SIGTERM)
        await asyncio.sleep(0.2)
    finally:
        await own.stack.kill("consent", number=signal.SIGCONT)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    await eventually(_is(lambda: own.stack.alive(service)), lambda alive: not alive)
    assert not own.stack.alive(service)
    assert time.monotonic() - began < 5
    await own.stack.restart(service)
    acknowledged = [end.name for end in ends if isinstance(end, document_pb2.Document)]
    assert acknowledged, "nothing that was under way was finished"
    for end in ends:
        if isinstance(end, BaseException):
            assert isinstance(end, DmpError), end
            assert end.code.name == "UNAVAILABLE"
    events = await eventually(
        lambda: own.trail(patient.health_id), lambda events: set(acknowledged) <= set(submitted(events))
    )
    assert len(submitted(events)) == len(set(submitted(events)))
    assert set(acknowledged) <= set(submitted(events))


async def link(platform: Platform, one: Patient, other: Patient) -> None:
    """Merge the second person into the first, with the same request id until it is answered."""
    request = identity_pb2.LinkPeopleRequest(
        name=person_name(one.health_id),
        merged=person_name(other.health_id),
        reason="one person",
        request_id=f"link-{one.health_id}-{other.health_id}",
    )
    who = Statement(INTERNAL, one.caregiver.statement().fields)
    answer = identity_pb2.LinkPeopleResponse
    await platform.session.call("identity", "LinkPeople", request, answer, who, timeout=5)


async def unlink(platform: Platform, one: Patient, other: Patient) -> None:
    request = identity_pb2.UnlinkPeopleRequest(
        name=person_name(other.health_id), reason="two people", request_id=f"part-{one.health_id}-{other.health_id}"
    )
    who = Statement(INTERNAL, one.caregiver.statement().fields)
    answer = identity_pb2.UnlinkPeopleResponse
    await platform.session.call("identity", "UnlinkPeople", request, answer, who, timeout=5)


async def found(patient: Patient) -> list[str]:
    """The documents by their uniqueIds; asked again while a service that is back is being reached."""
    answer = await until_acknowledged(lambda: patient.acts.search(patient.health_id))
    return sorted(document.unique_id for document in answer.documents)


async def test_people_linked_while_others_are_down_are_read_as_one_from_the_answer_on(own: Platform) -> None:
    # Services that the test before has stopped may not have been found again.
    (one, mine), (other, theirs) = [await until_acknowledged(own.patient_with_document) for _ in range(2)]
    async with without(own, "document"), without(own, "audit"):
        await until_acknowledged(lambda: link(own, one, other))
    both = sorted((mine.unique_id, theirs.unique_id))
    assert await found(one) == both
    assert await found(other) == both
    assert {event.health_id for event in await own.trail(one.health_id, "document.search", "document.submit")} == {
        one.health_id,
        other.health_id,
    }
    with pytest.raises(DmpError) as refused:
        await submit(own, other, 2, "to-the-merged")
    assert refused.value.reason == reasons.ERROR_REASON_DOSSIER_MERGED
    assert refused.value.metadata == {"merged_into": one.dossier}
    await submit(own, one, 2, "to-the-survivor")
    await unlink(own, one, other)
    assert await found(other) == [theirs.unique_id]
    assert theirs.unique_id not in await found(one)
    await submit(own, other, 3, "to-the-other-again")


async def test_a_link_made_while_consent_was_down_survives_a_kill_and_holds_when_it_is_answered(own: Platform) -> None:
    (one, mine), (other, theirs) = [await until_acknowledged(own.patient_with_document) for _ in range(2)]
    both = sorted((mine.unique_id, theirs.unique_id))
    await own.stack.stop("consent")
    with pytest.raises(DmpError) as undecided:
        await link(own, one, other)
    assert undecided.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    await own.stack.kill("identity")
    await own.stack.restart("consent")
    assert await found(one) == [mine.unique_id]
    await own.stack.restart("identity")
    assert await eventually(lambda: found(one), lambda ids: ids == both, seconds=20) == both
    await until_acknowledged(lambda: link(own, one, other))  # the retry is answered, and links nothing twice
    assert await found(other) == both
    await until_acknowledged(lambda: unlink(own, one, other))
    assert (await found(one), await found(other)) == ([mine.unique_id], [theirs.unique_id])


async def test_after_all_this_what_was_there_at_first_is_served(
    own: Platform, read: tuple[Patient, document_pb2.Document]
) -> None:
    patient, document = read
    await served_again(own, patient, document.name)
    assert (await patient.acts.read(document.name))[1] == patient.cda()


def _is(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def looked() -> bool:
        return look()

    return looked


async def test_kill_9_of_gateway_and_consent_amid_a_hosts_import_loses_and_doubles_nothing(own: Platform) -> None:
    host = Host(own, "north-amid-a-kill", await taking_over(own, "north-amid-a-kill"))
    before = await host.takes(await own.patient())
    for number in range(3):
        posted = await of(own, before).send("POST", "DocumentReference", note(before.person, before.caregiver, number))
        assert posted.status_code == 201, posted.text
    await block(own, before, own.caregiver().professional.idnps)
    exported, newcomers = await export(host), [own.person() for _ in range(12)]
    lines = [line for kind in KINDS for who in newcomers for line in told_of(before.person, who, exported[kind])]
    status = await begin(host)

    async def send() -> bool:
        with suppress(httpx.TransportError):
            answer = await put(host, status, "all", lines)
            return answer.status_code == 200 and answer.json()["finished"] is True
        return False

    for service in ("gateway", "consent"):
        sending = asyncio.create_task(send())
        await asyncio.sleep(0.15)
        await own.stack.kill(service)
        await own.stack.restart(service)
        await sending
    await eventually(send, bool)
    told = (await put(host, status, "all", lines)).json()
    assert (told["lines"], told["created"] + told["existed"], told["refused"]) == (len(lines), len(lines), 0)
    again = await export(host)
    assert [len(again[kind]) for kind in KINDS] == [len(exported[kind]) * (len(newcomers) + 1) for kind in KINDS]
    shared = [each["parameter"][1:] for each in again["Parameters"]]
    assert shared == [shared[0]] * len(shared)
    await host.software.close()
