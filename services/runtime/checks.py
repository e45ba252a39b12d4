"""Asking consent: many calls' access checks, one BatchCheckAccess at a time. No rule here, and nothing remembered.

A check leaves in a batch that had not been sent when it was asked, so its decision is read after the request came
(promise 2). What cannot be decided raises: only a Decision with `permitted` is a yes (promise 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.runtime.coalescer import Coalescer
from services.runtime.context import Call
from services.runtime.errors import DmpError, from_status, unavailable
from services.runtime.identifiers import dossier_name
from services.runtime.pace import PACE
from services.runtime.wire import embedded, varint

if TYPE_CHECKING:
    from services.runtime.channels import Peer

CHECK_ACCESS: Final = "/dmp.consent.v1.ConsentService/BatchCheckAccess"
LIST_HELD: Final = "/dmp.consent.v1.ConsentService/ListHeldDossiers"
_BATCH_SECONDS: Final = 2.0

Checked = consent_pb2.Decision | DmpError


class AccessChecks:
    """The access checks of one service, through the coalescer that all its calls share."""

    def __init__(self, consent: Peer, *, max_batch: int = 256, max_pending: int = 4096, in_flight: int = 2) -> None:
        """`consent` is the channel to the consent service; the bounds are those of the coalescer."""
        self._batch_check = consent.unary(
            CHECK_ACCESS, consent_pb2.BatchCheckAccessRequest, consent_pb2.BatchCheckAccessResponse
        )
        self._batch_written = consent.unary_written(CHECK_ACCESS, consent_pb2.BatchCheckAccessResponse)
        self._list_held = consent.unary(
            LIST_HELD, consent_pb2.ListHeldDossiersRequest, consent_pb2.ListHeldDossiersResponse
        )
        self._coalescer: Coalescer[consent_pb2.CheckAccessRequest, consent_pb2.Decision] = Coalescer(
            "consent", self._send, max_batch=max_batch, max_pending=max_pending, in_flight=in_flight, pace=PACE
        )

    async def check(self, call: Call, health_id: int, action: consent_pb2.Action.ValueType) -> consent_pb2.Decision:
        """The decision for the call's actor: yes or no, made after this was asked. The caller records it.

        Raises DmpError when it could not be made: DEPENDENCY_UNAVAILABLE, OVERLOADED, DEADLINE_EXCEEDED, or the
        consent service's own error. Never permission.
        """
        request = consent_pb2.CheckAccessRequest(context=call.item(), health_id=health_id, action=action)
        return await self._coalescer.submit(request, timeout=call.remaining())

    async def check_all(self, calls: Sequence[Call], action: consent_pb2.Action.ValueType) -> list[Checked]:
        """The decisions for the actors of many calls, each about its own dossier: one batch, sent now, of these alone.

        An error in place of a decision is that call's; what is raised is the error of all.
        """
        batch = b"".join([embedded(b"\x0a", check_bytes(call, action)) for call in calls])
        return _decisions(await self._batch_written(batch, timeout=_BATCH_SECONDS), len(calls))

    async def held(self, call: Call) -> consent_pb2.ListHeldDossiersResponse:
        """Where the call's actor holds, or held, an authorisation of its own; whether it may list them at all.

        Raises DmpError: SEARCH_TOO_BROAD for too many, or what keeps consent from telling.
        """
        remaining = call.remaining()
        timeout = _BATCH_SECONDS if remaining is None else min(_BATCH_SECONDS, remaining)
        return await self._list_held(consent_pb2.ListHeldDossiersRequest(context=call.item()), timeout=timeout)

    async def close(self) -> None:
        """Refuse new checks, finish those accepted."""
        await self._coalescer.close()

    async def _send(self, requests: list[consent_pb2.CheckAccessRequest]) -> list[Checked]:
        batch = consent_pb2.BatchCheckAccessRequest(requests=requests)
        return _decisions(await self._batch_check(batch, timeout=_BATCH_SECONDS), len(requests))


def refusal(decision: consent_pb2.Decision) -> DmpError:
    """The error of a decision that does not permit; RIGHT_DENIED if it gives no reason."""
    metadata = merged_to(decision.merged_into) if decision.merged_into else None
    return DmpError(decision.reason or reasons.ERROR_REASON_RIGHT_DENIED, metadata=metadata)


def merged_to(health_id: int) -> dict[str, str]:
    """Where a merged dossier went, as the metadata of DOSSIER_MERGED."""
    return {"merged_into": dossier_name(health_id)}


def dossiers_read(health_id: int, decision: consent_pb2.Decision) -> tuple[int, ...]:
    """The dossiers that a permitted call reads: the one asked for first, then the others of the person, if any. Consent
    tells them with its yes, so that linking and parting hold for every request that begins after consent has them."""
    return (health_id, *decision.linked) if decision.linked else (health_id,)


def check_bytes(call: Call, action: int) -> bytes:
    """A CheckAccessRequest with the call's own context, about its own dossier."""
    return b"%b\x10%b\x18%b" % (embedded(b"\x0a", call.item_bytes()), varint(call.health_id), varint(action))


def _decisions(response: consent_pb2.BatchCheckAccessResponse, asked: int) -> list[Checked]:
    results = response.results
    if len(results) != asked:
        raise unavailable("consent")
    return [_decision(result) for result in results]


def _decision(result: consent_pb2.CheckAccessResult) -> Checked:
    """The decision of one result; an empty result decides nothing."""
    outcome = result.WhichOneof("outcome")
    if outcome == "decision":
        return result.decision
    return from_status(result.status) if outcome == "status" else unavailable("consent")
