"""The day of a practice through the gRPC relay, by two implementations of gRPC that know nothing but the published
contracts: grpcio with its generated stubs, and grpclib, which is pure Python.
"""

from __future__ import annotations

import hashlib
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from dmp.audit.v1 import audit_pb2, audit_pb2_grpc
from dmp.common.v1.coding_pb2 import Coding, Identifier
from dmp.consent.v1 import consent_pb2, consent_pb2_grpc
from dmp.document.v1 import document_pb2, document_pb2_grpc
from dmp.identity.v1 import identity_pb2, identity_pb2_grpc
from tests.platform_fixture import Patient, Platform, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILES: dict[str, tuple[Any, Any]] = {
    "audit": (audit_pb2, audit_pb2_grpc),
    "consent": (consent_pb2, consent_pb2_grpc),
    "document": (document_pb2, document_pb2_grpc),
    "identity": (identity_pb2, identity_pb2_grpc),
}
Call = Callable[[str, str, Any], Awaitable[list[Any]]]
"""service, method, request → the answers, one for a unary method."""


@asynccontextmanager
async def by_grpcio(platform: Platform, token: str) -> AsyncIterator[Call]:
    """grpcio with the generated stubs."""
    trust = grpc.ssl_channel_credentials((platform.state.pki / "ca.pem").read_bytes())
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.secure_channel(platform.session.endpoints.relay, trust) as channel:
        stubs = {
            name: getattr(module, f"{name.capitalize()}ServiceStub")(channel) for name, (_, module) in FILES.items()
        }

        async def call(service: str, method: str, request: Any) -> list[Any]:
            answer = getattr(stubs[service], method)(request, metadata=metadata, timeout=30)
            if method == "ReadDocument":
                return [part async for part in answer]
            return [await answer]

        yield call


@asynccontextmanager
async def by_grpclib(platform: Platform, token: str) -> AsyncIterator[Call]:
    """grpclib, from the descriptors alone."""
    trust = ssl.create_default_context(cafile=str(platform.state.pki / "ca.pem"))
    trust.set_alpn_protocols(["h2"])
    host, _, port = platform.session.endpoints.relay.rpartition(":")
    channel = Channel(host.rpartition(":")[2], int(port), ssl=trust)

    async def call(service: str, method: str, request: Any) -> list[Any]:
        messages = FILES[service][0]
        path = f"/dmp.{service}.v1.{service.capitalize()}Service/{method}"
        response = getattr(messages, f"{method}Response")
        kind = UnaryStreamMethod if method == "ReadDocument" else UnaryUnaryMethod
        invoke = kind(channel, path, type(request), response)
        answer = await invoke(request, metadata={"authorization": f"Bearer {token}"}, timeout=30)
        return answer if isinstance(answer, list) else [answer]

    try:
        yield call
    finally:
        channel.close()


@pytest.mark.parametrize("client", [by_grpcio, by_grpclib], ids=["grpcio", "grpclib"])
async def test_a_second_implementation_lives_a_day(platform: Platform, client: Callable[[Platform, str], Any]) -> None:
    patient = await platform.registered()
    token = await platform.session.token(patient.caregiver.statement())
    async with client(platform, token) as call:
        await live_a_day(call, patient)


async def live_a_day(call: Call, patient: Patient) -> None:
    """Open, feed, search, page, read, replace, mask, archive, delete, match, cross-reference, traces."""
    await open_dossier(call, patient)
    names = [await feed(call, patient, patient.cda(seed=seed)) for seed in (1, 2, 3)]
    await page_and_read(call, patient, names)
    newer = await feed(call, patient, patient.cda(seed=1, version=2), replaces=names[0])
    replaced = (await call("document", "GetDocument", document_pb2.GetDocumentRequest(name=names[0])))[0].document
    assert (replaced.status, replaced.replaced_by) == (document_pb2.DOCUMENT_STATUS_DEPRECATED, newer)
    await change(call, names[1], names[2])
    await identify(call, patient)
    listed = audit_pb2.ListEventsRequest(parent=patient.dossier, page_size=200)

    async def done() -> set[str]:
        events = (await call("audit", "ListEvents", listed))[0]
        return {item.event.action for item in events.events}

    wanted = {"dossier.open", "document.submit", "document.search", "document.read", "document.delete"}
    assert wanted <= await eventually(done, lambda seen: wanted <= seen, seconds=20), "changes are told by an outbox"


async def open_dossier(call: Call, patient: Patient) -> None:
    consent = consent_pb2.ConsentRecord(
        method=consent_pb2.CONSENT_METHOD_ORAL, given_by=consent_pb2.CONSENT_GIVER_PATIENT
    )
    consent.collect_time.GetCurrentTime()
    await call(
        "consent",
        "OpenDossier",
        consent_pb2.OpenDossierRequest(name=patient.dossier, consent=consent, request_id=new_id()),
    )
    grant = consent_pb2.GrantAuthorizationRequest(
        parent=patient.dossier, attending_physician=True, patient_consented=True, request_id=new_id()
    )
    (granted,) = await call("consent", "GrantAuthorization", grant)
    assert granted.authorization.attending_physician


async def feed(call: Call, patient: Patient, content: bytes, replaces: str = "") -> str:
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    format_code = Coding(system="1.3.6.1.4.1.19376.1.2.3", code="urn:ihe:iti:xds:2017:mimeTypeSufficient")
    document = document_pb2.Document(mime_type="text/xml", hash=digest, size=len(content), format_code=format_code)
    submitted = document_pb2.SubmittedDocument(document=document, content=content)
    if replaces:
        submitted.relationships.add(type=document_pb2.RELATIONSHIP_TYPE_REPLACES, target=replaces)
    request = document_pb2.SubmitDocumentsRequest(
        parent=patient.dossier,
        submission_set=document_pb2.SubmissionSet(unique_id=f"2.25.{uuid.uuid4().int}", source_id="1.2.250.1.999.7"),
        documents=[submitted],
        request_id=new_id(),
    )
    (answer,) = await call("document", "SubmitDocuments", request)
    name: str = answer.documents[0].name
    return name


async def page_and_read(call: Call, patient: Patient, names: list[str]) -> None:
    token, found = "", []
    while True:
        request = document_pb2.SearchDocumentsRequest(parent=patient.dossier, page_size=2, page_token=token)
        (page,) = await call("document", "SearchDocuments", request)
        assert page.total_size == len(names)
        found += [document.name for document in page.documents]
        token = page.next_page_token
        if not token:
            break
    assert sorted(found) == sorted(names)
    parts = await call("document", "ReadDocument", document_pb2.ReadDocumentRequest(name=names[0]))
    assert b"".join(part.chunk for part in parts) == patient.cda(seed=1)


async def change(call: Call, masked: str, deleted: str) -> None:
    for name, what, flag in (
        (masked, document_pb2.DOCUMENT_CHANGE_MASK, "MASQUE_PS"),
        (masked, document_pb2.DOCUMENT_CHANGE_ARCHIVE, "MASQUE_PS"),
        (deleted, document_pb2.DOCUMENT_CHANGE_DELETE, ""),
    ):
        request = document_pb2.ChangeDocumentRequest(name=name, change=what, request_id=new_id())
        (answer,) = await call("document", "ChangeDocument", request)
        assert not flag or flag in {coding.code for coding in answer.document.confidentiality}
        assert (answer.document.status == document_pb2.DOCUMENT_STATUS_DELETED) == (name == deleted)


async def identify(call: Call, patient: Patient) -> None:
    person = patient.person
    traits = identity_pb2.Traits(
        birth_name=person.birth_family,
        birth_given_names=" ".join(person.given),
        first_birth_given_name=person.first_given,
        sex={"F": identity_pb2.SEX_FEMALE, "M": identity_pb2.SEX_MALE}[person.sex],
        birth_date=person.birth_date.isoformat(),
    )
    (matches,) = await call("identity", "MatchPerson", identity_pb2.MatchPersonRequest(traits=traits))
    assert matches.candidates
    source = Identifier(system=person.nir_oid, value=person.nir)
    (found,) = await call("identity", "CrossReference", identity_pb2.CrossReferenceRequest(source=source))
    assert found.name.endswith(patient.dossier.removeprefix("dossiers/"))


def new_id() -> str:
    """A request id that no other call has."""
    return str(uuid.uuid4())
