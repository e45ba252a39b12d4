"""ChangeDocument: a document's visibility or status, changed once, under the lock of its dossier (TD3.3 a to d).

Consent decides about the change and bounds on which documents it may be made; a document outside the bounds is absent
when the caller may not know of it, RIGHT_DENIED else. Taking back what one fed needs neither an authorisation nor to be
able to see it, and tells who has none nothing of others' documents (decision 0039). The state is read under the lock,
so of two changes that expect the same version one wins and the other is told. The event is in the same commit, as for
a submission.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.access import VISIBLE, Caller, View, hidden_because, takes_back, view_of
from services.document.authorship import Authorship
from services.document.entries import opened, revision, state_of
from services.document.gate import Gate
from services.document.lifecycle import RULES, ChangeRule, changed
from services.document.linked import as_asked
from services.document.store import writing
from services.document.store.reading import translated
from services.document.store.rows import DocumentRow
from services.document.store.writing import Revision
from services.runtime import faults, idempotency, outbox
from services.runtime.checks import dossiers_read
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.idempotency import IdempotencyKey, Kept
from services.runtime.identifiers import document_name
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.sealing import DossierKey
from services.runtime.trail import build_event
from services.runtime.validation import validate_for_storage

_SHOWN_STATES: Final = ("status", "masked", "invisible_patient", "invisible_representatives")
_TAKING_BACK: Final = frozenset({document_pb2.DOCUMENT_CHANGE_DELETE, document_pb2.DOCUMENT_CHANGE_DEPRECATE})
_PATIENTS: Final = frozenset({context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE})


class Changer:
    """Changes documents."""

    def __init__(
        self,
        pool: Pool,
        keys: DossierKeys,
        gate: Gate,
        authorship: Authorship,
        *,
        both: bool,
        clock: Callable[[], datetime],
        committed: Callable[[Sequence[int]], None],
    ) -> None:
        """`both`: a document may be masked and not yet visible to the patient at once."""
        self._pool = pool
        self._keys = keys
        self._gate = gate
        self._authorship = authorship
        self._allow_both = both
        self._clock = clock
        self._committed = committed

    async def change(
        self, request: document_pb2.ChangeDocumentRequest, call: Call
    ) -> document_pb2.ChangeDocumentResponse:
        """The document as it is then; the same answer for the same request_id."""
        validate_for_storage(request)
        rule = RULES[request.change]
        decision = await self._gate.enter(call, rule.consent, (request.name,))
        try:
            with translated():
                return await self._transaction(request, call, rule, decision)
        except _Absent as absent:
            told = DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
            raise await self._gate.denied(call, decision, told, reason=absent.reason, objects=(request.name,)) from None
        except DmpError as error:
            if error.reason == reasons.ERROR_REASON_RIGHT_DENIED:
                told = await self._told(call, rule, error)
                raise await self._gate.denied(
                    call, decision, told, reason=error.reason, objects=(request.name,)
                ) from None
            raise await self._gate.rejected(call, decision, error) from error.__cause__

    async def _transaction(
        self,
        request: document_pb2.ChangeDocumentRequest,
        call: Call,
        rule: ChangeRule,
        decision: consent_pb2.Decision,
    ) -> document_pb2.ChangeDocumentResponse:
        body = document_pb2.ChangeDocumentRequest()
        body.CopyFrom(request)
        body.ClearField("request_id")
        digest = hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
        async with transaction(self._pool, timeout=call.remaining()) as conn:
            home = await _home(conn, call, decision, request.name) if decision.linked else call.health_id
            idempotent = IdempotencyKey(home, call.client_id, call.method.path, request.request_id)
            moments = await writing.lock(conn, {home: 1}, self._clock())
            faults.point("change.locked")
            key = (await self._keys.for_write(conn, [home]))[home]
            kept = idempotency.replay((await idempotency.find_many(conn, [idempotent])).get(idempotent), digest)
            if kept is not None:
                return envelope.open_answer(key, digest, kept, document_pb2.ChangeDocumentResponse)
            row = await _found(conn, home, request.name)
            if row is None:
                raise _Absent(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
            self._check(row, request, call, decision)
            moment = moments[home]
            made = self._revised(key, row, request.change, moment.now, decision)
            await writing.revise(conn, made)
            await writing.put_change(conn, made.row, moment.sequence)
            shown = as_asked(opened(key, made.row), home, call.health_id)
            answer = document_pb2.ChangeDocumentResponse(document=shown)
            await outbox.put(conn, [_event(call, rule, made, decision)])
            sealed = envelope.seal_answer(key, digest, answer)
            await idempotency.put_many(conn, {idempotent: Kept(digest, sealed)})
            faults.point("change.before_commit")
        faults.point("change.after_commit")
        self._committed([home])
        return answer

    def _check(
        self,
        row: DocumentRow,
        request: document_pb2.ChangeDocumentRequest,
        call: Call,
        decision: consent_pb2.Decision,
    ) -> None:
        """Absent outside the filter; RIGHT_DENIED for what may be known of, and not changed."""
        allowed = consent_pb2.Filter()
        allowed.CopyFrom(decision.filter)
        if call.actor.actor_kind in _PATIENTS and allowed.restriction == consent_pb2.DOCUMENT_RESTRICTION_OWN:
            allowed.restriction = consent_pb2.DOCUMENT_RESTRICTION_PATIENT_TYPES
        caller: Caller = self._authorship.of_caller(call.actor)
        view = view_of(allowed, caller, self._clock())
        if request.change not in _TAKING_BACK or not takes_back(row, view):
            _check_seen(row, view)
        if request.expected_version and request.expected_version != row.version:
            raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
        if request.expected_status and request.expected_status != row.status:
            raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)

    async def _told(self, call: Call, rule: ChangeRule, refused: DmpError) -> DmpError:
        """What is told of another's document: to a feeder who may not search, that there is none."""
        if rule.consent == consent_pb2.ACTION_DELETE:
            searching = await self._gate.asked(call, consent_pb2.ACTION_SEARCH)
            if not searching.permitted:
                return DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)
        return refused

    def _revised(
        self, key: DossierKey, row: DocumentRow, change: int, now: datetime, decision: consent_pb2.Decision
    ) -> Revision:
        both = self._allow_both
        state = changed(state_of(row), change, allow_masked_and_invisible=both)
        if state is None:
            raise DmpError(reasons.ERROR_REASON_CHANGE_NOT_APPLICABLE)
        return revision(key, row, state, change, now)


def _check_seen(row: DocumentRow, view: View) -> None:
    unrestricted = view._replace(restriction=consent_pb2.DOCUMENT_RESTRICTION_UNSPECIFIED)
    reason = hidden_because(row, unrestricted)
    if reason != VISIBLE:
        raise _Absent(reason)
    if hidden_because(row, view) != VISIBLE:
        raise DmpError(reasons.ERROR_REASON_RIGHT_DENIED)


async def _home(conn: Connection, call: Call, decision: consent_pb2.Decision, name: str) -> int:
    """In which of the person's dossiers the document lies; the one asked for where it lies in none."""
    for health_id in dossiers_read(call.health_id, decision):
        if await _found(conn, health_id, name) is not None:
            return health_id
    return call.health_id


async def _found(conn: Connection, health_id: int, name: str) -> DocumentRow | None:
    """The document with this id, or that has, or had, this entryUUID."""
    wanted = uuid.UUID(name[-36:])
    for _ in range(2):
        found = await writing.facts(conn, [health_id], [], [], [wanted])
        if found[health_id]:
            return found[health_id][0].row
        named = await writing.by_entry(conn, health_id, wanted)
        if named is None:
            break
        wanted = named
    return None


class _Absent(Exception):
    """The caller may not know of the document, for a reason that only the trail is told."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


def change_event(
    call: Call,
    rule: ChangeRule,
    made: Revision,
    epoch: int = 0,
    basis: int = audit_pb2.ACCESS_BASIS_UNSPECIFIED,
    actor: context_pb2.ActingContext | None = None,
) -> audit_pb2.AuditEvent:
    """The event of a change, with what it changed."""
    before, after = state_of(made.kept)._asdict(), state_of(made.row)._asdict()
    changes = [
        audit_pb2.AttributeChange(attribute=name, before=str(before[name]), after=str(after[name]))
        for name in _SHOWN_STATES
        if before[name] != after[name]
    ]
    event = build_event(
        call,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        health_id=made.row.health_id,
        objects=(document_name(made.row.health_id, made.row.document_id),),
        epoch=epoch,
        changes=changes,
        action=rule.audit_action,
        actor=actor,
        basis=basis,
    )
    event.transaction = rule.transaction
    return event


def _event(call: Call, rule: ChangeRule, made: Revision, decision: consent_pb2.Decision) -> OutboxRow:
    event = change_event(call, rule, made, decision.epoch, decision.basis)
    return OutboxRow(made.row.health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())
