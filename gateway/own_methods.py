"""The gateway's own methods that software may call through the relay, checked as a service checks its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.callers import Caller, Callers
from gateway.relay import Own
from services.runtime.access import MethodAccess
from services.runtime.context import Call
from services.runtime.errors import DmpError

_FOR_SOFTWARE = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})

Handler = Callable[[Any, Call], Awaitable[Message]]


def own_methods(servicer: object, methods: Iterable[MethodAccess], callers: Callers) -> Mapping[str, Own]:
    """The methods of `servicer` that are for software, by path."""
    return {method.path: _own(servicer, method, callers) for method in methods if method.callers & _FOR_SOFTWARE}


def _own(servicer: object, method: MethodAccess, callers: Callers) -> Own:
    handler: Handler = getattr(servicer, method.path.rpartition("/")[2])

    async def answer(caller: Caller, data: bytes) -> bytes:
        refusal = _refusal(caller, method)
        if refusal is not None:
            await callers.record_refusal(
                caller, refusal, audit_action=method.audit_action, transaction=method.transaction
            )
            raise refusal
        try:
            request = method.request.FromString(data)
        except DecodeError:
            raise DmpError(reasons.ERROR_REASON_MALFORMED_REQUEST) from None
        response = await handler(request, _call(caller, method))
        return response.SerializeToString()

    return Own(method, answer)


def _refusal(caller: Caller, method: MethodAccess) -> DmpError | None:
    if caller.actor.caller not in method.callers:
        return DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
    if not method.scopes & caller.scopes:
        return DmpError(reasons.ERROR_REASON_SCOPE_MISSING)
    return None


def _call(caller: Caller, method: MethodAccess) -> Call:
    return Call(
        actor=caller.actor,
        caller=caller.actor.caller,
        client_id=caller.actor.client_id,
        peer="",
        request_id=caller.request_id,
        deadline=time.monotonic() + caller.timeout,
        traceparent=caller.traceparent,
        method=method,
    )
