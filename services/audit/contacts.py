"""Asking where a notice can be sent: identity knows addresses, consent who the attending physicians are. An address is
held while one mail is sent, and nowhere kept.
"""

from __future__ import annotations

from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2
from services.runtime.channels import Peer
from services.runtime.errors import DmpError

_READ: Final = "/dmp.identity.v1.IdentityService/BatchReadContacts"
_ATTENDING: Final = "/dmp.consent.v1.ConsentService/BatchListAttendingPhysicians"
_TIMEOUT: Final = 5.0


class Contacts:
    """Mail addresses. Raises DmpError when identity or consent does not answer: the notice is tried again."""

    def __init__(self, identity: Peer, consent: Peer) -> None:
        self._read = identity.unary(
            _READ, identity_pb2.BatchReadContactsRequest, identity_pb2.BatchReadContactsResponse
        )
        self._attending = consent.unary(
            _ATTENDING,
            consent_pb2.BatchListAttendingPhysiciansRequest,
            consent_pb2.BatchListAttendingPhysiciansResponse,
        )

    async def email(self, health_id: int) -> str:
        """The address of a dossier's patient; empty when the person gave none. CONTENT_CORRUPTED when identity cannot
        read whether there is one."""
        answer = await self._read(identity_pb2.BatchReadContactsRequest(health_ids=[health_id]), timeout=_TIMEOUT)
        if answer.unreadable:
            raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED)
        return answer.emails[0] if len(answer.emails) == 1 else ""

    async def physicians(self, health_id: int) -> list[str]:
        """The addresses of a dossier's attending physicians, of those that the directory has one of."""
        asked = consent_pb2.BatchListAttendingPhysiciansRequest(health_ids=[health_id])
        named = await self._attending(asked, timeout=_TIMEOUT)
        idnps = [each for result in named.results for each in result.idnps]
        if not idnps:
            return []
        answer = await self._read(identity_pb2.BatchReadContactsRequest(idnps=idnps), timeout=_TIMEOUT)
        return [email for email in answer.professional_emails if email]
