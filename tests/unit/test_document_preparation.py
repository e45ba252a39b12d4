"""Rubbish in: a submission is prepared, or refused with the field at fault; nothing else ever happens."""

from __future__ import annotations

import hashlib

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from dmp.common.v1 import coding_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document.metadata import MetadataRules
from services.document.preparation import Prepared, body_digest, prepare
from services.runtime.errors import DmpError
from tests import hostile_xml
from tests.documents import cda, plain_metadata, submission

RULES = MetadataRules(by_patient=False)
REFUSALS = {
    reasons.ERROR_REASON_METADATA_ERROR,
    reasons.ERROR_REASON_HASH_MISMATCH,
    reasons.ERROR_REASON_SIZE_MISMATCH,
    reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID,
    reasons.ERROR_REASON_CONTENT_REFUSED,
}
texts = st.text(max_size=20) | st.sampled_from(["N", "MASQUE_PS", "11488-4", "SA07", "urn:oid:1.2", "text/xml"])
codings = st.builds(coding_pb2.Coding, code=texts, system=texts)
times = st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1))
metadata = st.builds(
    document_pb2.Document,
    unique_id=texts,
    mime_type=texts,
    language=texts,
    title=texts,
    type_code=st.none() | codings,
    class_code=st.none() | codings,
    format_code=st.none() | codings,
    facility_type=st.none() | codings,
    confidentiality=st.lists(codings, max_size=4),
    create_time=st.none() | times,
    service_start_time=st.none() | times,
    service_stop_time=st.none() | times,
)


@settings(max_examples=150)
@given(metadata, st.binary(min_size=1, max_size=200) | st.just(cda("1.2.3")))
async def test_any_metadata_with_any_bytes_are_prepared_or_refused_by_name(
    document: document_pb2.Document, content: bytes
) -> None:
    outcome = await _prepared(document, content)
    if isinstance(outcome, DmpError):
        assert outcome.reason in REFUSALS
        assert outcome.fields
        assert all(violation.field.startswith("documents[0].") for violation in outcome.fields)
    else:
        assert outcome.claims


async def test_hostile_xml_is_refused_by_name() -> None:
    for name, content in hostile_xml.hostile_documents().items():
        outcome = await _prepared(document_pb2.Document(mime_type="text/xml"), content)
        assert isinstance(outcome, DmpError), name
        assert outcome.reason == reasons.ERROR_REASON_METADATA_ERROR, name
        assert outcome.fields[0].field.startswith("documents[0]."), name


async def _prepared(document: document_pb2.Document, content: bytes) -> Prepared | DmpError:
    """The one document of a submission, or why it is refused."""
    try:
        [prepared] = await prepare(submission(1, (document, content)), [content], RULES)
    except DmpError as error:
        return error
    return prepared


async def test_every_document_at_fault_is_named_at_once() -> None:
    request = submission(1, (document_pb2.Document(), b"<a/>"), (document_pb2.Document(), b"%PDF"))
    with pytest.raises(DmpError) as refused:
        await prepare(request, [submitted.content for submitted in request.documents], RULES)
    assert {violation.field[:12] for violation in refused.value.fields} == {"documents[0]", "documents[1]"}


async def test_the_digest_of_a_request_is_all_that_it_says_but_its_request_id() -> None:
    first = submission(1, (plain_metadata("1.2.3"), b"%PDF"), request_id="request-1")

    async def digest(change: document_pb2.SubmitDocumentsRequest) -> bytes:
        return body_digest(change, [hashlib.sha256(submitted.content).digest() for submitted in change.documents])

    again = document_pb2.SubmitDocumentsRequest()
    again.CopyFrom(first)
    again.request_id = "request-2"
    assert await digest(again) == await digest(first)
    again.documents[0].content = b"%PDG"
    assert await digest(again) != await digest(first)
    again.CopyFrom(first)
    again.submission_set.title = "autre"
    assert await digest(again) != await digest(first)
