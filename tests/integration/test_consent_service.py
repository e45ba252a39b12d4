"""Consent on a real PostgreSQL: the life of a dossier, who asks about it, and many questions at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from asyncpg.connection import LoggedQuery

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.runtime.errors import DmpError
from services.runtime.identifiers import new_health_id
from tests.consent_service import (
    BREAK_GLASS,
    NOW,
    NURSE,
    PHYSICIAN,
    REGULATION,
    STRUCTURE,
    Consent,
    check_request,
    message_bytes,
    patient,
    professional,
)
from tests.refusals import refused

# --- the life of a dossier --------------------------------------------------------------------------------------------


async def test_the_consent_is_kept_with_the_opening_in_the_dossier_in_the_history_and_in_the_trail(
    consent: Consent,
) -> None:
    dossier = await consent.open()
    row = await consent.pool.fetchrow("SELECT * FROM dossier")
    assert row is not None
    assert (row["health_id"], row["state"], row["epoch"]) == (dossier, "open", 1)
    assert (row["consent_collected_at"], row["consent_method"], row["consent_given_by"]) == (NOW, "oral", "patient")
    history = await consent.pool.fetchrow("SELECT * FROM consent_event")
    assert history is not None
    assert (history["epoch"], history["kind"]) == (1, "dossier.open")
    assert json.loads(history["payload"])["consent"]["method"] == "oral"
    assert ActingContext.FromString(history["actor"]) == professional()
    (event,) = await consent.told()
    assert (event.action, event.health_id, event.epoch) == ("dossier.open", dossier, 1)
    assert event.outcome == audit_pb2.OUTCOME_SUCCESS
    assert {change.attribute for change in event.changes} >= {"state", "consent"}
    assert consent.kicks == [1]


async def test_emergency_access_is_not_opposed_unless_said(consent: Consent) -> None:
    dossier = (await consent.get(await consent.open())).dossier
    assert not dossier.break_glass_opposed
    assert not dossier.regulation_opposed


async def test_of_many_openings_at_once_exactly_one_succeeds(consent: Consent) -> None:
    dossier = new_health_id()
    outcomes = await asyncio.gather(*(consent.open(dossier) for _ in range(16)), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, DmpError)]
    assert [failure.reason_name for failure in failures] == ["DOSSIER_ALREADY_EXISTS"] * 15
    assert await consent.pool.fetchval("SELECT count(*) FROM consent_event") == 1
    assert len(consent.events.recorded) == 15


async def test_many_identical_requests_to_open_are_one_opening_with_one_answer(consent: Consent) -> None:
    dossier = new_health_id()
    await asyncio.gather(*(consent.open(dossier, request_id="the-same-one") for _ in range(16)))
    assert await consent.pool.fetchval("SELECT count(*) FROM outbox") == 1


async def test_a_request_id_used_again_with_another_body_is_refused(consent: Consent) -> None:
    dossier = await consent.open(request_id="request-id-1")
    with refused(reasons.ERROR_REASON_REQUEST_ID_REUSED):
        await consent.open(dossier, request_id="request-id-1", break_glass_opposed=True)


async def test_opening_a_closed_dossier_says_that_it_is_closed(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.close(dossier)
    with refused(reasons.ERROR_REASON_DOSSIER_CLOSED):
        await consent.open(dossier)


async def test_consent_cannot_have_been_given_after_the_opening(consent: Consent) -> None:
    with pytest.raises(DmpError) as caught:
        await consent.open(collected=NOW + timedelta(hours=1))
    assert [violation.field for violation in caught.value.fields] == ["consent.collect_time"]
    assert await consent.pool.fetchval("SELECT count(*) FROM dossier") == 0
    assert [event.outcome for event in consent.events.recorded] == [audit_pb2.OUTCOME_REJECTED]


async def test_a_job_of_the_platform_opens_nothing_and_the_refusal_is_recorded(consent: Consent) -> None:
    job = ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="nightly-job")
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.open(actor=job)
    (event,) = consent.events.recorded
    assert (event.outcome, event.reason) == (audit_pb2.OUTCOME_DENIED, reasons.ERROR_REASON_RIGHT_DENIED)


async def test_nobody_opens_a_dossier_in_an_emergency_mode(consent: Consent) -> None:
    for mode in (BREAK_GLASS, REGULATION):
        with refused(reasons.ERROR_REASON_RIGHT_DENIED):
            await consent.open(actor=professional(mode=mode))


async def test_closing_shuts_everyone_out_and_closing_twice_is_an_error(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    assert (await consent.check(dossier)).permitted
    closed = await consent.close(dossier)
    assert (closed.state, closed.close_reason) == (pb.DOSSIER_STATE_CLOSED, pb.CLOSE_REASON_PATIENT_REQUEST)
    for actor in (professional(), professional(mode=BREAK_GLASS), patient(dossier)):
        decision = await consent.check(dossier, actor)
        assert (decision.permitted, decision.reason) == (False, reasons.ERROR_REASON_DOSSIER_CLOSED)
        assert decision.epoch == 3
    with refused(reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED):
        await consent.close(dossier)


async def test_a_repeated_closing_with_the_same_request_id_gets_the_first_answer(consent: Consent) -> None:
    dossier = await consent.open()
    first = await consent.close(dossier, request_id="request-id-2")
    again = await consent.close(dossier, request_id="request-id-2")
    assert message_bytes(first) == message_bytes(again)
    assert await consent.pool.fetchval("SELECT epoch FROM dossier") == 2


async def test_a_professional_closes_on_the_patients_request_only(consent: Consent) -> None:
    dossier = await consent.open()
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.close(dossier, professional(), reason=pb.CLOSE_REASON_DEATH)
    await consent.close(dossier, professional())


async def test_a_reason_that_the_contract_does_not_know_names_its_field(consent: Consent) -> None:
    dossier = await consent.open()
    with pytest.raises(DmpError) as caught:
        await consent.close(dossier, reason=pb.CLOSE_REASON_UNSPECIFIED)
    assert [violation.field for violation in caught.value.fields] == ["reason"]


# --- TD0.2 ------------------------------------------------------------------------------------------------------------


async def test_who_asks_about_a_dossier_is_recorded_before_the_answer(consent: Consent) -> None:
    dossier = await consent.open()
    answer = await consent.get(dossier)
    assert answer.caller_authorization == pb.AUTHORIZATION_STATE_NONE
    (event,) = consent.events.recorded
    assert (event.action, event.outcome, event.epoch) == ("dossier.check", audit_pb2.OUTCOME_SUCCESS, 1)
    consent.events.down = True
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await consent.get(dossier)


async def test_asking_for_a_dossier_that_does_not_exist_is_recorded_too(consent: Consent) -> None:
    with refused(reasons.ERROR_REASON_DOSSIER_NOT_FOUND):
        await consent.get(new_health_id())
    assert [event.reason for event in consent.events.recorded] == [reasons.ERROR_REASON_DOSSIER_NOT_FOUND]


async def test_a_closed_dossier_is_told_with_its_date_and_reason(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.close(dossier)
    told = (await consent.get(dossier)).dossier
    assert (told.state, told.close_reason) == (pb.DOSSIER_STATE_CLOSED, pb.CLOSE_REASON_PATIENT_REQUEST)
    assert told.HasField("close_time")


async def test_a_refusal_that_cannot_be_recorded_is_not_answered_as_a_refusal(consent: Consent) -> None:
    consent.events.down = True
    with refused(reasons.ERROR_REASON_AUDIT_UNAVAILABLE):
        await consent.grant(new_health_id())


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_each_item_of_a_batch_is_answered_in_its_own_place(consent: Consent) -> None:
    mine, closed, unknown = await consent.open(), await consent.open(), new_health_id()
    await consent.grant(mine)
    await consent.close(closed)
    items = [
        check_request(mine, professional()),
        check_request(mine, professional(), pb.ACTION_UNSPECIFIED),
        check_request(closed, professional()),
        check_request(unknown, professional()),
        check_request(mine, ActingContext()),
        check_request(mine, professional("bad\0subject")),
        check_request(mine, professional(NURSE, "60")),
        check_request(mine, professional()),
    ]
    results = (await consent.batch(items)).results
    assert [result.decision.permitted for result in results] == [True, *[False] * 6, True]
    assert results[1].WhichOneof("outcome") == "status"
    assert [result.decision.reason for result in results if not result.decision.permitted][1:] == [
        reasons.ERROR_REASON_DOSSIER_CLOSED,
        reasons.ERROR_REASON_DOSSIER_NOT_FOUND,
        reasons.ERROR_REASON_ACTING_CONTEXT_INVALID,
        reasons.ERROR_REASON_ACTING_CONTEXT_INVALID,
        reasons.ERROR_REASON_AUTHORIZATION_MISSING,
    ]


@pytest.mark.parametrize("size", [1, 7, 256])
async def test_a_batch_is_one_statement_whatever_its_size(consent: Consent, size: int) -> None:
    dossier = await consent.open()
    with counted_statements(consent) as statements:
        await consent.batch([check_request(dossier, professional()) for _ in range(size)])
    assert len(statements) == 1


async def test_concurrent_batches_share_a_statement_but_none_joins_one_already_sent(consent: Consent) -> None:
    dossier = await consent.open()
    with counted_statements(consent) as statements:
        await asyncio.gather(*(consent.check(dossier) for _ in range(40)))
    assert len(statements) <= 3


async def test_when_the_database_is_gone_nothing_is_permitted(consent: Consent) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    await consent.pool.close()
    with refused(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE):
        await consent.check(dossier)


# --- plans ------------------------------------------------------------------------------------------------------------


async def test_every_statement_of_the_request_path_uses_its_index(consent: Consent) -> None:
    await consent.pool.execute(_MANY_DOSSIERS)
    await consent.pool.execute(_MANY_GRANTS)
    await consent.pool.execute(_MANY_OTHERS)
    await consent.pool.execute("ANALYZE")
    batch = ([1, 2, 3], [PHYSICIAN] * 3, [STRUCTURE] * 3, [0] * 3)
    grantee = (PHYSICIAN, "professional")
    for statement, arguments in (
        (store.FACTS, batch),
        (store.STANDINGS, batch),
        (store.LOCK, (1,)),
        (store.AUTHORIZATIONS, (1, [PHYSICIAN])),
        (store.MEMBERS, (1,)),
        (store.BLOCKS, ([1, 2], [PHYSICIAN])),
        (store.HIDDEN, (1, [PHYSICIAN])),
        (store.LAST_OF_KIND, (1, "dossier.link")),
        (store.REPRESENTATIONS, (1, [2])),
        (store.EVENTS, (1, 9, 5)),
        (store.EVENTS_UNTIL, (1, 9)),
        (store.GRANTEES, (1, "", "", True, 5)),
        (store.REPRESENTATIVES, (1,)),
        (store.REPRESENTED, (2,)),
        (store.ACCESSIBLE, (*grantee, NOW, NOW, 1, 5)),
        (store.HELD, (*grantee, 5)),
        (store.LINKED, ([1, 2, 3],)),
        (store.DUE, (NOW, NOW, 1, 5)),
        (store.OF_HOST, ("national", 1, 5)),
        (store.GRANTEES_OF_MANY, ([1, 2, 3],)),
        (store.REPRESENTATIVES_OF_MANY, ([1, 2, 3],)),
    ):
        plan = await explained(consent, statement, arguments)
        assert "Index" in plan
        assert "Seq Scan" not in plan.replace("Seq Scan on rights_in_force", ""), plan  # a table of one row


_MANY_DOSSIERS = """
INSERT INTO dossier
SELECT number, 'open', 1, now(), NULL, NULL, false, false, false, 'national', now(), 'oral', 'patient'
FROM generate_series(1, 5000) AS number
"""
_MANY_OTHERS = """
WITH people AS (
    INSERT INTO representation SELECT number, number + 1, 'guardian', now(), NULL
    FROM generate_series(1, 5000) AS number
), linked AS (
    INSERT INTO linked_set SELECT number, 1, ARRAY[number] FROM generate_series(1, 5000) AS number
), listed AS (
    INSERT INTO represented SELECT number + 1, number FROM generate_series(1, 5000) AS number
), theirs AS (
    INSERT INTO grantee_dossier SELECT '8' || place, 'professional', number, now()
    FROM generate_series(1, 5000) AS number, generate_series(1, 4) AS place
), due AS (
    INSERT INTO deadline SELECT number, 'destruction', '', now() + interval '1 year'
    FROM generate_series(1, 5000) AS number
)
INSERT INTO consent_event SELECT number, epoch, 'dossier.open', '{}', '', 'r', now()
FROM generate_series(1, 5000) AS number, generate_series(1, 4) AS epoch
"""
_MANY_GRANTS = """
WITH granted AS (
    INSERT INTO access_grant
    SELECT number, 'professional', '8' || place, now(), now() + interval '1 year', false
    FROM generate_series(1, 5000) AS number, generate_series(1, 4) AS place
)
INSERT INTO access_block SELECT number, 'structure', '1' || place, now()
FROM generate_series(1, 5000) AS number, generate_series(1, 2) AS place
"""


async def explained(consent: Consent, statement: str, arguments: tuple[object, ...]) -> str:
    """The plan that a prepared statement has once it is generic, as on the request path."""
    async with consent.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        return "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {statement}", *arguments))


@contextmanager
def counted_statements(consent: Consent) -> Any:
    """The statements that the pool's connections run meanwhile."""
    statements: list[str] = []

    def log(query: LoggedQuery) -> None:
        statements.append(query.query)

    holders: list[Any] = consent.pool._holders  # type: ignore[attr-defined]
    connections = [holder._con for holder in holders if holder._con is not None]
    for connection in connections:
        connection.add_query_logger(log)
    try:
        yield statements
    finally:
        for connection in connections:
            connection.remove_query_logger(log)
