"""Errors: one exception, one table from reason to every wire form. Nothing else raises across an RPC.

    Exception
    └── DmpError            a refusal or a failure with an ErrorReason; safe to show to a client

A DmpError never holds a cause's text, a value of the request or personal data: the field and the
rule that it breaks are enough. `reasons.REASONS` maps each reason to every protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.reasons import REASONS, ReasonSpec

__all__ = [
    "REASONS",
    "DmpError",
    "FieldViolation",
    "ReasonSpec",
    "from_rpc_error",
    "from_status",
    "invalid",
    "to_status",
    "trailing_metadata",
    "unavailable",
]

ERROR_DOMAIN = "dmp.sante.fr"
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata with the google.rpc.Status of an error."""
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that breaks a rule: `field` a path, `rule` a stable id, `description` for people."""

    field: str
    rule: str
    description: str


class DmpError(Exception):
    """A refusal or failure with its reason.

    `fields` name what is wrong with the request, `metadata` goes into ErrorInfo (never personal
    data), `retry_after` is a delay in seconds for what may be tried again.
    """

    def __init__(
        self,
        reason: int,
        message: str | None = None,
        *,
        fields: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.reason = reason
        self.spec = REASONS[reason]
        self.message = message or self.spec.message
        self.fields = tuple(fields)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        super().__init__(self.message)

    @property
    def reason_name(self) -> str:
        """The reason without its prefix, such as ``BLOCKED``."""
        return reasons.ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")  # type: ignore[arg-type]

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code."""
        return self.spec.code


def invalid(field: str, rule: str, description: str) -> DmpError:
    """An INVALID_FIELD error about one field."""
    return DmpError(reasons.ERROR_REASON_INVALID_FIELD, fields=(FieldViolation(field, rule, description),))


def own_copy(error: DmpError) -> DmpError:
    """The same for one of several callers: a shared exception would mix their tracebacks."""
    copied = DmpError(
        error.reason, error.message, fields=error.fields, metadata=error.metadata, retry_after=error.retry_after
    )
    copied.__cause__ = error
    return copied


def unavailable(dependency: str, retry_after: float | None = None) -> DmpError:
    """A DEPENDENCY_UNAVAILABLE error naming what cannot be reached."""
    return DmpError(
        reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE, metadata={"dependency": dependency}, retry_after=retry_after
    )


def to_status(error: DmpError) -> status_pb2.Status:
    """The google.rpc.Status of an error: exactly one ErrorInfo, BadRequest and RetryInfo where they apply."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason_name, domain=ERROR_DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.fields:
        bad = error_details_pb2.BadRequest()
        for violation in error.fields:
            bad.field_violations.add(field=violation.field, description=violation.description, reason=violation.rule)
        status.details.add().Pack(bad)
    if error.retry_after is not None:
        seconds = int(error.retry_after)
        delay = duration_pb2.Duration(seconds=seconds, nanos=int((error.retry_after - seconds) * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_status(status: status_pb2.Status) -> DmpError:
    """The error that a peer of ours packed into a status; what is not ours becomes DEPENDENCY_UNAVAILABLE."""
    reason: int | None = None
    fields: list[FieldViolation] = []
    metadata: dict[str, str] = {}
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):  # type: ignore[arg-type]
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            name = f"ERROR_REASON_{info.reason}"
            if info.domain == ERROR_DOMAIN and name in reasons.ErrorReason.keys():  # noqa: SIM118 (enum wrapper)
                reason = reasons.ErrorReason.Value(name)
                metadata = dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):  # type: ignore[arg-type]
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            fields = [FieldViolation(v.field, v.reason, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):  # type: ignore[arg-type]
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if reason is None or reason not in REASONS:
        return unavailable("peer")
    return DmpError(reason, status.message, fields=fields, metadata=metadata, retry_after=retry_after)


def from_rpc_error(error: grpc.aio.AioRpcError) -> DmpError:
    """The error of a failed call: the peer's own where it sent one, else by the transport's code."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status()
            status.ParseFromString(value)
            return from_status(status)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return DmpError(reasons.ERROR_REASON_REQUEST_TOO_LARGE)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return DmpError(reasons.ERROR_REASON_METHOD_NOT_FOUND)
    return unavailable("peer")


def trailing_metadata(error: DmpError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries an error to a gRPC client, and asks it to stay away for `retry_after`."""
    if error.fields or error.metadata:
        return _trailing_metadata(error)
    return _plain_trailing_metadata(error.reason, error.message, error.retry_after)


def _trailing_metadata(error: DmpError) -> tuple[tuple[str, str | bytes], ...]:
    details = (DETAILS_KEY, to_status(error).SerializeToString())
    if error.retry_after is None:
        return (details,)
    return (details, (_PUSHBACK_KEY, str(int(error.retry_after * 1000))))


@lru_cache(maxsize=1024)
def _plain_trailing_metadata(
    reason: int, message: str, retry_after: float | None
) -> tuple[tuple[str, str | bytes], ...]:
    """Kept, because a process pushes back when it is short of time."""
    return _trailing_metadata(DmpError(reason, message, retry_after=retry_after))
