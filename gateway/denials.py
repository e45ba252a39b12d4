"""Telling every process of every service whom to refuse: at once when it changes, and again while it matters.

A service may have several processes behind one address; each is found by resolving the address, connected to by
itself, and asked to acknowledge. What is told is the whole list, read from the database with its version, so that
several gateways may tell at once and a process that missed one message learns everything from the next.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import grpc
import grpc.aio
import structlog
from google.protobuf import timestamp_pb2

from dmp.gateway.v1 import denial_pb2
from gateway.store import Store
from services.runtime.settings import ServiceSettings
from services.runtime.tls import Certificates, TlsFiles, channel_credentials
from services.runtime.tokens import MAX_LIFETIME, SKEW

APPLY: Final = "/dmp.gateway.v1.DenialService/ApplyDenials"
TOKEN_LIFE: Final = timedelta(seconds=MAX_LIFETIME + SKEW + 30)
"""After a client's suspension, how long one of its tokens may be believed: one may be being signed at that moment."""
_SKEW: Final = timedelta(seconds=2 * SKEW)
_TELL_TIMEOUT: Final = 2.0
REPEAT_EVERY: Final = 5.0

_log = structlog.get_logger("denials")


@dataclass(frozen=True, slots=True)
class Effect:
    """What one service knows: of its `processes`, `answered` refuse from now on."""

    service: str
    processes: int
    answered: int

    @property
    def acknowledged(self) -> bool:
        """Whether all of them do."""
        return self.processes > 0 and self.answered == self.processes


class Denials:
    """Tells the services. One list a gateway at a time."""

    def __init__(self, store: Store, targets: Mapping[str, str], settings: ServiceSettings) -> None:
        """`targets` are the services' addresses by name, in the forms that `Peer` takes."""
        self._store = store
        self._targets = dict(targets)
        self._certificates = Certificates(TlsFiles(*settings.tls_files()))
        self._told_version = 0

    async def tell(self) -> list[Effect]:
        """Send the list of now to every process; who acknowledged it."""
        version, clients, tokens = await self._store.denials(TOKEN_LIFE, _SKEW)
        request = denial_pb2.ApplyDenialsRequest(version=version)
        for client_id, until in clients.items():
            request.denials.add(client_id=client_id, expire_time=_at(until))
        for token_id, until in tokens.items():
            request.denials.add(token_id=token_id, expire_time=_at(until))
        effects = await asyncio.gather(*(self._tell_service(name, request) for name in self._targets))
        if all(effect.acknowledged for effect in effects):
            self._told_version = version
        return list(effects)

    async def run(self) -> None:
        """Repeat the list while there is one, for processes that started meanwhile; for ever."""
        while True:
            try:
                await self._repeat()
            except Exception as error:  # noqa: BLE001 - the next round tries again, whatever it was
                _log.warning("denials_not_told", error_type=type(error).__name__)
            await asyncio.sleep(REPEAT_EVERY)

    async def _repeat(self) -> None:
        version, clients, tokens = await self._store.denials(TOKEN_LIFE, _SKEW)
        if clients or tokens or version != self._told_version:
            await self.tell()

    async def _tell_service(self, name: str, request: denial_pb2.ApplyDenialsRequest) -> Effect:
        try:
            addresses = await _addresses(name, self._targets[name])
        except OSError as error:
            _log.warning("service_not_found", peer=name, error_type=type(error).__name__)
            return Effect(name, 0, 0)
        answers = await asyncio.gather(*(self._tell_process(name, address, request) for address in addresses))
        return Effect(name, len(addresses), sum(answers))

    async def _tell_process(self, name: str, address: _Address, request: denial_pb2.ApplyDenialsRequest) -> bool:
        credentials = channel_credentials(self._certificates.material())
        options = [
            ("grpc.ssl_target_name_override", address.host),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        try:
            async with grpc.aio.secure_channel(address.target, credentials, options) as channel:
                apply = channel.unary_unary(
                    APPLY,
                    denial_pb2.ApplyDenialsRequest.SerializeToString,
                    denial_pb2.ApplyDenialsResponse.FromString,
                )
                answer = await apply(request, timeout=_TELL_TIMEOUT, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            _log.warning("denials_not_acknowledged", peer=name, code=error.code().name)
            return False
        acknowledged: bool = answer.version >= request.version
        return acknowledged


@dataclass(frozen=True, slots=True)
class _Address:
    """One process: where to connect, and the host that its certificate bears."""

    target: str
    host: str


async def _addresses(name: str, target: str) -> list[_Address]:
    """Every process behind a target: the addresses listed, or those that a name resolves to now.

    As for `Peer`: where several hosts are listed their certificates bear the name of the service.
    """
    if target.startswith("unix:"):
        return [_Address(target, "localhost")]
    parts = target.removeprefix("ipv4:").removeprefix("ipv6:").removeprefix("dns:///").removeprefix("dns:").split(",")
    hosts = {part.rpartition(":")[0].strip("[]") for part in parts}
    found: list[_Address] = []
    for part in parts:
        host, _, port = part.rpartition(":")
        bears = host.strip("[]") if len(hosts) == 1 else name
        infos = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        found += [
            _Address(f"ipv6:[{ip}]:{port}" if ":" in ip else f"ipv4:{ip}:{port}", bears)
            for ip in sorted({str(info[4][0]) for info in infos})
        ]
    return list(dict.fromkeys(found))


def _at(seconds: float) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=math.ceil(seconds))
