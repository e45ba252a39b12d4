"""How a call goes on to the service that owns it: alone, or together with those of other callers.

A call of its own costs the gateway and the service 0.1 ms of CPU each. Those of a method of TOGETHER that come at the
same time leave in one, as checks and events do (docs/decisions/0032-relay.md). Nothing is decided here, and nothing is
remembered: each call keeps its token, its deadline and its error.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from dmp.gateway.v1 import relay_pb2
from gateway.callers import Caller
from services.runtime.channels import Peer
from services.runtime.coalescer import Coalescer
from services.runtime.context import is_urgent
from services.runtime.errors import DmpError, from_status
from services.runtime.pace import PACE
from services.runtime.relayed import PATH

TOGETHER: Final = frozenset({"/dmp.document.v1.DocumentService/GetDocument"})
"""Methods whose calls all take about as long: those sent together are answered together. No others are worth it: what
reads more, or writes, costs far more than its way."""
IN_WAVES: Final = frozenset(
    {
        "/dmp.consent.v1.ConsentService/GetDossier",
        "/dmp.document.v1.DocumentService/GetDocument",
        "/dmp.document.v1.DocumentService/ResolveUniqueId",
        "/dmp.identity.v1.IdentityService/GetPerson",
    }
)
"""Methods that read one thing, and little, so that many fit into an answer: those of clients that press go together
wherever they come from (`gateway.waves`)."""
_UNDER_WAY: Final = 6
"""Batches, since each takes as long as a read."""
_MOST: Final = 128


class _Item(NamedTuple):
    request: bytes
    caller: Caller
    ends: float


class Alone:
    """Calls of a method that go one by one."""

    def __init__(self, peer: Peer, path: str) -> None:
        self._forward = peer.unary_bytes(path)

    async def __call__(self, request: bytes, caller: Caller) -> bytes:
        """The service's answer, or its error."""
        return await self._forward(request, timeout=caller.timeout, metadata=caller.metadata())


class Together:
    """Calls of a method that leave together. One that is alone, or an emergency, goes as if there were no others."""

    def __init__(self, peer: Peer, path: str) -> None:
        self._peer = peer
        self._path = path
        self._forward = peer.unary_bytes(path)
        self._relay = peer.unary(PATH, relay_pb2.RelayCallsRequest, relay_pb2.RelayCallsResponse)
        self._batches: Coalescer[_Item, bytes] = Coalescer(
            "relay", self._send, max_batch=_MOST, in_flight=_UNDER_WAY, pace=PACE
        )

    async def __call__(self, request: bytes, caller: Caller) -> bytes:
        """The service's answer, or its error."""
        if is_urgent():
            return await self._forward(request, timeout=caller.timeout, metadata=caller.metadata())
        item = _Item(request, caller, time.monotonic() + caller.timeout)
        return await self._batches.submit(item, timeout=caller.timeout)

    async def close(self) -> None:
        """Answer what was accepted."""
        await self._batches.close()

    async def _send(self, items: list[_Item]) -> list[bytes | DmpError]:
        now = time.monotonic()
        if len(items) == 1:
            request, caller, ends = items[0]
            return [await self._forward(request, timeout=ends - now, metadata=caller.metadata())]
        answer = await self._relay(
            relay_pb2.RelayCallsRequest(path=self._path, calls=[_relayed(item, now) for item in items]),
            timeout=max(item.ends for item in items) - now,
        )
        return [self._outcome(result) for result in answer.results]

    def _outcome(self, result: relay_pb2.RelayedResult) -> bytes | DmpError:
        if result.WhichOneof("outcome") == "response":
            return result.response
        return self._peer.own(from_status(result.status))


def _relayed(item: _Item, now: float) -> relay_pb2.RelayedCall:
    caller = item.caller
    return relay_pb2.RelayedCall(
        request=item.request,
        token=caller.token,
        request_id=caller.request_id,
        timeout_ms=max(1, int((item.ends - now) * 1000)),
        traceparent=caller.traceparent,
        lowered=caller.can_wait,
        network_address=caller.address,
    )
