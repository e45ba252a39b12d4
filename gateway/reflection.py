"""Reflection at the relay, for software whose registration allows it: the contracts, as grpcurl and the like ask.

Version 1 and v1alpha have the same messages and differ in their path alone. The caller is verified, within its quota
and allowed, before the first request is read. What is told is published in any case (`protos/`); it is kept from
others because it costs as much as it is long.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.callers import Callers, Refused
from services.runtime.access import MethodAccess
from services.runtime.boundary import Context, RpcHandler, abort_with, text_metadata
from services.runtime.errors import DmpError
from services.runtime.limits import CARE
from services.runtime.observation import SecurityLog

PATHS: Final = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_TIMEOUT: Final = 60.0
_MOST_REQUESTS: Final = 1_000
_FOR_SOFTWARE: Final = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})


def handlers(methods: Iterable[MethodAccess], callers: Callers, security: SecurityLog) -> Mapping[str, RpcHandler]:
    """The handlers by path; listed are the services that have a method for software."""
    names = {method.path.split("/")[1] for method in methods if method.callers & _FOR_SOFTWARE}
    servicer = reflection.aio.ReflectionServicer(sorted(names))

    async def allowed(context: Context) -> None:
        metadata = text_metadata(context)
        try:
            caller = await callers.verify(metadata, metadata.get("traceparent", ""), _TIMEOUT, CARE)
        except Refused:
            raise
        except DmpError as error:
            security.refused("reflection", error.reason_name, "")
            raise
        if caller.registration is None or not caller.registration.reflection:
            refusal = DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
            await callers.record_refusal(caller, refusal, audit_action="contracts.read")
            raise refusal

    async def answers(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        try:
            await allowed(context)
            async with aclosing(_bounded(requests)) as bounded:
                told: AsyncIterator[Any] = servicer.ServerReflectionInfo(bounded, context)  # type: ignore[assignment]
                async for answer in told:
                    yield answer
        except DmpError as error:
            await abort_with(context, error)

    handler = grpc.stream_stream_rpc_method_handler(
        answers,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return dict.fromkeys(PATHS, handler)


async def _bounded(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    count = 0
    async for request in requests:
        count += 1
        if count > _MOST_REQUESTS:
            raise DmpError(reasons.ERROR_REASON_QUOTA_EXCEEDED, retry_after=1.0)
        yield request
