"""What the contract does not say is refused with its field and rule: here the one rule that holds for every text."""

from __future__ import annotations

import pytest

from dmp.document.v1 import document_pb2
from dmp.identity.v1 import directory_pb2
from services.runtime.errors import DmpError
from services.runtime.validation import validate_for_storage


def test_a_text_with_a_nul_is_refused_by_its_path_at_any_depth() -> None:
    practitioner = directory_pb2.Practitioner(idnps="899700000012", family_name="A\0B", profession="10")
    request = directory_pb2.ImportDirectoryRequest(
        import_id="import-1",
        request_id="request-1",
        rows=[directory_pb2.DirectoryRow(row=1, practitioner=practitioner)],
    )
    with pytest.raises(DmpError) as refused:
        validate_for_storage(request)
    assert [(each.field, each.rule) for each in refused.value.fields] == [
        ("rows[0].practitioner.family_name", "string.nul")
    ]


def test_zero_bytes_in_what_is_no_text_are_let_through() -> None:
    validate_for_storage(
        document_pb2.WriteUploadRequest(
            name="dossiers/000000000000000000198/uploads/00000000-0000-0000-0000-000000000008", chunk=b"\0\0"
        )
    )
