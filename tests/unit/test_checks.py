"""Access checks: many at once in one call, each with its own answer, and never a yes that consent did not give."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from services.runtime.access import methods_of
from services.runtime.channels import Peer
from services.runtime.checks import CHECK_ACCESS, LIST_HELD, AccessChecks, refusal
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid, to_status, unavailable

METHODS = methods_of(audit_pb2.DESCRIPTOR.services_by_name.values())
Answer = Callable[[consent_pb2.CheckAccessRequest], consent_pb2.CheckAccessResult]


class FakeConsent:
    """Answers each check by a function; keeps the batches it got."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.batches: list[list[consent_pb2.CheckAccessRequest]] = []
        self.failure: DmpError | None = None
        self.held = asyncio.Event()
        self.held.set()

    def unary(self, path: str, request: type[Any], response: type[Any]) -> Callable[..., Awaitable[Any]]:
        assert path in (CHECK_ACCESS, LIST_HELD)

        async def check(
            batch: consent_pb2.BatchCheckAccessRequest, *, timeout: float
        ) -> consent_pb2.BatchCheckAccessResponse:
            self.batches.append(list(batch.requests))
            await self.held.wait()
            if self.failure is not None:
                raise self.failure
            return consent_pb2.BatchCheckAccessResponse(results=map(self.answer, batch.requests))

        return check

    def unary_written(self, path: str, response: type[Any]) -> Callable[..., Awaitable[Any]]:
        check = self.unary(path, consent_pb2.BatchCheckAccessRequest, response)

        async def written(batch: bytes, *, timeout: float) -> consent_pb2.BatchCheckAccessResponse:
            answer: consent_pb2.BatchCheckAccessResponse = await check(
                consent_pb2.BatchCheckAccessRequest.FromString(batch), timeout=timeout
            )
            return answer

        return written


def by_dossier(request: consent_pb2.CheckAccessRequest) -> consent_pb2.CheckAccessResult:
    decision = consent_pb2.Decision(permitted=request.health_id % 2 == 0, epoch=request.health_id)
    return consent_pb2.CheckAccessResult(decision=decision)


def call(subject: str = "899700245667", deadline: float | None = None) -> Call:
    return Call(
        actor=context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject=subject),
        caller=access_pb2.CALLER_KIND_PARTNER,
        client_id="software",
        peer="gateway",
        request_id="request",
        deadline=deadline,
        traceparent="",
        method=METHODS["/dmp.audit.v1.AuditService/ListEvents"],
    )


def checks_of(consent: FakeConsent) -> AccessChecks:
    return AccessChecks(cast("Peer", consent))


async def test_each_check_gets_its_own_decision_and_many_share_one_call() -> None:
    consent = FakeConsent(by_dossier)
    checks = checks_of(consent)
    decisions = await asyncio.gather(
        *(checks.check(call(str(number)), number, consent_pb2.ACTION_READ) for number in range(1, 101))
    )
    assert [decision.epoch for decision in decisions] == list(range(1, 101))
    assert [decision.permitted for decision in decisions] == [number % 2 == 0 for number in range(1, 101)]
    assert len(consent.batches) == 1
    assert [item.context.actor.subject for item in consent.batches[0]] == [str(number) for number in range(1, 101)]


async def test_a_check_never_joins_a_batch_that_was_sent_before_it_was_asked() -> None:
    consent = FakeConsent(by_dossier)
    checks = AccessChecks(cast("Peer", consent), in_flight=1)
    consent.held.clear()
    first = asyncio.ensure_future(checks.check(call(), 2, consent_pb2.ACTION_READ))
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(checks.check(call(), 4, consent_pb2.ACTION_READ))
    await asyncio.sleep(0.01)
    assert [len(batch) for batch in consent.batches] == [1]
    consent.held.set()
    assert [(await first).epoch, (await second).epoch] == [2, 4]
    assert [[item.health_id for item in batch] for batch in consent.batches] == [[2], [4]]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (consent_pb2.CheckAccessResult(), reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE),
        (
            consent_pb2.CheckAccessResult(status=to_status(invalid("health_id", "gt", "positive"))),
            reasons.ERROR_REASON_INVALID_FIELD,
        ),
    ],
)
async def test_an_item_without_a_decision_is_an_error_and_never_a_yes(
    result: consent_pb2.CheckAccessResult, reason: int
) -> None:
    checks = checks_of(FakeConsent(lambda request: result))
    with pytest.raises(DmpError) as undecided:
        await checks.check(call(), 2, consent_pb2.ACTION_READ)
    assert undecided.value.reason == reason


async def test_a_consent_that_does_not_answer_fails_every_check() -> None:
    consent = FakeConsent(by_dossier)
    consent.failure = unavailable("consent")
    with pytest.raises(DmpError) as failed:
        await checks_of(consent).check(call(), 2, consent_pb2.ACTION_READ)
    assert failed.value.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE


async def test_a_check_ends_with_the_deadline_of_its_call() -> None:
    consent = FakeConsent(by_dossier)
    consent.held.clear()
    with pytest.raises(DmpError) as late:
        await checks_of(consent).check(call(deadline=time.monotonic() + 0.05), 2, consent_pb2.ACTION_READ)
    assert late.value.reason == reasons.ERROR_REASON_DEADLINE_EXCEEDED
    consent.held.set()


def test_a_refusal_has_the_reason_of_the_decision_or_is_a_right_denied() -> None:
    blocked = consent_pb2.Decision(reason=reasons.ERROR_REASON_BLOCKED)
    assert refusal(blocked).reason == reasons.ERROR_REASON_BLOCKED
    assert refusal(consent_pb2.Decision()).reason == reasons.ERROR_REASON_RIGHT_DENIED
