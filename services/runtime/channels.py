"""Channels to the platform's other services: mutual TLS, one connection to each replica, errors as DmpError.

A `Peer` is a service as its clients see it. Its channel is replaced when this workload's certificate changes, and the
old one drains. Nothing is retried here: only the outermost caller retries (design §7). No business rule lives here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.context import current_call, traffic
from services.runtime.errors import DmpError, from_rpc_error, unavailable
from services.runtime.limits import CARE, NAMES, TRAFFIC_HEADER
from services.runtime.settings import ServiceSettings
from services.runtime.tls import Certificates, TlsFiles, TlsMaterial, channel_credentials

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds that a call may take when neither the caller nor the call being served says less."""
MARGIN: Final = 0.01
"""Seconds kept back from the deadline of the call being served, to answer in time."""
_LOOK_AT_FILES_EVERY: Final = 1.0
_WATCH_HEALTH: Final = '{"healthCheckConfig": {"serviceName": ""}}'
_SCHEMES: Final = ("ipv4:", "ipv6:", "dns:", "unix:")

Metadata = Sequence[tuple[str, str | bytes]]
Request = TypeVar("Request", bound=Message | bytes)
Response = TypeVar("Response", bound=Message | bytes)
M = TypeVar("M", bound=Message)
N = TypeVar("N", bound=Message)


class Observer(Protocol):
    """Where calls to peers are counted: the peer's name, the name of the gRPC code, the seconds it took."""

    def __call__(self, peer: str, code: str, seconds: float) -> None: ...


class Peer:
    """A service that this workload calls.

    Its address is one `host:port`, several IP addresses with ports and commas between, or a gRPC target such as
    `dns:///document:8443`; calls go round all the addresses that answer. A peer that does not answer refuses at once
    and is tried again within half a second. Its certificate must bear the host of the address; where addresses on
    several hosts are listed, the name of the service.
    """

    def __init__(self, name: str, address: str, settings: ServiceSettings, *, observe: Observer | None = None) -> None:
        """Connects when first called. Raises SettingsError when the certificate files cannot be used."""
        self.name = name
        self._target = _target(address)
        self._options = _options(settings.max_message_bytes) + _certificate_name(name, self._target)
        self._drain_seconds = settings.drain_seconds
        self._observe = observe
        self._certificates = Certificates(TlsFiles(*settings.tls_files()))
        self._material: TlsMaterial | None = None
        self._channel: grpc.aio.Channel | None = None
        self._look_again = 0.0
        self._draining: set[asyncio.Task[None]] = set()
        self._closed = False

    def unary(self, path: str, request: type[M], response: type[N]) -> Unary[M, N]:
        """The callable of a unary method, such as `/dmp.consent.v1.ConsentService/BatchCheckAccess`. Keep it."""
        return Unary(self, path, request.SerializeToString, response.FromString)

    def unary_written(self, path: str, response: type[N]) -> Unary[bytes, N]:
        """As `unary`, for requests that are bytes already."""
        return Unary(self, path, None, response.FromString)

    def stream(self, path: str, request: type[M], response: type[N]) -> Stream[M, N]:
        """The callable of a server-streaming method. Keep it."""
        return Stream(self, path, request.SerializeToString, response.FromString)

    def unary_bytes(self, path: str) -> Unary[bytes, bytes]:
        """As `unary`, for a relay that does not look at messages."""
        return Unary(self, path, None, None)

    def stream_bytes(self, path: str) -> Stream[bytes, bytes]:
        """As `stream`, for a relay that does not look at messages."""
        return Stream(self, path, None, None)

    def collected_bytes(self, path: str) -> Collected[bytes, bytes]:
        """A client-streaming method, for a relay that does not look at messages."""
        return Collected(self, path, None, None)

    def channel(self) -> grpc.aio.Channel:
        """The channel to call through now. Do not keep it: it is replaced when the certificate changes."""
        now = time.monotonic()
        channel = self._channel
        if channel is None or now >= self._look_again:
            self._look_again = now + _LOOK_AT_FILES_EVERY
            channel = self._current(channel)
        return channel

    def _current(self, channel: grpc.aio.Channel | None) -> grpc.aio.Channel:
        if self._closed:
            raise unavailable(self.name)
        material = self._certificates.material()
        if channel is not None and material is self._material:
            return channel
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close(self._drain_seconds))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        self._material = material
        self._channel = grpc.aio.secure_channel(self._target, channel_credentials(material), options=self._options)
        return self._channel

    async def close(self) -> None:
        """Refuse new calls, and end when those under way have, or when the drain time is over."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(self._drain_seconds)
        await asyncio.gather(*self._draining)

    def failed(self, error: grpc.aio.AioRpcError) -> DmpError:
        """The error of a failed call: the peer's own, or that this peer is unavailable."""
        return self.own(from_rpc_error(error))

    def own(self, mapped: DmpError) -> DmpError:
        """An error that this peer gave, in its name where it has none."""
        if mapped.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE and mapped.metadata == {"dependency": "peer"}:
            return unavailable(self.name)
        return mapped

    def note(self, code: str, started: float) -> None:
        """Count a call that began at `started` (time.perf_counter)."""
        if self._observe is not None:
            self._observe(self.name, code, time.perf_counter() - started)


class _Method(Generic[Request, Response]):
    """One method of a peer, and its callable on the peer's present channel."""

    def __init__(
        self,
        peer: Peer,
        path: str,
        serialize: Callable[[Request], bytes] | None,
        parse: Callable[[bytes], Response] | None,
    ) -> None:
        self._peer = peer
        self._path = path
        self._serialize = serialize
        self._parse = parse
        self._channel: grpc.aio.Channel | None = None
        self._callable: Any = None

    def _on_present_channel(self, kind: str) -> Any:
        channel = self._peer.channel()
        if channel is not self._channel:
            self._callable = getattr(channel, kind)(self._path, self._serialize, self._parse)
            self._channel = channel
        return self._callable

    def _began(self, kind: str, request: Any, timeout: float | None, metadata: Metadata) -> Any:
        """The call, under way. DEPENDENCY_UNAVAILABLE when the channel was closed meanwhile."""
        seconds = within(timeout)
        if (said := traffic()) != CARE and not any(key == TRAFFIC_HEADER for key, _ in metadata):
            metadata = (*metadata, (TRAFFIC_HEADER, NAMES[said]))
        try:
            return self._on_present_channel(kind)(request, timeout=seconds, metadata=metadata or None)
        except grpc.aio.UsageError:
            raise unavailable(self._peer.name) from None


class Unary(_Method[Request, Response]):
    """A unary method of a peer."""

    async def __call__(self, request: Request, *, timeout: float | None = None, metadata: Metadata = ()) -> Response:
        """The answer, within `timeout` seconds and what remains of the call being served.

        Raises DmpError: the peer's own; DEADLINE_EXCEEDED; DEPENDENCY_UNAVAILABLE when it cannot be reached.
        """
        return await self._answer("unary_unary", request, timeout, metadata)

    async def _answer(self, kind: str, request: Any, timeout: float | None, metadata: Metadata) -> Response:
        started = time.perf_counter()
        call = self._began(kind, request, timeout, metadata)
        code = "CANCELLED"
        try:
            response = await call
            code = "OK"
            return cast(Response, response)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise self._peer.failed(error) from None
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise unavailable(self._peer.name) from None
        finally:
            self._peer.note(code, started)


class Collected(Unary[Request, Response]):
    """A client-streaming method of a peer."""

    async def collect(
        self, requests: AsyncIterator[Request], *, timeout: float | None = None, metadata: Metadata = ()
    ) -> Response:
        """The answer to all the requests; errors as for `Unary`. A DmpError of `requests` ends it, and is raised."""
        failures: list[DmpError] = []

        async def sent() -> AsyncIterator[Request]:
            try:
                async for request in requests:
                    yield request
            except DmpError as error:
                failures.append(error)
                raise

        try:
            return await self._answer("stream_unary", sent(), timeout, metadata)
        except (DmpError, asyncio.CancelledError):
            if failures:
                raise failures[0] from None
            raise


class Stream(_Method[Request, Response]):
    """A server-streaming method of a peer."""

    async def __call__(
        self, request: Request, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> AsyncGenerator[Response, None]:
        """The answers as they come; errors as for `Unary`. Leaving the loop early cancels the call."""
        started = time.perf_counter()
        call = self._began("unary_stream", request, timeout, metadata)
        code = "CANCELLED"
        try:
            async for response in call:
                yield response
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            raise self._peer.failed(error) from None
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise unavailable(self._peer.name) from None
        finally:
            call.cancel()
            self._peer.note(code, started)


def within(timeout: float | None) -> float:
    """Seconds that a call may take: `timeout`, but less than remains of the call being served.

    Raises DEADLINE_EXCEEDED when nothing remains, so that no work begins whose answer nobody awaits.
    """
    seconds = DEFAULT_TIMEOUT if timeout is None else timeout
    try:
        remaining = current_call().remaining()
    except LookupError:
        remaining = None
    if remaining is not None:
        seconds = min(seconds, remaining - MARGIN)
    if seconds <= 0:
        raise DmpError(reasons.ERROR_REASON_DEADLINE_EXCEEDED)
    return seconds


def _is_cancelled() -> bool:
    """Whether this task itself is cancelled. gRPC also cancels whoever awaits a call of a channel that it closes."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _target(address: str) -> str:
    return f"ipv4:{address}" if "," in address and not address.startswith(_SCHEMES) else address


def _certificate_name(name: str, target: str) -> list[tuple[str, int | str]]:
    """For a list of addresses, which has no host that gRPC could look for in the certificate: the host to look for."""
    scheme, _, addresses = target.partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return []
    hosts = {address.rpartition(":")[0].strip("[]") for address in addresses.split(",")}
    return [("grpc.ssl_target_name_override", hosts.pop() if len(hosts) == 1 else name)]


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    """Leave a replica that says it stops; fail fast; find a restarted peer within half a second, notice a dead
    connection within half a minute."""
    return [
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),  # how long one attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.service_config", _WATCH_HEALTH),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
