"""Errors: each reason has its row in the one table, and travels whole in exactly one ErrorInfo of our domain.

(That the running platform's refusals have this form is checked wherever a test makes one: `platform_calls.refusal_of`.)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.rpc import error_details_pb2

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import ERROR_DOMAIN, REASONS, DmpError, FieldViolation, from_status, to_status

PROTO: Final = Path(__file__).resolve().parents[2] / "protos" / "dmp" / "common" / "v1" / "error_reason.proto"
ALL: Final = [value for value in reasons.ErrorReason.values() if value != reasons.ERROR_REASON_UNSPECIFIED]
UNDECIDED: Final = frozenset(
    {
        reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE,
        reasons.ERROR_REASON_AUDIT_UNAVAILABLE,
        reasons.ERROR_REASON_OVERLOADED,
    }
)
"""What keeps the platform from deciding (design §1, promise 3): UNAVAILABLE, and nothing else is."""


def test_every_reason_has_its_row_and_no_row_is_left_over() -> None:
    assert set(REASONS) == set(ALL)


def test_every_reason_is_documented_with_an_example() -> None:
    entries = re.findall(r"((?:  //[^\n]*\n)+)  (ERROR_REASON_\w+) = \d+;", PROTO.read_text("utf-8"))
    assert {name for _, name in entries} == set(reasons.ErrorReason.keys())
    assert [name for comment, name in entries if "Example:" not in comment] == []


def test_unavailable_is_what_could_not_be_decided_and_nothing_else() -> None:
    unavailable = {reason for reason, spec in REASONS.items() if spec.code is grpc.StatusCode.UNAVAILABLE}
    assert unavailable == UNDECIDED


@pytest.mark.parametrize("reason", ALL)
def test_a_row_is_an_error_in_every_protocol(reason: int) -> None:
    spec = REASONS[reason]
    assert spec.code is not grpc.StatusCode.OK
    assert spec.code is not grpc.StatusCode.UNKNOWN
    assert 400 <= spec.http < 600
    assert (spec.http >= 500) == (spec.code.name in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "DATA_LOSS"})
    assert spec.message.endswith(".")


@pytest.mark.parametrize("reason", ALL)
def test_an_error_survives_the_wire_with_exactly_one_error_info(reason: int) -> None:
    fields = (FieldViolation("documents[0].content", "max_bytes", "too long"),)
    status = to_status(DmpError(reason, fields=fields, metadata={"limit": "1"}, retry_after=1.5))
    infos = [detail for detail in status.details if detail.type_url.endswith("/google.rpc.ErrorInfo")]
    assert len(infos) == 1
    assert error_details_pb2.ErrorInfo.FromString(infos[0].value).domain == ERROR_DOMAIN
    back = from_status(status)
    assert (back.reason, back.fields, back.metadata, back.retry_after) == (reason, fields, {"limit": "1"}, 1.5)
