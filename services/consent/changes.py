"""How a consent change is made: locked, authorised, done once, counted, remembered and told, all in one commit.

Lives here: the one transaction that every act goes through. May not live here: what an act is or who may do it (the
use cases `opening`, `closing`, `preferences`, `authorizations`, `blocks`, `representatives`, with the rules of `acts`).

The dossier's row is locked first, so the changes of a dossier have one order, its epoch; and a change that was
acknowledged is committed, so every check that begins afterwards reads it (promise 2).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, Protocol, TypeVar

from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.common.v1.context_pb2 import ActingContext
from services.consent import store
from services.consent.acting import Actor
from services.consent.basis import let_in_by
from services.consent.functional_rights import FunctionalRights
from services.consent.rights_versions import RightsVersions
from services.consent.values import ConsentRecord, Grantee, LockedDossier
from services.runtime import faults, idempotency
from services.runtime.context import Call
from services.runtime.idempotency import IdempotencyKey
from services.runtime.identifiers import dossier_name
from services.runtime.outbox import OutboxRow, put
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.trail import build_event
from services.runtime.validation import validate

Response = TypeVar("Response", bound=Message)
Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute before and after; empty where there is no such value."""

    name: str
    before: str
    after: str


class OfTheDossierAlone:
    """Of acts that need to see nobody's authorisation, block or representation."""

    __slots__ = ()

    @property
    def parties(self) -> Sequence[Grantee]:
        """Nobody's."""
        return ()

    @property
    def persons(self) -> Sequence[int]:
        """Nobody's."""
        return ()


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did: `payload`, for the history, is whole; `attributes`, for the trail, are what differs.

    `secret`: it tells of what was given in a secret connection, and is hidden from representatives as that is.
    """

    payload: dict[str, object]
    attributes: tuple[Attribute, ...]
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Done(Generic[Response]):
    """An act as done: the answer, the dossier's epoch, and what changed (None when all was so already)."""

    response: Response
    epoch: int
    change: Change | None


class Moment(NamedTuple):
    """When an act is judged, and by which rights; both read once the dossier is held."""

    now: datetime
    rights: FunctionalRights


class Act(Protocol[Response]):
    """One act on one dossier. `authorise` and `check` raise the refusal; only `perform` writes."""

    @property
    def actor(self) -> Actor:
        """Who does it."""

    @property
    def parties(self) -> Sequence[Grantee]:
        """Whose authorisations and blocks the act needs to see."""

    @property
    def persons(self) -> Sequence[int]:
        """Whose representations the act needs to see."""

    def authorise(self, locked: LockedDossier | None, moment: Moment) -> None:
        """Whether the caller may do this here, whatever the state of things (a replay is authorised too)."""

    def check(self) -> None:
        """What the contract's own rules cannot say about the request."""

    async def perform(self, conn: Connection, locked: LockedDossier | None, moment: Moment) -> Done[Response]:
        """Do it. The dossier is locked, if there is one."""


class Changes:
    """Makes changes. `kick` wakes the relay after a commit."""

    def __init__(self, pool: Pool, rights: RightsVersions, kick: Callable[[], None], clock: Clock) -> None:
        self._pool = pool
        self._rights = rights
        self._kick = kick
        self._clock = clock

    async def make(self, call: Call, request: Message, act: Act[Response], answers: type[Response]) -> Response:
        """The answer to `request`, or to its first occurrence. Raises the refusal, or what asyncpg raises."""
        key = IdempotencyKey(call.health_id, call.client_id, call.method.path, call.request_id)
        async with transaction(self._pool, timeout=call.remaining()) as conn:
            locked, version = await store.lock_dossier(conn, call.health_id, act.parties, act.persons)
            moment = Moment(self._clock(), await self._rights.of(conn, version))
            act.authorise(locked, moment)
            validate(request)
            act.check()
            replayed = await idempotency.begin(conn, key, _body_digest(request))
            if replayed is not None:
                return answers.FromString(replayed)
            done = await act.perform(conn, locked, moment)
            if done.change is not None:
                await store.remember(conn, call.health_id, done.epoch, _history(call, done.change, moment.now))
            await put(conn, [_told(call, done, _basis(act.actor, locked, moment.now))])
            await idempotency.finish(conn, key, done.response.SerializeToString())
            faults.point("consent.before_commit")
        faults.point("consent.after_commit")
        self._kick()
        return done.response


def _history(call: Call, change: Change, now: datetime) -> store.HistoryEntry:
    return store.HistoryEntry(
        kind=call.method.audit_action,
        payload=json.dumps(change.payload),
        actor=_actor(call, change).SerializeToString(),
        request_id=call.request_id,
        recorded_at=now,
    )


def _told(call: Call, done: Done[Response], basis: int) -> OutboxRow:
    event = build_event(
        call,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        objects=(dossier_name(call.health_id),),
        epoch=done.epoch,
        changes=[
            audit_pb2.AttributeChange(attribute=attribute.name, before=attribute.before, after=attribute.after)
            for attribute in (done.change.attributes if done.change else ())
        ],
        actor=call.actor if done.change is None else _actor(call, done.change),
        basis=basis,
    )
    return outbox_row(event, call.health_id)


def _actor(call: Call, change: Change) -> ActingContext:
    """Who did it, as history and trail show it."""
    if not change.secret or call.actor.secret_connection:
        return call.actor
    return as_in_secret(call.actor)


def as_in_secret(actor: ActingContext) -> ActingContext:
    """The same, as in a secret connection."""
    hidden = ActingContext()
    hidden.CopyFrom(actor)
    hidden.secret_connection = True
    return hidden


def _basis(actor: Actor, locked: LockedDossier | None, now: datetime) -> int:
    """What had let the actor into the dossier before the act; unspecified where nothing had."""
    own = locked.authorizations.get(actor.as_professional()) if locked else None
    structure = locked.authorizations.get(actor.as_structure()) if locked else None
    held = [each for each in (own, structure) if each is not None and each.expires_at > now]
    attending = actor.attending_context != "" and any(each.attending_physician for each in held)
    return let_in_by(actor, attending=attending, held=bool(held))


def outbox_row(event: audit_pb2.AuditEvent, health_id: int) -> OutboxRow:
    """An event to be delivered, beside what it tells of: a change and its event are of one dossier, and one commit."""
    return OutboxRow(health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())


def _body_digest(request: Message) -> bytes:
    """SHA-256 of the request without its request_id: consent requests hold no civil identity."""
    body = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def consent_payload(consent: ConsentRecord) -> dict[str, object]:
    """A proof of consent, for the history."""
    return {
        "collected_at": consent.collected_at.isoformat(),
        "method": consent.method.value,
        "given_by": consent.given_by.value,
        "collector": consent.collector,
        "representative": str(consent.representative) if consent.representative else "",
    }


def yes_or_no(value: bool) -> str:
    """For the trail."""
    return "true" if value else "false"
