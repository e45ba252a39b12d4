"""Where an actor holds, or held, an authorisation of its own: what lets document order a caller's dossiers (TD0.4).

It says where to look. Whoever looks asks for each dossier (ACTION_SEARCH_HELD), whose own facts decide.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.changes import Clock
from services.consent.checking import AccessChecks, Check, read_actor_of, write_decision
from services.runtime.errors import DmpError
from services.runtime.postgres import Pool, translate

MOST: Final = 20_000
"""How many are named at most. A professional's patients of a year are some thousands."""


class HeldDossiers:
    """Names them. `validity` is how long an authorisation lasts: older ones are left out where there are too many."""

    def __init__(
        self, pool: Pool, checks: AccessChecks, validity: timedelta, clock: Clock, *, most: int = MOST
    ) -> None:
        self._pool = pool
        self._checks = checks
        self._validity = validity
        self._clock = clock
        self._most = most

    async def name(self, request: pb.ListHeldDossiersRequest, timeout: float | None) -> pb.ListHeldDossiersResponse:
        """The dossiers, or why the actor may not list any; SEARCH_TOO_BROAD when more might be valid than are named."""
        actor = read_actor_of(request.context.actor)
        _, decision = await self._checks.judge(Check(actor, 0, pb.ACTION_SEARCH_HELD), timeout)
        response = pb.ListHeldDossiersResponse(decision=write_decision(decision))
        if decision.reason is not None:
            return response
        try:
            rows = await store.held(self._pool, actor.own(), self._most + 1)
            others = await store.linked(self._pool, [row.health_id for row in rows])
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
            raise translate(error) from error
        if len(rows) > self._most and rows[-1].granted_at > self._clock() - self._validity:
            raise DmpError(reasons.ERROR_REASON_SEARCH_TOO_BROAD)
        for row in rows[: self._most]:
            response.held.add(health_id=row.health_id, linked=others.get(row.health_id, ()))
        return response
