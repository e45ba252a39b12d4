"""Where rubbish is thrown at the running platform, and what must hold then: clear refusals, memory bounded,
the same processes. Shared by the tests of gRPC and of HTTP; no test lives here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio
import psutil
from google.protobuf.message import Message
from google.rpc import status_pb2

from dmp.common.v1 import error_reason_pb2 as reasons
from ops.local.readiness import client_credentials
from ops.local.state import SERVICES
from ops.session import Statement
from services.runtime.access import MethodAccess
from services.runtime.errors import DmpError, from_status
from tests.platform_calls import bearer
from tests.platform_fixture import Patient, Platform, service_of

HUGE: Final = 200_000_000
MEBIBYTE: Final = 1 << 20
REFUSED_BY_RULE: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.ABORTED,  # eight at once may change one thing: all but one are told so
    }
)
NAMES_A_FIELD: Final = frozenset(
    {
        reasons.ERROR_REASON_INVALID_FIELD,
        reasons.ERROR_REASON_INVALID_PAGE_TOKEN,
        reasons.ERROR_REASON_METADATA_ERROR,
        reasons.ERROR_REASON_HASH_MISMATCH,
        reasons.ERROR_REASON_SIZE_MISMATCH,
        reasons.ERROR_REASON_MISSING_DOCUMENT,
    }
)
OF_PATIENTS: Final = frozenset({"BlockProfessional", "UnblockProfessional"})


@dataclass(slots=True)
class Arena:
    """Where rubbish is thrown: a dossier for each method, and the processes as they were before."""

    platform: Platform
    pids: dict[str, int]
    _patients: dict[str, Patient] = field(default_factory=dict)

    async def patient(self, name: str) -> Patient:
        if name not in self._patients:
            self._patients[name] = await self.platform.patient()
        return self._patients[name]

    async def way_in(self, access: MethodAccess, way: str) -> tuple[grpc.aio.Channel, list[tuple[str, str]]]:
        """A channel, and the metadata of a caller who may call the method if anyone may."""
        name = access.path.rpartition("/")[2]
        if way == "service":
            return as_service(self.platform, access), []
        patient = await self.patient(name)
        if name in OF_PATIENTS and way == "relay":
            token = await self.platform.session.token(Statement.patient(patient.health_id))
        else:
            token = await self.platform.token(way, patient.caregiver.statement())
        return self.platform.channel(way, access), bearer(token)


_service_channels: dict[str, grpc.aio.Channel] = {}


def as_service(platform: Platform, access: MethodAccess) -> grpc.aio.Channel:
    """A channel with the certificate of the document service, which may send batches."""
    address = platform.stack.address(service_of(access))
    if address not in _service_channels:
        identity = platform.stack.authority.service("document")
        _service_channels[address] = grpc.aio.secure_channel(address, client_credentials(identity))
    return _service_channels[address]


async def close_service_channels() -> None:
    """Close what `as_service` has opened."""
    while _service_channels:
        await _service_channels.popitem()[1].close()


def check_refusal(refusal: DmpError) -> None:
    assert refusal.code in REFUSED_BY_RULE, refusal.reason_name
    if refusal.reason in NAMES_A_FIELD:
        assert refusal.fields, refusal.reason_name
    for violation in refusal.fields:
        assert violation.field
        assert violation.rule


def check_statuses(answer: Message) -> None:
    """The items of a batch that were refused, each as a call would be."""
    for result in getattr(answer, "results", ()):
        if result.WhichOneof("outcome") == "status":
            assert isinstance(result.status, status_pb2.Status)
            check_refusal(from_status(result.status))


@contextmanager
def bounded_memory(platform: Platform, *, grown: int) -> Iterator[None]:
    """No process of a service may ever hold `grown` bytes more than it did before (the kernel keeps the peak)."""
    processes = {service: psutil.Process(platform.stack.pid(service)) for service in SERVICES}
    before = {}
    for service, process in processes.items():
        reset_peak(process.pid)
        before[service] = process.memory_info().rss
    yield
    for service, process in processes.items():
        peak = peak_of(process.pid)
        assert peak - before[service] < grown, f"{service} grew by {(peak - before[service]) >> 20} MiB"


def reset_peak(pid: int) -> None:
    """Make the kernel begin the peak anew (Linux, `proc(5)`: clear_refs)."""
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("5")


def peak_of(pid: int) -> int:
    """The most resident memory that a process has had, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:  # noqa: PTH123
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10
