"""What this process refuses before a token's own end: suspended clients and revoked tokens, as the gateway tells it.

The gateway replaces the list of every process of every service when it changes, and repeats it every few seconds while
it is not empty, so that a process that started meanwhile has it too (docs/decisions/0028-suspension.md). An entry ends
when no token that it could stop is valid any more: the list is empty most of the time. Nothing is kept on disk.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.gateway.v1 import denial_pb2
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.validation import validate

_GATEWAY: Final = "gateway"


class DenialList:
    """The list in force. `in` is asked at every call: one look into a dictionary that is nearly always empty."""

    __slots__ = ("_denied", "_now", "version")

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._denied: dict[str, float] = {}
        self._now = now
        self.version = 0

    def __contains__(self, id_: object) -> bool:
        until = self._denied.get(id_)  # type: ignore[call-overload]
        return until is not None and self._now() < until

    def replace(self, version: int, denied: dict[str, float]) -> None:
        """Take this list (id → Unix seconds until when) unless a newer one is in force."""
        if version >= self.version:
            self._denied = dict(denied)
            self.version = version


class DenialServicer:
    """`dmp.gateway.v1.DenialService`, which every service serves."""

    def __init__(self, denials: DenialList) -> None:
        self._denials = denials
        self._process = f"{socket.gethostname()}/{os.getpid()}"

    async def ApplyDenials(
        self, request: denial_pb2.ApplyDenialsRequest, call: Call
    ) -> denial_pb2.ApplyDenialsResponse:
        """Replace the list. CALLER_NOT_ALLOWED for anyone but the gateway."""
        if call.peer != _GATEWAY:
            raise DmpError(reasons.ERROR_REASON_CALLER_NOT_ALLOWED)
        validate(request)
        denied = {denial.client_id or denial.token_id: denial.expire_time.seconds + 1.0 for denial in request.denials}
        self._denials.replace(request.version, denied)
        return denial_pb2.ApplyDenialsResponse(version=self._denials.version, process=self._process)
