"""Who the attending physicians of dossiers are, for the one service that has notices for them. Decides nothing."""

from __future__ import annotations

from typing import Final

from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.changes import Clock
from services.runtime.postgres import Pool, translate

READER: Final = "audit"
"""The only service that may ask."""


class AttendingPhysicians:
    """Lists them."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def list(self, request: pb.BatchListAttendingPhysiciansRequest) -> pb.BatchListAttendingPhysiciansResponse:
        """Of each dossier, in order, those whose authorisation is valid now and whom the patient has not shut out."""
        try:
            linked = await store.linked(self._pool, request.health_ids)
            asked = {*request.health_ids, *(other for others in linked.values() for other in others)}
            found = await store.grantees_of_many(self._pool, sorted(asked))
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
            raise translate(error) from error
        now, response = self._clock(), pb.BatchListAttendingPhysiciansResponse()
        for health_id in request.health_ids:
            members = (health_id, *linked.get(health_id, ()))
            shut_out = {each.grantee for one in members for each in found.get(one, ()) if each.blocked_at is not None}
            response.results.add(
                idnps=[
                    each.grantee.id
                    for each in found.get(health_id, ())
                    if each.grantee not in shut_out
                    and each.authorization is not None
                    and each.authorization.attending_physician
                    and now < each.authorization.expires_at
                ]
            )
        return response
