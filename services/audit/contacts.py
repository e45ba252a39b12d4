"""Asking identity where a patient can be written to. An address is held while one mail is sent, and nowhere kept."""

from __future__ import annotations

from typing import Final

from dmp.identity.v1 import identity_pb2
from services.runtime.channels import Peer

_READ: Final = "/dmp.identity.v1.IdentityService/BatchReadContacts"
_TIMEOUT: Final = 5.0


class Contacts:
    """Mail addresses of patients. Raises DmpError when identity does not answer: the notice is tried again."""

    def __init__(self, identity: Peer) -> None:
        self._read = identity.unary(
            _READ, identity_pb2.BatchReadContactsRequest, identity_pb2.BatchReadContactsResponse
        )

    async def email(self, health_id: int) -> str:
        """The address; empty when the person gave none."""
        answer = await self._read(identity_pb2.BatchReadContactsRequest(health_ids=[health_id]), timeout=_TIMEOUT)
        return answer.emails[0] if len(answer.emails) == 1 else ""
