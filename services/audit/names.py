"""Asking identity whether who entered a dossier bears its patient's name. No name comes back, and none is kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from dmp.identity.v1 import identity_pb2
from services.runtime.channels import Peer
from services.runtime.errors import unavailable

_COMPARE: Final = "/dmp.identity.v1.IdentityService/BatchCompareNames"
_log: Final = logging.getLogger(__name__)
_AT_ONCE: Final = 256
_TIMEOUT: Final = 5.0


class NameComparison:
    """Compares names in batches. Raises DmpError when identity does not answer: what waits for it is tried again."""

    def __init__(self, identity: Peer) -> None:
        self._compare = identity.unary(
            _COMPARE, identity_pb2.BatchCompareNamesRequest, identity_pb2.BatchCompareNamesResponse
        )

    async def same(self, asked: Sequence[tuple[int, str]]) -> list[bool]:
        """Whether each name holds a family name of the patient of the dossier beside it."""
        found: list[bool] = []
        for start in range(0, len(asked), _AT_ONCE):
            request = identity_pb2.BatchCompareNamesRequest()
            for health_id, name in asked[start : start + _AT_ONCE]:
                request.requests.add(health_id=health_id, name=name)
            answer = await self._compare(request, timeout=_TIMEOUT)
            same = answer.same_family_names
            if len(same) != len(request.requests):
                raise unavailable("identity")
            if answer.unreadable:
                _log.error("%d names not compared: records of the register are damaged", len(answer.unreadable))
            found += same
        return found
