"""A process that changes consent and checks it, and writes down when each began and ended: `python -m …linear_client`.

It gets its orders as JSON on standard input, and writes one JSON line for each operation. It speaks to the replicas of
consent as the gateway does (a patient's token on the gateway's own connection), and checks as a service. A change whose
end it does not learn is asked for again with the same request_id until it does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.runtime.errors import DmpError, from_rpc_error
from services.runtime.identifiers import dossier_name, format_health_id
from services.runtime.tokens import TokenIssuer
from tests.consent_service import NOW, check_request, consent_record, professional

_SERVICE: Final = "/dmp.consent.v1.ConsentService"
_NOT_NOW: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_CHECKS_AT_ONCE: Final = 6
_PATIENCE: Final = 60.0
"""Seconds after which a change whose end is not learnt is a fault of the platform."""
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 30),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.ssl_target_name_override", "127.0.0.1"),
)


@dataclass(frozen=True, slots=True)
class Orders:
    """Where the replicas are, whose certificate and key to use, on which dossiers, how many operations."""

    addresses: list[str]
    certificate: str
    key: str
    authority: str
    signing_key: str
    kid: str
    issuer: str
    audience: str
    client_id: str
    dossiers: list[int]
    people: list[str]
    operations: int
    seed: int


class Client:
    """One process's operations, one batch or change at a time on each of its lines."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._chance = random.Random(orders.seed)
        credentials = grpc.ssl_channel_credentials(
            Path(orders.authority).read_bytes(), Path(orders.key).read_bytes(), Path(orders.certificate).read_bytes()
        )
        self._channels = [
            grpc.aio.secure_channel(address, credentials, options=_OPTIONS) for address in orders.addresses
        ]
        self._issuer = TokenIssuer(Path(orders.signing_key), orders.kid, orders.issuer)
        self._tokens: dict[int, tuple[float, tuple[tuple[str, str], ...]]] = {}
        self._left = orders.operations

    async def run(self) -> None:
        """All of them."""
        await asyncio.gather(*(self._line() for _ in range(4)))
        for channel in self._channels:
            await channel.close()

    async def _line(self) -> None:
        while self._left > 0:
            if self._chance.random() < 0.6:
                await self._check()
            else:
                self._left -= 1
                await self._change()

    async def _check(self) -> None:
        asked = [
            (self._chance.choice(self._orders.dossiers), self._chance.choice(self._orders.people))
            for _ in range(self._chance.randint(1, _CHECKS_AT_ONCE))
        ]
        self._left -= len(asked)
        request = pb.BatchCheckAccessRequest(
            requests=[check_request(dossier, professional(whom, structure="")) for dossier, whom in asked]
        )
        begun = time.monotonic()
        try:
            answer = await self._call("BatchCheckAccess", request, pb.BatchCheckAccessResponse, ())
        except DmpError as error:
            if error.code not in _NOT_NOW:
                raise
            return
        ended = time.monotonic()
        for (dossier, whom), result in zip(asked, answer.results, strict=True):
            decision = result.decision
            name = reasons.ErrorReason.Name(decision.reason).removeprefix("ERROR_REASON_")
            _tell("check", dossier, whom, begun, ended, decision.epoch, "yes" if decision.permitted else name)

    async def _change(self) -> None:
        dossier, whom = self._chance.choice(self._orders.dossiers), self._chance.choice(self._orders.people)
        kind = self._chance.choices(
            ("grant", "revoke", "block", "unblock", "close", "reopen"), weights=(8, 6, 3, 4, 1, 3)
        )[0]
        method, request, response = _request(kind, dossier, whom)
        begun, answer = time.monotonic(), None
        while answer is None:
            try:
                answer = await self._call(method, request, response, self._token(dossier))
            except DmpError as error:
                if error.code not in _NOT_NOW:
                    return  # refused: nothing has changed
                if time.monotonic() - begun > _PATIENCE:
                    raise
                await asyncio.sleep(0.02)
        ended = time.monotonic()
        epoch = answer.dossier.epoch if kind in ("close", "reopen") else answer.epoch
        _tell(kind, dossier, "" if kind in ("close", "reopen") else whom, begun, ended, epoch, "")

    async def _call(self, method: str, request: Message, response: type[Message], metadata: Any) -> Any:
        call: Any = self._chance.choice(self._channels).unary_unary(f"{_SERVICE}/{method}")
        try:
            return response.FromString(await call(request.SerializeToString(), metadata=metadata, timeout=3.0))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    def _token(self, dossier: int) -> tuple[tuple[str, str], ...]:
        renew, metadata = self._tokens.get(dossier, (0.0, ()))
        if renew > time.monotonic():
            return metadata
        claims = ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_PATIENT,
            subject=format_health_id(dossier),
            patient_health_id=dossier,
            client_id=self._orders.client_id,
            caller=access_pb2.CALLER_KIND_PATIENT,
        )
        token = self._issuer.issue(claims, self._orders.audience, 300, scopes=("TD0.3", "TD1.2", "TD1.4"))
        metadata = (("authorization", f"Bearer {token}"),)
        self._tokens[dossier] = (time.monotonic() + 200.0, metadata)
        return metadata


def _request(kind: str, dossier: int, whom: str) -> tuple[str, Message, type[Message]]:
    name, request_id = dossier_name(dossier), f"linear-{uuid.uuid4().hex}"
    grantee = pb.Grantee(kind=pb.GRANTEE_KIND_PROFESSIONAL, id=whom)
    match kind:
        case "grant":
            grant = pb.GrantAuthorizationRequest(parent=name, grantee=grantee, request_id=request_id)
            return "GrantAuthorization", grant, pb.GrantAuthorizationResponse
        case "revoke":
            revoke = pb.RevokeAuthorizationRequest(parent=name, grantee=grantee, request_id=request_id)
            return "RevokeAuthorization", revoke, pb.RevokeAuthorizationResponse
        case "block":
            block = pb.BlockProfessionalRequest(parent=name, grantee=grantee, request_id=request_id)
            return "BlockProfessional", block, pb.BlockProfessionalResponse
        case "unblock":
            unblock = pb.UnblockProfessionalRequest(parent=name, grantee=grantee, request_id=request_id)
            return "UnblockProfessional", unblock, pb.UnblockProfessionalResponse
        case "close":
            reason = pb.CLOSE_REASON_PATIENT_REQUEST
            close = pb.CloseDossierRequest(name=name, reason=reason, request_id=request_id)
            return "CloseDossier", close, pb.CloseDossierResponse
    consent = consent_record()
    consent.collect_time.CopyFrom(write_time(NOW.replace(year=2025)))
    reopen = pb.ReopenDossierRequest(name=name, consent=consent, request_id=request_id)
    return "ReopenDossier", reopen, pb.ReopenDossierResponse


def _tell(kind: str, dossier: int, whom: str, begun: float, ended: float, epoch: int, verdict: str) -> None:
    print(json.dumps([kind, dossier, whom, begun, ended, epoch, verdict]), flush=False)  # noqa: T201


async def main() -> None:
    """Take the orders and follow them."""
    await Client(Orders(**json.loads(sys.stdin.read()))).run()


if __name__ == "__main__":
    asyncio.run(main())
