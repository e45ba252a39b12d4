"""The answer to GetDocument, written behind the sealed message, is the message that parsing and writing anew gives."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import document_pb2
from services.document import codes
from services.document.entries import shown, shown_bytes
from services.document.envelope import ContentPointer, open_metadata, seal_metadata, unseal_metadata
from services.document.store.rows import DocumentRow
from services.runtime.identifiers import document_name
from services.runtime.sealing import DossierKey
from services.runtime.validation import pattern_of

KEY = DossierKey.from_bytes(1 << 62, bytes(range(32)))
FLAGS = (codes.MASKED_FROM_PROFESSIONALS, codes.INVISIBLE_TO_PATIENT, codes.INVISIBLE_TO_REPRESENTATIVES)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

instants = st.integers(0, 4_000_000_000_000_000).map(lambda micros: EPOCH + timedelta(microseconds=micros))
stamps = st.builds(Timestamp, seconds=st.integers(0, 2**32), nanos=st.integers(0, 999_999_999))
confidentialities = st.lists(
    st.one_of(
        st.just(coding_pb2.Coding(system="2.16.840.1.113883.5.25", code="N")),
        st.sampled_from(FLAGS).map(lambda flag: coding_pb2.Coding(system=codes.VISIBILITY, code=flag)),
    ),
    max_size=4,
)
sealed_documents = st.builds(
    document_pb2.Document,
    unique_id=st.text(max_size=20),
    title=st.text(max_size=300),
    confidentiality=confidentialities,
    create_time=stamps,
    # What a seal made long ago may hold of the fields that the row decides.
    name=st.sampled_from(["", "dossiers/0/documents/0"]),
    version=st.integers(0, 9),
    status=st.sampled_from(list(document_pb2.DocumentStatus.values())),
    submit_time=st.one_of(st.none(), stamps),
    change_time=st.one_of(st.none(), stamps),
    entry_id=st.sampled_from(["", "other"]),
    folders=st.lists(st.just("dossiers/0/folders/0"), max_size=2),
)
rows = st.builds(
    DocumentRow,
    health_id=st.just(KEY.health_id),
    document_id=st.uuids(),
    logical_id=st.uuids(),
    version=st.integers(0, 2**31 - 1),
    status=st.sampled_from(list(document_pb2.DocumentStatus.values())),
    type_code=st.just("34133-9"),
    submitted_at=instants,
    submission_set_id=st.uuids(),
    masked=st.booleans(),
    invisible_patient=st.booleans(),
    invisible_representatives=st.booleans(),
    author_digests=st.just([]),
    stored_size=st.just(1),
    sealed=st.just(b""),
    entry_id=st.one_of(st.none(), st.uuids()),
    changed_at=st.one_of(st.none(), instants),
    change=st.just(1),
    status_before=st.just(0),
    replaced_by=st.one_of(st.none(), st.uuids()),
    relations=st.just([]),
    folder_ids=st.lists(st.uuids(), max_size=2),
    institution_digests=st.just([]),
)


@given(rows, sealed_documents, st.booleans())
def test_what_is_written_behind_the_seal_is_what_is_shown(
    row: DocumentRow, document: document_pb2.Document, plain_row: bool
) -> None:
    if plain_row:  # as nearly all are, and the only ones that are not parsed
        row = row._replace(
            masked=False, invisible_patient=False, invisible_representatives=False, replaced_by=None, folder_ids=[]
        )
    pointer = ContentPointer(uuid.uuid4(), os.urandom(32))
    row = row._replace(sealed=seal_metadata(KEY, row, pointer, document))
    expected = shown(open_metadata(KEY, row).document, row)
    written = shown_bytes(unseal_metadata(KEY, row), row, document_name(row.health_id, row.document_id))
    assert document_pb2.Document.FromString(written) == expected


def test_a_name_is_asked_by_its_own_pattern_where_that_is_all_the_contract_says() -> None:
    pattern = pattern_of(document_pb2.GetDocumentRequest, "name")
    name = document_name(KEY.health_id, uuid.uuid4())
    assert pattern.fullmatch(name)
    assert not pattern.fullmatch(name + "\n")
    assert not pattern.fullmatch(name.upper())
    try:
        pattern_of(document_pb2.ListDocumentVersionsRequest, "page_size")
    except ValueError:
        return
    raise AssertionError("a message with other rules was taken")
