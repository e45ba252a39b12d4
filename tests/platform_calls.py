"""Calls of the running platform byte by byte, tokens right and wrong, and what a refusal must look like.

Lives here: what `ops.session` does not let a well-behaved client do. Every refusal that passes through `refusal_of` is
checked to carry exactly one ErrorInfo of the platform's domain.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from joserfc.jwk import OKPKey

from dmp.common.v1.context_pb2 import ActingContext
from ops.local.state import State, write_private
from services.runtime.access import MethodAccess
from services.runtime.errors import ERROR_DOMAIN, DmpError, from_status
from services.runtime.tokens import TokenIssuer

ISSUER: Final = "https://dmp.local"
AUDIENCE: Final = "dmp"
LONGEST: Final = 20.0
_DETAILS: Final = "grpc-status-details-bin"

Metadata = Sequence[tuple[str, str]]


class NotARefusal(AssertionError):
    """The platform answered with something that is not one of its refusals."""


async def invoke(
    channel: grpc.aio.Channel,
    path: str,
    request: Message | bytes,
    metadata: Metadata = (),
    *,
    streaming: bool = False,
    timeout: float = LONGEST,
) -> list[bytes]:
    """The answers of a method as bytes, one for a unary method. Raises AioRpcError."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    if streaming:
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
        return [part async for part in stream(data, metadata=tuple(metadata), timeout=timeout)]
    unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return [await unary(data, metadata=tuple(metadata), timeout=timeout)]


WATCHED: Final = 3.0
"""Seconds that a stream without an end is listened to."""


async def attempt(
    channel: grpc.aio.Channel,
    method: MethodAccess,
    request: Message | bytes,
    metadata: Metadata = (),
    *,
    timeout: float = LONGEST,
) -> DmpError | None:
    """The refusal of a call, checked for its form; None when it was served. A watch is served until its deadline."""
    endless = method.path.endswith("/WatchChanges")
    if endless:
        timeout = min(timeout, WATCHED)
    try:
        await invoke(channel, method.path, request, metadata, streaming=method.server_streaming, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        if endless and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return None  # by whichever side's clock: the service ends the stream at the deadline, or the client does
        return refusal_of(error)
    return None


def refusal_of(error: grpc.aio.AioRpcError) -> DmpError:
    """The platform's refusal in a failed call: its status, with exactly one ErrorInfo and fields where they belong."""
    blobs = [value for key, value in error.trailing_metadata() or () if key == _DETAILS]
    if len(blobs) != 1 or not isinstance(blobs[0], bytes):
        raise NotARefusal(f"{error.code()} without details of the platform: {error.details()}")
    status = status_pb2.Status.FromString(blobs[0])
    kinds = [detail.type_url.rpartition("/")[2] for detail in status.details]
    assert kinds.count("google.rpc.ErrorInfo") == 1, kinds
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):  # type: ignore[arg-type]
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            assert info.domain == ERROR_DOMAIN
    assert status.code == error.code().value[0]
    refusal = from_status(status)
    assert refusal.code is error.code(), (refusal.reason_name, error.code())
    assert kinds.count("google.rpc.BadRequest") == bool(refusal.fields)
    return refusal


def bearer(token: str, request_id: str = "") -> list[tuple[str, str]]:
    """The metadata of a call with a token."""
    pairs = [("authorization", f"Bearer {token}")]
    return [*pairs, ("x-request-id", request_id)] if request_id else pairs


def claims_of(token: str) -> ActingContext:
    """Who acts, as a token of the platform states it."""
    return ActingContext.FromString(_decoded(_payload(token)["dmp"]))


def scopes_of(token: str) -> list[str]:
    """The scopes of a token of the platform."""
    return _payload(token)["scope"].split()


def signed(state: State, claims: ActingContext, scopes: Sequence[str], *, now: float, audience: str = AUDIENCE) -> str:
    """A token signed with the platform's own key, issued at `now`."""
    kid = (state.tokens / "current").read_text("ascii").strip()
    issuer = TokenIssuer(state.tokens / f"{kid}.jwk", kid, ISSUER)
    return issuer.issue(claims, audience, 300, scopes=scopes, now=now)


def signed_by_a_stranger(state: State, claims: ActingContext, scopes: Sequence[str], *, now: float) -> str:
    """A token that claims the platform's key id, signed with another key."""
    kid = (state.tokens / "current").read_text("ascii").strip()
    file = state.root / "stranger.jwk"
    stranger = OKPKey.generate_key("Ed25519", {"use": "sig"}, private=True)
    write_private(file, json.dumps(stranger.as_dict(private=True)))
    return TokenIssuer(file, kid, ISSUER).issue(claims, AUDIENCE, 300, scopes=scopes, now=now)


def unsigned(token: str) -> str:
    """The same token with `alg` none and no signature."""
    header, payload, _ = token.split(".")
    none = json.loads(_decoded(header)) | {"alg": "none"}
    return f"{_encoded(json.dumps(none).encode())}.{payload}."


def altered(token: str, **claims: object) -> str:
    """The same token with other claims and its old signature."""
    header, _, signature = token.split(".")
    payload = _payload(token) | claims
    return f"{header}.{_encoded(json.dumps(payload).encode())}.{signature}"


def outcome_reason(body: dict[str, list[dict[str, dict[str, list[dict[str, str]]]]]]) -> str:
    """The platform's reason in an OperationOutcome."""
    return body["issue"][0]["details"]["coding"][0]["code"]


def _payload(token: str) -> dict[str, str]:
    payload: dict[str, str] = json.loads(_decoded(token.split(".")[1]))
    return payload


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
