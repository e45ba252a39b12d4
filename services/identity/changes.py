"""What every change of a person shares: who and why, the event for the trail, the answer remembered for a retry.

Answers hold civil identity, so they are remembered sealed, under the key of the person that they are about.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from google.protobuf.message import Message

from dmp.audit.v1 import audit_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.digests import Digests
from services.identity.records import answer_owner, open_answer, seal_answer
from services.runtime import idempotency
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.idempotency import IdempotencyKey
from services.runtime.identifiers import person_name
from services.runtime.outbox import OutboxRow, put
from services.runtime.postgres import Connection, Pool, transaction
from services.runtime.trail import build_event

Clock = Callable[[], datetime]
Answer = TypeVar("Answer", bound=Message)

NOBODY: Final = 0
"""The health id of what is about no person."""


def change_of(call: Call, kind: pb.PersonChangeKind.ValueType, reason: str, at: datetime) -> pb.PersonChange:
    """Who acts in a call, and why, as a history keeps it."""
    change = pb.PersonChange(
        kind=kind,
        subject=call.actor.subject,
        subject_name=call.actor.subject_name,
        structure=call.actor.structure,
        client_id=call.client_id,
        reason=reason,
        request_id=call.request_id,
    )
    change.change_time.FromDatetime(at)
    return change


def told(call: Call, health_id: int, changes: Sequence[tuple[str, str]], others: Sequence[int] = ()) -> OutboxRow:
    """The event of a change: whose, and what (attribute, after), without any civil identity."""
    event = build_event(
        call,
        outcome=audit_pb2.OUTCOME_SUCCESS,
        health_id=health_id,
        objects=[person_name(each) for each in (health_id, *others) if each],
        changes=[audit_pb2.AttributeChange(attribute=attribute, after=after) for attribute, after in changes],
    )
    return OutboxRow(health_id, uuid.UUID(bytes=event.event_id), event.SerializeToString())


class Changes:
    """Runs changes, each in one transaction and once for a request_id. `kick` wakes the relay after a commit."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: Digests, kick: Callable[[], None], clock: Clock) -> None:
        self.pool = pool
        self.keys = keys
        self.digests = digests
        self.clock = clock
        self._kick = kick

    def key_of(self, call: Call) -> IdempotencyKey:
        """Under which the answer to a call is remembered."""
        route = self.digests.route(call.client_id, call.request_id)
        return IdempotencyKey(route, call.client_id, call.method.path, call.request_id)

    async def make(
        self,
        call: Call,
        request: Message,
        answer: type[Answer],
        work: Callable[[Connection], Awaitable[tuple[int, Answer, Sequence[OutboxRow]]]],
    ) -> Answer:
        """The answer of `work`, or the one that it gave before to this request.

        `work` gives whose the change is (NOBODY for no person), the answer and the events. Raises REQUEST_ID_REUSED,
        what `work` raises, or what asyncpg raises.
        """
        key, digest = self.key_of(call), self.digests.request(request.SerializeToString(deterministic=True))
        async with transaction(self.pool, timeout=call.remaining()) as conn:
            remembered = await idempotency.begin(conn, key, digest)
            if remembered is not None:
                return await self._opened(conn, remembered, answer)
            owner, response, events = await work(conn)
            await put(conn, events)
            await idempotency.finish(conn, key, await self._kept(conn, owner, response))
        self._kick()
        return response

    async def remembered(self, call: Call, request: Message, answer: type[Answer]) -> Answer | None:
        """The answer given before to this request, for those who ask somebody else before they `make` a change.

        Raises REQUEST_ID_REUSED. None does not say that the request is new: `make` decides.
        """
        key, digest = self.key_of(call), self.digests.request(request.SerializeToString(deterministic=True))
        async with self.pool.acquire() as conn:
            kept = idempotency.replay((await idempotency.find_many(conn, [key])).get(key), digest)
            return None if kept is None else await self._opened(conn, kept, answer)

    async def _opened(self, conn: Connection, remembered: bytes, answer: type[Answer]) -> Answer:
        owner = answer_owner(remembered)
        if owner == NOBODY:
            return answer.FromString(remembered[8:])
        return answer.FromString(open_answer(remembered, await self.keys.for_read(conn, [owner])))

    async def _kept(self, conn: Connection, owner: int, response: Message) -> bytes:
        plain = response.SerializeToString()
        if owner == NOBODY:
            return NOBODY.to_bytes(8, "big") + plain
        keys = await self.keys.for_read(conn, [owner])
        return seal_answer(owner, plain, keys[owner])
