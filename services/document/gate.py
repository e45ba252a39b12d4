"""The way in for each call: consent is asked first, and every refusal is in the trail before it is answered.

No rule about documents lives here: what is refused and why is decided by those who call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.document.linked import NOWHERE, Elsewhere
from services.runtime.checks import refusal
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.trail import Trail, build_event, served_event

_log = structlog.get_logger("document")


class Checks(Protocol):
    """Consent's decisions (services.runtime.checks.AccessChecks)."""

    async def check(self, call: Call, health_id: int, action: consent_pb2.Action.ValueType) -> consent_pb2.Decision: ...
    async def check_all(
        self, calls: Sequence[Call], action: consent_pb2.Action.ValueType
    ) -> Sequence[consent_pb2.Decision | DmpError]: ...
    async def held(self, call: Call) -> consent_pb2.ListHeldDossiersResponse: ...


class Gate:
    """Decides by consent, and records."""

    def __init__(self, checks: Checks, trail: Trail) -> None:
        self._checks = checks
        self._trail = trail

    async def enter(
        self, call: Call, action: consent_pb2.Action.ValueType, objects: Sequence[str] = ()
    ) -> consent_pb2.Decision:
        """Consent's yes. A no is recorded and raised; what keeps consent from deciding is raised."""
        decision = await self._checks.check(call, call.health_id, action)
        await self.heed(call, decision, objects)
        return decision

    async def heed(self, call: Call, decision: consent_pb2.Decision, objects: Sequence[str] = ()) -> None:
        """Return when consent has said yes. A no is recorded and raised."""
        if not decision.permitted:
            raise await self.denied(call, decision, refusal(decision), objects=objects)

    async def enter_or(
        self, call: Call, action: consent_pb2.Action.ValueType, lesser: consent_pb2.Action.ValueType
    ) -> tuple[consent_pb2.Decision, bool]:
        """Consent's yes to an action, or (True) to a lesser one. A no to both is recorded and raised as that to the
        first."""
        decision = await self._checks.check(call, call.health_id, action)
        if decision.permitted:
            return decision, False
        instead = await self._checks.check(call, call.health_id, lesser)
        if instead.permitted:
            return instead, True
        raise await self.denied(call, decision, refusal(decision))

    async def asked(self, call: Call, action: consent_pb2.Action.ValueType) -> consent_pb2.Decision:
        """Consent's answer, a no too. Nothing is recorded."""
        return await self._checks.check(call, call.health_id, action)

    async def decisions(
        self, calls: Sequence[Call], action: consent_pb2.Action.ValueType
    ) -> Sequence[consent_pb2.Decision | DmpError]:
        """Consent's answers to many calls at once, a no too. Nothing is recorded."""
        return await self._checks.check_all(calls, action)

    async def held(self, call: Call) -> tuple[consent_pb2.Decision, Sequence[consent_pb2.HeldDossier]]:
        """Consent's yes to listing dossiers by document, and where to look. A no is recorded and raised."""
        answer = await self._checks.held(call)
        if answer.decision.permitted:
            return answer.decision, answer.held
        raise await self.denied(call, answer.decision, refusal(answer.decision))

    async def may_list(self, call: Call, health_ids: Sequence[int]) -> Sequence[consent_pb2.Decision]:
        """Consent's answers on listing dossiers by their last document: a no is nobody's who asked for it by name."""
        calls = [call.within(health_id) for health_id in health_ids]
        answers = await self.decisions(calls, consent_pb2.ACTION_SEARCH_HELD)
        decisions = []
        for answer in answers:
            if isinstance(answer, DmpError):
                raise answer
            decisions.append(answer)
        return decisions

    async def denied(
        self,
        call: Call,
        decision: consent_pb2.Decision,
        error: DmpError,
        *,
        reason: int = 0,
        objects: Sequence[str] = (),
    ) -> DmpError:
        """Record a refusal by a rule, for its true `reason` where the caller is told another; gives what to raise."""
        return await self._record(call, audit_pb2.OUTCOME_DENIED, error, reason or error.reason, decision, objects)

    async def rejected(self, call: Call, decision: consent_pb2.Decision, error: DmpError) -> DmpError:
        """Record that the request was wrong; gives what to raise. What is undecided is given back unrecorded."""
        return await self._record(call, audit_pb2.OUTCOME_REJECTED, error, error.reason, decision, ())

    async def served(
        self,
        call: Call,
        decision: consent_pb2.Decision,
        objects: Sequence[str],
        result_count: int = 0,
        elsewhere: Elsewhere = NOWHERE,
    ) -> None:
        """Return when the access is durable in the trail: nothing may be sent before.

        What is shown of other dossiers of the person is also in their own trails, which outlast the link.
        """
        event = build_event(
            call,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            objects=objects,
            epoch=decision.epoch,
            result_count=result_count,
            basis=decision.basis,
        )
        if elsewhere:
            entered = (self._entered(call, decision, health_id, names) for health_id, names in elsewhere.items())
            await asyncio.gather(*entered)
        await self._trail.record(event, call.remaining())

    async def all_served(
        self, accesses: Sequence[tuple[Call, consent_pb2.Decision, Sequence[str]]]
    ) -> list[DmpError | None]:
        """As `served` for many calls, each with what it shows of its own dossier. The error of each whose access is not
        durable: nothing of it may be sent."""
        events = [served_event(call, objects, decision.epoch, decision.basis) for call, decision, objects in accesses]
        return await self._trail.record_all(events)

    async def _entered(self, call: Call, decision: consent_pb2.Decision, health_id: int, names: Sequence[str]) -> None:
        event = build_event(
            call,
            outcome=audit_pb2.OUTCOME_SUCCESS,
            health_id=health_id,
            objects=names,
            result_count=len(names),
            basis=decision.basis,
        )
        await self._trail.record(event, call.remaining())

    async def record_work(self, call: Call, objects: Sequence[str], count: int) -> None:
        """Return when an operator's work is durable in the trail."""
        event = build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS, objects=objects, result_count=count)
        await self._trail.record(event, call.remaining())

    async def _record(
        self,
        call: Call,
        outcome: audit_pb2.Outcome.ValueType,
        error: DmpError,
        reason: int,
        decision: consent_pb2.Decision,
        objects: Sequence[str],
    ) -> DmpError:
        if error.reason == reasons.ERROR_REASON_CONTENT_CORRUPTED:
            _log.error("content_corrupted", action=call.method.audit_action, request_id=call.request_id)
        await self._trail.refuse(call, error, outcome=outcome, reason=reason, objects=objects, epoch=decision.epoch)
        return error
