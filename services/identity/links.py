"""Linking people, undoing it, and taking a second person out of a record: with a ledger, and word to the others.

A link is an edge from a merged person to the one it was merged into; both are survivors when it is made, so links make
trees and never a ring. Undoing one parts the merged person, and all merged into it, from the tree. Every change of a
tree holds the rows of the survivors concerned, in the order of their ids. What changed is due to be told to the other
services in the same commit; the answer is given when consent has applied it (`propagation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import blocks
from services.identity.changes import Changes, change_of, told
from services.identity.civil_identity import PatientIdentifier, read_identifiers, read_traits
from services.identity.people import HeldPerson, refuse_merged, without_identifiers
from services.identity.propagation import SERVICES, Propagation
from services.identity.records import seal_change, seal_person, write_person
from services.identity.registration_batch import held_now
from services.identity.registration_rules import RegisteredPerson
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.identity.store.links import LedgerRow, Linked
from services.runtime.context import Call
from services.runtime.errors import DmpError, invalid
from services.runtime.identifiers import dossier_of, is_fictitious, new_health_id, person_name
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection

_UNDONE: Final = "unlinked"
MOST_LINKED: Final = 24
"""People who are one person, at most: pages of the others' rows keep a position for each (decision 0023)."""


class Links:
    """Links, unlinks, splits."""

    def __init__(self, changes: Changes, propagation: Propagation, rematch: Callable[[], None]) -> None:
        self._changes = changes
        self._digests = changes.digests
        self._propagation = propagation
        self._rematch = rematch

    async def link(self, call: Call, request: pb.LinkPeopleRequest) -> pb.LinkPeopleResponse:
        """Merges. PERSON_NOT_FOUND, PERSON_MERGED (either was), INVALID_FIELD; DEPENDENCY_UNAVAILABLE while consent
        cannot be told: the link is made then, and a retry waits for it."""
        merged = dossier_of(request.merged, "merged")
        if is_fictitious(merged) != is_fictitious(call.health_id):
            raise invalid("merged", "fictitious", "an invented person and a real one are never the same")

        async def work(conn: Connection) -> tuple[int, pb.LinkPeopleResponse, Sequence[OutboxRow]]:
            person, linked = await self.join(conn, call, call.health_id, merged, request.reason)
            answer = pb.LinkPeopleResponse(person=write_person(person), linked=linked)
            return call.health_id, answer, told_of_link(call, call.health_id, merged)

        answer = await self._changes.make(call, request, pb.LinkPeopleResponse, work)
        await self._propagation.tell_consent([call.health_id, merged], call.remaining())
        return answer

    async def unlink(self, call: Call, request: pb.UnlinkPeopleRequest) -> pb.UnlinkPeopleResponse:
        """Undoes. PERSON_NOT_FOUND, PERSON_NOT_LINKED; as `link` when consent cannot be told."""
        now = self._changes.clock()
        others: list[int] = []

        async def work(conn: Connection) -> tuple[int, pb.UnlinkPeopleResponse, Sequence[OutboxRow]]:
            held, root = await self._hold_tree(conn, call.health_id)
            tree = await link_store.members(conn, root)
            place = next(one for one in tree if one.health_id == call.health_id)
            revision = max(one.revision for one in tree) + 1
            mine = _under(call.health_id, tree)
            await link_store.write_sets(
                conn,
                [
                    replace(
                        one,
                        revision=revision,
                        root_id=call.health_id if one.health_id in mine else root,
                        into_id=None if one.health_id == call.health_id else one.into_id,
                    )
                    for one in tree
                ],
            )
            change = change_of(call, pb.PERSON_CHANGE_KIND_UPDATED, request.reason, now)
            left = [one for one in tree if one.health_id not in mine]
            await self._decide(conn, left, [one for one in tree if one.health_id in mine], "distinct", change)
            into = place.into_id or root
            await self._remember(conn, call.health_id, into, revision, _UNDONE, change)
            await link_store.tell(conn, [root, call.health_id], SERVICES, revision)
            others.append(root)
            answer = pb.UnlinkPeopleResponse(
                person=write_person(held.person),
                linked=[person_name(one) for one in sorted(mine) if one != call.health_id],
            )
            parted = [told(call, call.health_id, (("unlinked", person_name(into)),), (into,))]
            parted += [
                told(call, one, (("parted", person_name(call.health_id)),), (call.health_id,))
                for one in sorted({into, root})
            ]
            return call.health_id, answer, parted

        answer = await self._changes.make(call, request, pb.UnlinkPeopleResponse, work)
        # Whom a retry was parted from, the first answer did not say: all that is due is told.
        await self._propagation.tell_consent([call.health_id, *others] if others else None, call.remaining())
        return answer

    async def join(
        self,
        conn: Connection,
        call: Call,
        survivor: int,
        merged: int,
        reason: str,
        named: tuple[str, str] = ("name", "merged"),
    ) -> tuple[RegisteredPerson, list[str]]:
        """Merges in the caller's transaction; the survivor, and the names of all merged into it. `named` are the fields
        in which the request names the two."""
        if survivor == merged:
            raise invalid("merged", "link.other", "a person is not merged into itself")
        now = self._changes.clock()
        held: dict[int, HeldPerson] = {}
        for one in sorted((survivor, merged)):
            held[one] = await HeldPerson.hold(conn, self._changes.keys, self._digests, one)
        await refuse_merged(conn, survivor, named[0])
        await refuse_merged(conn, merged, named[1])
        trees = {one: await link_store.members(conn, one) or [Linked(one, None, one, 0)] for one in (survivor, merged)}
        everyone = [*trees[survivor], *trees[merged]]
        if len(everyone) > MOST_LINKED:
            raise invalid("merged", "link.most", f"at most {MOST_LINKED} people are one person")
        revision = max(one.revision for one in everyone) + 1
        await link_store.write_sets(
            conn,
            [
                replace(
                    one,
                    revision=revision,
                    root_id=survivor,
                    into_id=survivor if one.health_id == merged else one.into_id,
                )
                for one in everyone
            ],
        )
        change = change_of(call, pb.PERSON_CHANGE_KIND_UPDATED, reason, now)
        await self._decide(conn, trees[survivor], trees[merged], "same", change)
        await self._remember(conn, merged, survivor, revision, "linked", change)
        await link_store.tell(conn, [survivor], SERVICES, revision)
        linked = sorted(one.health_id for one in everyone if one.health_id != survivor)
        return held[survivor].person, [person_name(one) for one in linked]

    async def split(self, call: Call, request: pb.SplitPersonRequest) -> pb.SplitPersonResponse:
        """Takes a second person out. PERSON_NOT_FOUND, PERSON_MERGED, IDENTIFIER_NOT_HELD, INVALID_FIELD."""
        now = self._changes.clock()
        traits = read_traits(request.traits, now, "traits")
        remaining = (
            read_traits(request.remaining_traits, now, "remaining_traits")
            if request.HasField("remaining_traits")
            else None
        )
        identifiers = read_identifiers(request.identifiers, "identifiers")
        meeting = [one for each in (traits, remaining) if each is not None for one in self._digests.traits_all(each)]

        async def work(conn: Connection) -> tuple[int, pb.SplitPersonResponse, Sequence[OutboxRow]]:
            await store.meet(conn, meeting, now)
            held = await HeldPerson.hold(conn, self._changes.keys, self._digests, call.health_id)
            await refuse_merged(conn, call.health_id)
            change = change_of(call, pb.PERSON_CHANGE_KIND_SPLIT, request.reason, now)
            kept = replace(_after_split(held.person, identifiers, now), traits=remaining or held.person.traits)
            record = await held.write(kept, change, now)
            other = RegisteredPerson(
                health_id=new_health_id(fictitious=is_fictitious(call.health_id)),
                traits=traits,
                fictitious=is_fictitious(call.health_id),
                identifiers=identifiers,
                status=pb.IDENTITY_STATUS_PROVISIONAL,
                created_at=now,
                held=held_now(identifiers, now),
                change=change,
            )
            await self._insert(conn, other, identifiers)
            await self._remember(conn, other.health_id, call.health_id, 0, "split", change)
            await store.part(conn, meeting)
            answer = pb.SplitPersonResponse(person=write_person(record), split_off=write_person(other))
            changes = (("split_off", person_name(other.health_id)),)
            return (
                call.health_id,
                answer,
                [
                    told(call, call.health_id, changes, (other.health_id,)),
                    told(call, other.health_id, (("split_from", person_name(call.health_id)),), (call.health_id,)),
                ],
            )

        answer = await self._changes.make(call, request, pb.SplitPersonResponse, work)
        self._rematch()
        return answer

    async def _insert(
        self, conn: Connection, person: RegisteredPerson, identifiers: Sequence[PatientIdentifier]
    ) -> None:
        keys = await self._changes.keys.for_new(conn, [person.health_id])
        await store.insert_people(conn, [seal_person(person, keys[person.health_id])])
        digests = [digest for each in identifiers for digest in self._digests.identifier_all(each)]
        if digests:
            await store.move_identifiers(conn, digests, person.health_id)
        numbers = self._digests.blocks_all(blocks(person.traits, person.contact))
        await store.insert_blocks(conn, numbers, [person.health_id] * len(numbers))
        await store.rematch_later(conn, [person.health_id])

    async def _hold_tree(self, conn: Connection, health_id: int) -> tuple[HeldPerson, int]:
        """Holds a merged person and its survivor, in the order of their ids. PERSON_NOT_LINKED."""
        root = (await link_store.roots(conn, [health_id])).get(health_id)
        if root is None:
            await HeldPerson.hold(conn, self._changes.keys, self._digests, health_id)  # PERSON_NOT_FOUND first
            raise DmpError(reasons.ERROR_REASON_PERSON_NOT_LINKED)
        held: dict[int, HeldPerson] = {}
        for one in sorted((root, health_id)):
            held[one] = await HeldPerson.hold(conn, self._changes.keys, self._digests, one)
        if (await link_store.roots(conn, [health_id])).get(health_id) != root:
            raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
        return held[health_id], root

    async def _decide(
        self, conn: Connection, ones: Sequence[Linked], others: Sequence[Linked], state: str, change: pb.PersonChange
    ) -> None:
        """What a link or its end says of the pairs between two trees is decided: the work list asks no more."""
        mine = {one.health_id for one in ones}
        everyone = sorted(mine | {one.health_id for one in others})
        between = [
            pair for pair in await link_store.pairs_among(conn, everyone, state) if len(mine.intersection(pair)) == 1
        ]
        if not between:
            return
        keys = await self._changes.keys.for_read(conn, [low for low, _ in between])
        for low, high in between:
            pair = await link_store.lock_pair(conn, low, high)
            # One of whom the list asks is decided either way; that two are one is undone by parting them alone.
            if pair is not None and (state == "same" or pair.state == "same"):
                decision = seal_change(low, change, keys[low])
                await link_store.decide(conn, pair, state, change.change_time.ToDatetime(UTC), decision)

    async def _remember(
        self, conn: Connection, merged: int, survivor: int, revision: int, kind: str, change: pb.PersonChange
    ) -> None:
        """In the ledger of both, each sealed with its own key."""
        keys = await self._changes.keys.for_read(conn, [merged, survivor])
        at = change.change_time.ToDatetime(UTC)
        for one in (merged, survivor):
            sealed = seal_change(one, change, keys[one])
            await link_store.remember(conn, LedgerRow(one, merged, survivor, revision, kind, at, sealed))


def _after_split(person: RegisteredPerson, gone: Sequence[PatientIdentifier], now: datetime) -> RegisteredPerson:
    """The record without what is somebody else's, in its past too: it never was this one's. IDENTIFIER_NOT_HELD."""
    ever = {*person.identifiers, *(one.identifier for one in person.held)}
    if not ever.issuperset(gone):
        raise DmpError(reasons.ERROR_REASON_IDENTIFIER_NOT_HELD)
    kept = without_identifiers(person, gone, now)
    held = tuple(one for one in kept.held if one.identifier not in gone)
    return replace(kept, status=pb.IDENTITY_STATUS_PROVISIONAL, held=held)


def told_of_link(call: Call, survivor: int, merged: int) -> list[OutboxRow]:
    """The events of a link, in the trail of each of the two: they may be parted again."""
    return [
        told(call, survivor, (("linked", person_name(merged)),), (merged,)),
        told(call, merged, (("merged_into", person_name(survivor)),), (survivor,)),
    ]


def _under(health_id: int, tree: Sequence[Linked]) -> frozenset[int]:
    """The person, and all merged into it, directly or not."""
    found = {health_id}
    while True:
        more = {one.health_id for one in tree if one.into_id in found} - found
        if not more:
            return frozenset(found)
        found |= more
