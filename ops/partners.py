"""PartnerService as an operator of the local platform calls it: registrations, suspensions, keys, usage."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from dmp.gateway.v1 import partner_pb2 as pb
from ops.local.registrations import OPERATOR
from ops.session import Session, Statement, refusal

Response = TypeVar("Response", bound=Message)
_PATH = "/dmp.gateway.v1.PartnerService"


class Partners:
    """PartnerService as an operator of the local platform calls it."""

    def __init__(self, session: Session, operator: str = "operator-1") -> None:
        self._session = session
        self._statement = Statement.of(OPERATOR, actor="operator", subject=operator)

    async def call(self, method: str, request: Message, response: type[Response]) -> Response:
        """One call. DmpError as the platform refused it."""
        channel = self._session.channel("operators", OPERATOR)
        token = await self._session.token(self._statement)
        invoke: Any = channel.unary_unary(f"{_PATH}/{method}")
        try:
            data = await invoke(
                request.SerializeToString(), metadata=(("authorization", f"Bearer {token}"),), timeout=20
            )
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None
        return response.FromString(data)

    async def register(self, partner: pb.Partner, *, replace: bool = False) -> pb.PartnerState:
        """Register software, or replace its registration."""
        request = pb.RegisterPartnerRequest(partner=partner, replace=replace, request_id=_request_id())
        return (await self.call("RegisterPartner", request, pb.RegisterPartnerResponse)).state

    async def show(self, client_id: str) -> pb.PartnerState:
        """One registration."""
        return (await self.call("GetPartner", pb.GetPartnerRequest(client_id=client_id), pb.GetPartnerResponse)).state

    async def all(self) -> list[pb.PartnerState]:
        """Every registration."""
        states: list[pb.PartnerState] = []
        page = ""
        while True:
            request = pb.ListPartnersRequest(page_size=200, page_token=page)
            answer = await self.call("ListPartners", request, pb.ListPartnersResponse)
            states += answer.states
            page = answer.next_page_token
            if not page:
                return states

    async def suspend(self, client_id: str, reason: str) -> pb.SuspendPartnerResponse:
        """Stop a client."""
        request = pb.SuspendPartnerRequest(client_id=client_id, reason=reason, request_id=_request_id())
        return await self.call("SuspendPartner", request, pb.SuspendPartnerResponse)

    async def resume(self, client_id: str) -> pb.ResumePartnerResponse:
        """Let a client call again."""
        request = pb.ResumePartnerRequest(client_id=client_id, request_id=_request_id())
        return await self.call("ResumePartner", request, pb.ResumePartnerResponse)

    async def rotate(self, client_id: str, jwks: str = "", retire: Sequence[str] = ()) -> pb.PartnerState:
        """Add and retire keys."""
        request = pb.RotatePartnerKeyRequest(client_id=client_id, jwks=jwks, retire=retire, request_id=_request_id())
        return (await self.call("RotatePartnerKey", request, pb.RotatePartnerKeyResponse)).state

    async def usage(self, client_id: str = "", since: datetime | None = None) -> list[pb.PartnerUsage]:
        """Counts by day."""
        request = pb.GetPartnerUsageRequest(client_id=client_id)
        if since is not None:
            request.since.FromDatetime(since)
        return list((await self.call("GetPartnerUsage", request, pb.GetPartnerUsageResponse)).rows)


def _request_id() -> str:
    return str(uuid.uuid4())
