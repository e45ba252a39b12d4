"""What tests expect of a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DmpError


@contextmanager
def refused(reason: reasons.ErrorReason.ValueType, *fields: str) -> Iterator[None]:
    """The block is refused for this reason, naming these fields (at least)."""
    with pytest.raises(DmpError) as caught:
        yield
    expected = reasons.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    assert caught.value.reason_name == expected, f"refused for {caught.value.reason_name}, not {expected}"
    named = [violation.field for violation in caught.value.fields]
    assert set(fields) <= set(named), f"{named} named, not {fields}"
