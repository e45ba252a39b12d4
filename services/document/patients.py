"""Asking identity whether a document is about the dossier's person. Coalesced; civil identity passes through only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2
from services.runtime.channels import Peer
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError, from_status

Verify = Callable[[list[identity_pb2.VerifyPatientRequest]], Awaitable[Sequence[bool | DmpError]]]

VERIFY_PATIENTS: Final = "/dmp.identity.v1.IdentityService/BatchVerifyPatients"
_TIMEOUT: Final = 5.0


class PatientChecks:
    """Verifies claims in batches; each claim is decided after it came, in its own call's context."""

    def __init__(self, verify: Verify) -> None:
        self._coalescer: Coalescer[identity_pb2.VerifyPatientRequest, bool] = Coalescer("identity", verify, in_flight=2)

    async def verify(self, call: Call, claim: identity_pb2.PatientClaim) -> None:
        """Return when the claim is about the call's dossier. Raises PATIENT_MISMATCH, PERSON_NOT_FOUND, or why it
        could not be told (never a yes)."""
        asked = identity_pb2.VerifyPatientRequest(context=call.item(), health_id=call.health_id, claim=claim)
        if not await self._coalescer.submit(asked, timeout=call.remaining()):
            raise DmpError(reasons.ERROR_REASON_PATIENT_MISMATCH)

    async def close(self) -> None:
        """Refuse new claims, finish those accepted."""
        await self._coalescer.close()


def verify_through(identity: Peer) -> Verify:
    """How claims are verified when identity is another process."""
    call = identity.unary(
        VERIFY_PATIENTS, identity_pb2.BatchVerifyPatientsRequest, identity_pb2.BatchVerifyPatientsResponse
    )

    async def verify(requests: list[identity_pb2.VerifyPatientRequest]) -> list[bool | DmpError]:
        response = await call(identity_pb2.BatchVerifyPatientsRequest(requests=requests), timeout=_TIMEOUT)
        return [
            result.verified if result.WhichOneof("outcome") == "verified" else from_status(result.status)
            for result in response.results
        ]

    return verify
