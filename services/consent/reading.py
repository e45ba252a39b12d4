"""What is told of a dossier: its standing, who may enter it, who represents its patient, what changed, and why.

Each of these is an access like any other: decided by the rules, refused with their reason, recorded by the RPC before
it is answered. Nothing here changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent import store
from services.consent.acting import Actor, read_actor
from services.consent.changes import Clock
from services.consent.checking import AccessChecks, Check, Found, write_decision
from services.consent.decision import Applied, Case, Decision, authorised, basis_of, decide, refuse_without_reason
from services.consent.history import HistoryBroken, facts_at, replay, until, without
from services.consent.linked import unite
from services.consent.mapping import (
    read_document,
    read_time,
    write_dossier,
    write_grantee,
    write_optional_time,
    write_representative,
    write_standing,
    write_time,
)
from services.consent.rights_versions import RightsVersions
from services.consent.standing import standing
from services.consent.values import GONE, Facts, Grantee, GranteeKind, Refused
from services.consent.wording import in_words
from services.runtime.context import Call
from services.runtime.errors import invalid
from services.runtime.identifiers import dossier_name
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool
from services.runtime.validation import validate

_PAGE: Final = 50
_LAST: Final = 1 << 62
_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)
_OFFICES: Final = frozenset({"operator"})


@dataclass(frozen=True, slots=True)
class Told:
    """An answer's epoch, how many things it tells of, and what let the caller in, for the trail."""

    epoch: int
    count: int
    basis: int = 0


class Readings:
    """Reads."""

    def __init__(
        self, pool: Pool, checks: AccessChecks, rights: RightsVersions, tokens: PageTokens, clock: Clock
    ) -> None:
        self._pool = pool
        self._checks = checks
        self._rights = rights
        self._tokens = tokens
        self._clock = clock

    async def standing(self, request: pb.GetDossierRequest, call: Call) -> tuple[pb.GetDossierResponse, Told]:
        """TD0.2. A blocked caller is told FORBIDDEN; that much the transaction is for. Operators see no standing."""
        actor = read_actor(call.actor)
        found = await self._checks.find(actor, call.health_id, call.remaining())
        epoch = found.facts.epoch if found.facts else 0
        now = self._clock()
        case = Case(actor, pb.ACTION_CHECK_DOSSIER, call.health_id, found.facts, found.rights, now)
        if actor.platform not in _OFFICES or not actor.complete:
            reason = decide(case).reason
            if reason == reasons.ERROR_REASON_DOSSIER_NOT_FOUND:
                reason = refuse_without_reason(actor)
            if reason is not None:
                raise Refused(reason, epoch)
        validate(request)
        _refuse_gone(found)
        if found.dossier is None or found.facts is None or found.dossier.consent is None:
            raise Refused(reasons.ERROR_REASON_DOSSIER_NOT_FOUND, epoch)
        own = standing(actor, found.facts, now)
        response = pb.GetDossierResponse(
            dossier=write_dossier(found.dossier),
            caller_authorization=own.state,  # type: ignore[arg-type]
            caller_is_attending_physician=own.attending_physician,
            caller_authorization_expire_time=write_optional_time(own.expires_at),
        )
        return response, Told(epoch, 1, basis_of(case))

    async def authorizations(
        self, request: pb.ListAuthorizationsRequest, call: Call
    ) -> tuple[pb.ListAuthorizationsResponse, Told]:
        """TD1.6. Representatives are not told of what was given in a secret connection; whom another dossier of the
        person shuts out is FORBIDDEN here too."""
        actor, decision = await self._permitted(call, pb.ACTION_LIST_AUTHORIZATIONS)
        validate(request)
        size = request.page_size or _PAGE
        scope = self._scope(call)
        after = ("", "")
        if request.page_token:
            kind, _, grantee_id = self._tokens.read(request.page_token, scope).decode().partition("/")
            after = (kind, grantee_id)
        rows = await store.grantees(
            self._pool, call.health_id, after, size + 1, with_secret=not actor.is_representative
        )
        elsewhere = await store.blocked_elsewhere(self._pool, call.health_id)
        shown = [
            store.GranteeRow(row.grantee, None, row.blocked_at) if row.grantee in elsewhere else row
            for row in rows[:size]
        ]
        now = self._clock()
        response = pb.ListAuthorizationsResponse(standings=[write_standing(row, now) for row in shown])
        if len(rows) > size:
            response.next_page_token = self._tokens.issue(scope, str(rows[size - 1].grantee).encode())
        return response, Told(decision.epoch, len(response.standings), decision.basis)

    async def representatives(self, call: Call) -> tuple[pb.ListRepresentativesResponse, Told]:
        """Who represents the patient, for those who may read his administrative data."""
        _, decision = await self._permitted(call, pb.ACTION_READ_ADMINISTRATIVE)
        now = self._clock()
        held = await store.representatives(self._pool, call.health_id)
        response = pb.ListRepresentativesResponse(representatives=[write_representative(each, now) for each in held])
        return response, Told(decision.epoch, len(held), decision.basis)

    async def represented(self, call: Call) -> pb.ListRepresentedResponse:
        """Whom a person represents now: each dossier listed is asked for its own facts."""
        person = call.health_id
        if call.actor.subject:
            actor = read_actor(call.actor)
            if not actor.complete or not actor.in_person or actor.is_representative:
                raise Refused(reasons.ERROR_REASON_RIGHT_DENIED)
        health_ids = await store.represented(self._pool, person)
        asked = [store.Asked(health_id, "", "", person) for health_id in health_ids]
        known = await store.read_facts(self._pool, asked) if asked else None
        now = self._clock()
        names = [
            dossier_name(health_id)
            for health_id, facts in zip(health_ids, known.answers if known else (), strict=True)
            if facts is not None and facts.representation is not None and facts.representation.in_force(now)
        ]
        return pb.ListRepresentedResponse(dossiers=names)

    async def accessible(
        self, request: pb.ListAccessibleRequest, call: Call
    ) -> tuple[pb.ListAccessibleResponse, dict[int, int]]:
        """TD0.4, and the epoch of each dossier listed. A structure's certificate must say since when."""
        actor = read_actor(call.actor)
        _, decision = await self._checks.judge(Check(actor, 0, pb.ACTION_LIST_ACCESSIBLE), call.remaining())
        if decision.reason is not None:
            raise Refused(decision.reason)
        validate(request)
        certificate = actor.context.startswith("structure_certificate/")
        if certificate and not request.HasField("since"):
            raise invalid("since", "accessible.new_only", "a certificate is told of new authorisations only")
        grantee = actor.own()
        since = read_time(request.since, "since") if request.HasField("since") else _LONG_AGO
        size, scope = request.page_size or _PAGE, self._scope(call)
        position = store.AccessiblePosition(datetime.max.replace(tzinfo=UTC), _LAST)
        if request.page_token:
            token = self._tokens.read(request.page_token, scope)
            position = store.AccessiblePosition(
                datetime.fromisoformat(token[8:].decode()), int.from_bytes(token[:8], "big")
            )
        rows = await store.accessible(self._pool, grantee, since, position, size + 1)
        response, epochs = await self._still_accessible(actor, grantee, rows[:size])
        if len(rows) > size:
            last = rows[size - 1]
            end = last.health_id.to_bytes(8, "big") + last.granted_at.isoformat().encode()
            response.next_page_token = self._tokens.issue(scope, end)
        return response, epochs

    async def events(
        self, request: pb.ListConsentEventsRequest, call: Call
    ) -> tuple[pb.ListConsentEventsResponse, Told]:
        """The history, as far as the caller may read the dossier's traces; operators read all of it."""
        actor = read_actor(call.actor)
        traces: int = pb.TRACE_VIEW_ALL
        if actor.platform in _OFFICES and actor.complete:
            found = await self._checks.find(actor, call.health_id, call.remaining())
            _refuse_gone(found)
            epoch, basis = (found.facts.epoch if found.facts else 0), 0
        else:
            actor, decision = await self._permitted(call, pb.ACTION_READ_TRACES)
            epoch, basis = decision.epoch, decision.basis
            traces = decision.filter.traces if decision.filter else pb.TRACE_VIEW_UNSPECIFIED
        validate(request)
        size, scope = request.page_size or _PAGE, self._scope(call)
        before = _LAST
        if request.page_token:
            before = int.from_bytes(self._tokens.read(request.page_token, scope), "big")
        rows = await store.events(self._pool, call.health_id, before, size + 1)
        shown = [_event(row) for row in rows[:size]]
        if traces == pb.TRACE_VIEW_OWN:
            shown = [event for event in shown if event.actor == actor.name]
        elif traces != pb.TRACE_VIEW_ALL:
            shown = [event for event in shown if not event.secret]
        response = pb.ListConsentEventsResponse(events=shown)
        if len(rows) > size:
            response.next_page_token = self._tokens.issue(scope, rows[size - 1].epoch.to_bytes(8, "big"))
        return response, Told(epoch, len(shown), basis)

    async def explain(self, request: pb.ExplainAccessRequest, call: Call) -> tuple[pb.ExplainAccessResponse, Told]:
        """The decision and its rules, in words; of the past by the history and the rights of then."""
        caller = read_actor(call.actor)
        found = await self._may_explain(request, call, caller)
        validate(request)
        actor = read_actor(_context(request.party, call.health_id)) if request.HasField("party") else caller
        now, facts, rights, secret = self._clock(), found.facts, found.rights, set[Grantee]()
        instant = read_time(request.as_of_time, "as_of_time") if request.HasField("as_of_time") else None
        if request.as_of_epoch:
            facts, now, secret = await self._past(call.health_id, request.as_of_epoch, actor, instant)
        elif actor is not caller:
            facts = (await self._checks.find(actor, call.health_id, call.remaining())).facts
            secret = await store.given_in_secret(self._pool, call.health_id, actor.parties())
        if caller.is_representative and facts is not None:
            facts = without(facts, actor, secret)
        now = now if instant is None else instant
        if request.as_of_epoch or request.HasField("as_of_time"):
            rights = await self._rights.at(self._pool, now)
        document = read_document(request.document) if request.HasField("document") else None
        applied: list[Applied] = []
        case = Case(actor, request.action, call.health_id, facts, rights, now, document)
        decision = decide(case, applied)
        words = [in_words(each, case) for each in applied]
        rules = [
            pb.AppliedRule(
                rule=each.rule,
                outcome=each.outcome,  # type: ignore[arg-type]
                text_en=each.english,
                text_fr=each.french,
                source=each.source,
            )
            for each in words
        ]
        response = pb.ExplainAccessResponse(decision=write_decision(decision), rules=rules)
        return response, Told(found.facts.epoch if found.facts else 0, len(rules))

    async def _past(
        self, health_id: int, epoch: int, actor: Actor, instant: datetime | None
    ) -> tuple[Facts | None, datetime, set[Grantee]]:
        """The facts at an epoch, with what the person's other dossiers shut out at that instant (by default, when the
        epoch began); the instant; and who had been authorised in secret. EPOCH_UNKNOWN where the histories do not say
        it, or no longer."""
        lines = await store.events_until(self._pool, health_id, epoch)
        if not lines or lines[-1].epoch != epoch:
            raise Refused(reasons.ERROR_REASON_EPOCH_UNKNOWN)
        now = lines[-1].recorded_at if instant is None else instant
        try:
            past = replay(lines)
            facts = facts_at(past, actor)
            for other in past.linked:
                theirs = until(await store.events_until(self._pool, other, _LAST), now)
                then = facts_at(replay(theirs), actor)
                facts = facts if facts is None or then is None else unite(facts, health_id, then, other)
        except HistoryBroken as error:
            raise Refused(reasons.ERROR_REASON_EPOCH_UNKNOWN) from error
        return facts, now, past.secret

    async def _may_explain(self, request: pb.ExplainAccessRequest, call: Call, caller: Actor) -> Found:
        """Whoever may ask how he stands may ask why; of others, the patient (who may list them) and operators."""
        if caller.platform in _OFFICES and caller.complete:
            found = await self._checks.find(caller, call.health_id, call.remaining())
            _refuse_gone(found)
            return found
        about_others = request.HasField("party")
        action = pb.ACTION_LIST_AUTHORIZATIONS if about_others else pb.ACTION_CHECK_DOSSIER
        found, decision = await self._checks.judge(Check(caller, call.health_id, action), call.remaining())
        reason = decision.reason
        if reason is None and about_others and not caller.in_person:
            reason = reasons.ERROR_REASON_RIGHT_DENIED
        if reason is not None:
            raise Refused(reason, decision.epoch)
        return found

    async def _permitted(self, call: Call, action: int) -> tuple[Actor, Decision]:
        """The caller and the decision, which is a yes; operators, who have no row, are let in by the method alone."""
        actor = read_actor(call.actor)
        found, decision = await self._checks.judge(Check(actor, call.health_id, action), call.remaining())
        _refuse_gone(found)
        if actor.platform in _OFFICES and actor.complete and found.facts is not None:
            return actor, Decision(None, found.facts.epoch, None, decision.rights_version)
        if decision.reason is not None:
            raise Refused(decision.reason, decision.epoch)
        return actor, decision

    async def _still_accessible(
        self, actor: Actor, grantee: Grantee, rows: Sequence[store.AccessiblePosition]
    ) -> tuple[pb.ListAccessibleResponse, dict[int, int]]:
        """Those of a list that the actor may enter at this moment."""
        response, epochs = pb.ListAccessibleResponse(), dict[int, int]()
        if not rows:
            return response, epochs
        asked = [store.Asked(row.health_id, actor.professional, actor.structure) for row in rows]
        known = await store.read_facts(self._pool, asked)
        now = self._clock()
        for row, facts in zip(rows, known.answers, strict=True):
            if facts is None or not _enters(actor, row.health_id, facts, now):
                continue
            until = facts.professional_until if grantee.kind is GranteeKind.PROFESSIONAL else facts.structure_until
            if until is None or until <= now:
                continue
            response.dossiers.add(
                name=dossier_name(row.health_id),
                grant_time=write_time(row.granted_at),
                expire_time=write_time(until),
                attending_physician=bool(actor.attending_context) and facts.attending_physician,
            )
            epochs[row.health_id] = facts.epoch
        return response, epochs

    def _scope(self, call: Call) -> bytes:
        return page_scope(call.method.path.encode(), call.health_id.to_bytes(8, "big"), call.actor.subject.encode())


def _refuse_gone(found: Found) -> None:
    """Of a destroyed dossier nothing is told, to nobody: the trail could not say that it was."""
    if found.facts is not None and found.facts.state in GONE:
        raise Refused(reasons.ERROR_REASON_DOSSIER_DESTROYED, found.facts.epoch)


def _enters(actor: Actor, health_id: int, facts: Facts, now: datetime) -> bool:
    return facts.is_open and not facts.blocked and actor.patient in (0, health_id) and authorised(facts, now)


def _event(row: store.Recorded) -> pb.ConsentEvent:
    context = ActingContext.FromString(row.actor)
    event = pb.ConsentEvent(
        epoch=row.epoch,
        kind=row.kind,
        event_time=write_time(row.recorded_at),
        actor=read_actor(context).name,
        details=json.dumps(row.payload, sort_keys=True),
        request_id=row.request_id,
        secret=context.secret_connection,
    )
    if "grantee_id" in row.payload:
        grantee = Grantee(GranteeKind(row.payload["grantee_kind"]), row.payload["grantee_id"])
        event.grantee.CopyFrom(write_grantee(grantee))
    return event


def _context(party: pb.ExplainedParty, health_id: int) -> ActingContext:
    """Somebody who would act: authenticated, in normal mode and with a reason where the contrary is not said."""
    in_person = party.kind in (context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE)
    return ActingContext(
        actor_kind=party.kind,
        subject=party.subject,
        profession=party.profession,
        structure=party.structure,
        authentication_mode=party.authentication_mode or context_pb2.AUTHENTICATION_MODE_DIRECT,
        access_mode=party.access_mode,
        break_glass_reason="explained" if party.access_mode == context_pb2.ACCESS_MODE_BREAK_GLASS else "",
        occupational_physician=party.occupational_physician,
        secret_connection=party.secret_connection,
        patient_health_id=health_id if in_person else 0,
    )
