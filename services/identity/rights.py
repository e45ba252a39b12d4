"""Whether the rights table lets a caller read or change who a person is (TD1.3), or search without the INS (TD0.5).

Consent decides, as for every other act of a partner or a patient. Administrative data are no content of the dossier: no
authorisation is needed for them, and a person is registered, and corrected, before there is a dossier. Registers and
operators of the platform have no row in the table; the access rule of the method bounds what they do.
"""

from __future__ import annotations

from typing import Final, Protocol

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.runtime.checks import refusal
from services.runtime.context import Call
from services.runtime.errors import DmpError

_ASKED_FOR: Final = frozenset({access_pb2.CALLER_KIND_PARTNER, access_pb2.CALLER_KIND_PATIENT})
_OF_THE_DOSSIER_ALONE: Final = frozenset(
    {
        reasons.ERROR_REASON_DOSSIER_NOT_FOUND,
        reasons.ERROR_REASON_DOSSIER_CLOSED,
        reasons.ERROR_REASON_AUTHORIZATION_MISSING,
        reasons.ERROR_REASON_AUTHORIZATION_EXPIRED,
    }
)


class Checks(Protocol):
    """Consent's decisions (services.runtime.checks.AccessChecks)."""

    async def check(self, call: Call, health_id: int, action: consent_pb2.Action.ValueType) -> consent_pb2.Decision: ...


class Rights:
    """Asks consent."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    @staticmethod
    def require_register(call: Call) -> None:
        """Raise RIGHT_DENIED to who takes over a host's dossiers: it is told of people by their dossiers, and looks
        through no register."""
        if call.actor.takes_over_host:
            raise DmpError(reasons.ERROR_REASON_RIGHT_DENIED)

    async def require(self, call: Call, health_id: int, action: consent_pb2.Action.ValueType) -> None:
        """Return when the caller may; raises consent's refusal, or what keeps consent from deciding."""
        if call.caller not in _ASKED_FOR:
            return
        decision = await self._checks.check(call, health_id, action)
        # Who takes over a host's dossiers is told of the people who have one there, and of nobody else.
        passed_over = frozenset[int]() if call.actor.takes_over_host else _OF_THE_DOSSIER_ALONE
        if not decision.permitted and decision.reason not in passed_over:
            raise refusal(decision)
