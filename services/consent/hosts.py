"""All dossiers of a home host, page by page: for who takes them over, and for operators (domain §6).

Whoever takes over a host's dossiers may ask of each of them (its row of the rights table says so) and so is told which
they are. Nothing here changes anything; the RPC records the listing in the trail of each dossier before it is answered.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import acts, store
from services.consent.acting import Actor, read_actor
from services.consent.action_cells import CHECK_DOSSIER
from services.consent.changes import Clock
from services.consent.checking import AccessChecks
from services.consent.functional_rights import Right
from services.consent.mapping import write_consent, write_dossier, write_representative, write_standing
from services.consent.values import Refused
from services.runtime.context import Call
from services.runtime.errors import invalid
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool
from services.runtime.validation import validate

_PAGE: Final = 50


class Listed(NamedTuple):
    """A dossier that is told of, at its epoch."""

    health_id: int
    epoch: int


class HostDossiers:
    """Lists."""

    def __init__(self, pool: Pool, checks: AccessChecks, tokens: PageTokens, clock: Clock) -> None:
        self._pool = pool
        self._checks = checks
        self._tokens = tokens
        self._clock = clock

    async def list(
        self, request: pb.ListHostDossiersRequest, call: Call
    ) -> tuple[pb.ListHostDossiersResponse, list[Listed]]:
        """A page. RIGHT_DENIED to who takes over no host, or another one than he names."""
        host = await self._host(request.home_host, read_actor(call.actor), call)
        validate(request)
        if not host:
            raise invalid("home_host", "required", "an operator names the host")
        size = request.page_size or _PAGE
        scope = page_scope(call.method.path.encode(), host.encode(), call.client_id.encode())
        after = int.from_bytes(self._tokens.read(request.page_token, scope), "big") if request.page_token else 0
        dossiers = await store.of_host(self._pool, host, after, size + 1)
        response = pb.ListHostDossiersResponse()
        if len(dossiers) > size:
            response.next_page_token = self._tokens.issue(scope, dossiers[size - 1].health_id.to_bytes(8, "big"))
            dossiers = dossiers[:size]
        health_ids = [each.health_id for each in dossiers]
        grantees = await store.grantees_of_many(self._pool, health_ids)
        representatives = await store.representatives_of_many(self._pool, health_ids)
        now = self._clock()
        for dossier in dossiers:
            response.dossiers.add(
                dossier=write_dossier(dossier),
                consent=None if dossier.consent is None else write_consent(dossier.consent),
                standings=[write_standing(each, now) for each in grantees.get(dossier.health_id, ())],
                representatives=[write_representative(e, now) for e in representatives.get(dossier.health_id, ())],
            )
        return response, [Listed(each.health_id, each.epoch) for each in dossiers]

    async def _host(self, named: str, actor: Actor, call: Call) -> str:
        """Whose dossiers are listed: the caller's own, or those that an operator names."""
        if actor.platform == acts.OPERATOR and actor.complete:
            return named
        found = await self._checks.find(actor, 0, call.remaining())
        entitled = actor.complete and actor.for_care and actor.takes_over and named in ("", actor.takes_over)
        if not entitled or found.rights.right(CHECK_DOSSIER, actor.context) is not Right.YES:
            raise Refused(reasons.ERROR_REASON_RIGHT_DENIED)
        return actor.takes_over
