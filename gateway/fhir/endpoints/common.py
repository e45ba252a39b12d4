"""What the endpoints share: who a link names, ids that are ours, refusals that no service has seen.

A person whom identity does not know and a person without a dossier get the same answer, so that a search tells nobody
who is registered: DOSSIER_NOT_FOUND (404, XDSUnknownPatientId) for what needs a dossier, no entry for TD0.2.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import UTC
from email.utils import format_datetime
from typing import Any, Final, NoReturn, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.external_ids import ExternalIds
from gateway.fhir.backend import Backend
from gateway.fhir.document_out import Links
from gateway.fhir.exchange import Exchange
from gateway.fhir.field_paths import translate
from gateway.fhir.identifiers import PatientLink, mismatch
from gateway.fhir.interaction import access_of
from gateway.fhir.rpcs import Rpc
from services.runtime.errors import DmpError, FieldViolation

T = TypeVar("T")

_OF_ANOTHER: Final = reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
NOBODY: Final = frozenset(
    {
        reasons.ERROR_REASON_UNKNOWN_PATIENT,
        reasons.ERROR_REASON_PERSON_NOT_FOUND,
        reasons.ERROR_REASON_DOSSIER_NOT_FOUND,
    }
)


class Endpoints:
    """Endpoints over one backend."""

    def __init__(self, backend: Backend, ids: ExternalIds, base_url: str) -> None:
        self._backend = backend
        self._ids = ids
        self._links = Links(base_url, ids)

    async def _health_id(self, exchange: Exchange, link: PatientLink) -> int:
        """The dossier that a link names. A caller bound to one patient learns nothing of others."""
        caller = exchange.caller
        stated = await self._read_patient_id(exchange, link.patient_id, link.field) if link.patient_id else None
        if link.identifier is None:
            return stated if stated is not None else 0
        try:
            health_id = await self._backend.resolve(caller, link.identifier)
        except DmpError as error:
            if error.reason not in NOBODY:
                raise translate(error, lambda _: link.field) from None
            health_id = None
        if health_id is None:
            bound = bool(caller.actor.patient_health_id)
            await self._refuse(exchange, DmpError(_OF_ANOTHER) if bound else nobody(link.field))
        elif stated not in (None, health_id):
            await self._refuse(exchange, mismatch(link.field, "reference and identifier name different patients"))
        return health_id or 0

    async def _read_patient_id(self, exchange: Exchange, text: str, field: str) -> int:
        try:
            return self._ids.read("Patient", text)[0]
        except DmpError:
            await self._refuse(exchange, nobody(field))

    async def _read_id(self, exchange: Exchange, kind: str, text: str | None = None) -> tuple[int, uuid.UUID]:
        """(health id, uuid) of the external id in the path, or of `text`."""
        try:
            return self._ids.read(kind, exchange.request.path_params["id"] if text is None else text)
        except DmpError as error:
            await self._refuse(exchange, error)

    async def _require(self, exchange: Exchange, transaction: str, rpc: Rpc[Any, Any]) -> None:
        """Return if the token has the scope of a transaction that shares its path; else the refusal is recorded."""
        access = access_of(rpc)
        await self._backend.require_scope(
            exchange.caller, frozenset({transaction}), access.audit_action, access.transaction
        )

    async def _refuse(self, exchange: Exchange, error: DmpError) -> NoReturn:
        """Raise a refusal that no service has seen, once it is in the trail."""
        access = exchange.interaction.access
        await self._backend.record_refusal(
            exchange.caller, error, audit_action=access.audit_action, transaction=access.transaction
        )
        raise error

    @staticmethod
    async def _or_nobody(call: Awaitable[T], field: str) -> T:
        try:
            return await call
        except DmpError as error:
            if error.reason in NOBODY:
                raise nobody(field) from None
            raise


def nobody(field: str) -> DmpError:
    """The one answer for a person whom nobody knows and for one without a dossier."""
    fields = [FieldViolation(field, "dossier", "no dossier belongs to this patient")]
    return DmpError(reasons.ERROR_REASON_DOSSIER_NOT_FOUND, fields=fields)


def http_date(moment: Timestamp) -> str:
    """A timestamp as HTTP writes it."""
    return format_datetime(moment.ToDatetime(tzinfo=UTC).replace(microsecond=0), usegmt=True)
