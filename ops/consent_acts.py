"""What an operator asks of consent: the rights tables, why somebody may or may not enter, what changed in a dossier."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc.aio
from google.protobuf.message import Message

from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from ops.local.registrations import OPERATOR
from ops.session import Session, Statement, refusal
from services.runtime.identifiers import dossier_name

Response = TypeVar("Response", bound=Message)
FUNCTIONAL_RIGHTS: Final = "functional_rights.csv"
TYPE_DENIALS: Final = "document_type_denials.csv"


class ConsentActs:
    """Calls to consent, directly, with the certificate and a token of an operator."""

    def __init__(self, session: Session, operator: str = "operator-1") -> None:
        self._session = session
        self._statement = Statement.of(OPERATOR, actor="operator", subject=operator)

    async def rights(self, version: int | None = None) -> rights_pb2.GetRightsResponse:
        """The tables in force, or those of a version."""
        return await self._call(
            "RightsService", "GetRights", rights_pb2.GetRightsRequest(version=version), rights_pb2.GetRightsResponse
        )

    async def versions(self) -> list[rights_pb2.RightsVersion]:
        """Every version, newest first."""
        found: list[rights_pb2.RightsVersion] = []
        page = ""
        while True:
            request = rights_pb2.ListRightsVersionsRequest(page_size=200, page_token=page)
            answer = await self._call(
                "RightsService", "ListRightsVersions", request, rights_pb2.ListRightsVersionsResponse
            )
            found += answer.versions
            page = answer.next_page_token
            if not page:
                return found

    async def diff(self, tables: rights_pb2.RightsTables) -> rights_pb2.DiffRightsResponse:
        """What these tables would change."""
        request = rights_pb2.DiffRightsRequest(tables=tables)
        return await self._call("RightsService", "DiffRights", request, rights_pb2.DiffRightsResponse)

    async def replace(self, tables: rights_pb2.RightsTables, base: int, comment: str) -> rights_pb2.RightsVersion:
        """Put these tables in force."""
        request = rights_pb2.ReplaceRightsRequest(
            tables=tables, base_version=base, comment=comment, request_id=str(uuid.uuid4())
        )
        answer = await self._call("RightsService", "ReplaceRights", request, rights_pb2.ReplaceRightsResponse)
        return answer.version

    async def explain(
        self, health_id: int, subject: str, profession: str, structure: str, mode: str, action: str
    ) -> consent_pb2.ExplainAccessResponse:
        """Why a professional may, or may not, do something in a dossier."""
        party = consent_pb2.ExplainedParty(
            kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
            subject=subject,
            profession=profession,
            structure=structure,
            access_mode=context_pb2.AccessMode.Value(f"ACCESS_MODE_{mode.upper()}"),
        )
        request = consent_pb2.ExplainAccessRequest(
            name=dossier_name(health_id), party=party, action=consent_pb2.Action.Value(f"ACTION_{action.upper()}")
        )
        return await self._call("ConsentService", "ExplainAccess", request, consent_pb2.ExplainAccessResponse)

    async def history(self, health_id: int) -> list[consent_pb2.ConsentEvent]:
        """The changes of consent of a dossier, newest first."""
        found: list[consent_pb2.ConsentEvent] = []
        page = ""
        while True:
            request = consent_pb2.ListConsentEventsRequest(
                parent=dossier_name(health_id), page_size=200, page_token=page
            )
            answer = await self._call(
                "ConsentService", "ListConsentEvents", request, consent_pb2.ListConsentEventsResponse
            )
            found += answer.events
            page = answer.next_page_token
            if not page:
                return found

    async def _call(self, service: str, method: str, request: Message, response: type[Response]) -> Response:
        token = await self._session.token(self._statement)
        invoke: Any = self._session.channel("consent", OPERATOR).unary_unary(f"/dmp.consent.v1.{service}/{method}")
        try:
            data = await invoke(
                request.SerializeToString(), metadata=(("authorization", f"Bearer {token}"),), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None
        return response.FromString(data)


def read_tables(directory: Path) -> rights_pb2.RightsTables:
    """The two tables in a directory. OSError when one is not there."""
    return rights_pb2.RightsTables(
        functional_rights_csv=(directory / FUNCTIONAL_RIGHTS).read_text(encoding="utf-8"),
        document_type_denials_csv=(directory / TYPE_DENIALS).read_text(encoding="utf-8"),
    )


def write_tables(tables: rights_pb2.RightsTables, directory: Path) -> None:
    """Write the two tables into a directory, made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FUNCTIONAL_RIGHTS).write_text(tables.functional_rights_csv, encoding="utf-8")
    (directory / TYPE_DENIALS).write_text(tables.document_type_denials_csv, encoding="utf-8")
