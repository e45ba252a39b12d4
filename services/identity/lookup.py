"""Resolving identifiers, verifying patients, comparing names and telling addresses, many at once. Rules are
`verification_rules`; this reads for them.

Contacts leave this database for one use: the audit service, about to send a notice, asks for mail addresses and forgets
them. Those of patients are sealed with the rest of a person; those of professionals are in the directory.

Concurrent calls share their statements through coalescers: one statement for a batch of identifiers, three for a
batch of claims (identifiers, people, keys), whatever the number of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import PatientIdentifier, Traits, normalise_name, sought
from services.identity.digests import Digests
from services.identity.nir import INS_OIDS, INSC_OID
from services.identity.records import open_person
from services.identity.registration_rules import RegisteredPerson
from services.identity.store import directory as directory_store
from services.identity.store import links as link_store
from services.identity.store import people as store
from services.identity.verification_rules import Claim, KnownPerson, is_about, is_birth_date
from services.runtime.coalescer import Coalescer
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError, invalid
from services.runtime.postgres import Connection, Pool, translate

CONTACTS_READER: Final = "audit"
"""The only service that may ask for addresses."""
_CALLS_A_STATEMENT: Final = 64
_STATEMENTS_UNDER_WAY: Final = 2
_MOST_IDENTIFIERS: Final = 32
_MOST_NAMES: Final = 16
_LONGEST_NAME: Final = 200

Verified = bool | DmpError


@dataclass(frozen=True, slots=True, repr=False)
class Verification:
    """A claim and the dossier that it is meant for, with the digests of the claim's identifiers."""

    health_id: int
    claim: Claim
    digests: tuple[bytes, ...]

    def __repr__(self) -> str:
        return "Verification(…)"


@dataclass(frozen=True, slots=True, repr=False)
class _Records:
    """What is known of one person: the records that open, and whether there is one that does not."""

    readable: list[RegisteredPerson]
    damaged: bool


class Lookups:
    """Resolves and verifies."""

    def __init__(self, pool: Pool, keys: DossierKeys, digests: Digests) -> None:
        self._pool = pool
        self._keys = keys
        self._digests = digests
        self._owners: Coalescer[list[bytes], list[int | None]] = Coalescer(
            "identity-owners", self._read_owners, max_batch=_CALLS_A_STATEMENT, in_flight=_STATEMENTS_UNDER_WAY
        )
        self._verifications: Coalescer[list[Verification], list[Verified]] = Coalescer(
            "identity-verifications", self._verify, max_batch=_CALLS_A_STATEMENT, in_flight=_STATEMENTS_UNDER_WAY
        )

    async def resolve(
        self, identifiers: Sequence[PatientIdentifier | None], timeout: float | None = None
    ) -> list[int | None]:
        """Whose each identifier is, in order; None for nobody's."""
        digests = [self._digests.identifier(identifier) for identifier in identifiers if identifier is not None]
        if not digests:
            return [None] * len(identifiers)
        owners = iter(await self._owners.submit(digests, timeout=timeout))
        return [None if identifier is None else next(owners) for identifier in identifiers]

    async def verify(self, verifications: list[Verification], timeout: float | None = None) -> list[Verified]:
        """Whether each claim is about its dossier's person, or PERSON_NOT_FOUND or what kept the record closed."""
        return await self._verifications.submit(verifications, timeout=timeout) if verifications else []

    async def same_family_names(self, asked: Sequence[tuple[int, str]]) -> tuple[list[bool], list[int]]:
        """Whether each name holds a family name, birth or used, of the person beside it; False for nobody's dossier.
        And the places of those whose records do not all open."""
        records = await self._records({health_id for health_id, _ in asked})
        same = [any(_names(name, one.traits) for one in records[health_id].readable) for health_id, name in asked]
        return same, [place for place, (health_id, _) in enumerate(asked) if records[health_id].damaged]

    async def emails(self, health_ids: Sequence[int]) -> tuple[list[str], list[int]]:
        """Where each person can be written to: the address of the record that others were merged into, else of one of
        those; empty for nobody, or who gave none. And the places of those of whom a damaged record may hold one."""
        records = await self._records(set(health_ids))
        found = [
            next((one.contact.email for one in records[each].readable if one.contact and one.contact.email), "")
            for each in health_ids
        ]
        unsure = [place for place, each in enumerate(health_ids) if records[each].damaged and not found[place]]
        return found, unsure

    async def professional_emails(self, idnps: Sequence[str]) -> list[str]:
        """The address of each professional, in order; empty for one without, who may not practise, or is unknown."""
        if not idnps:
            return []
        try:
            rows = await directory_store.practitioners(self._pool, sorted(set(idnps)))
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
            raise translate(error) from error
        known = {row.idnps: row.email for row in rows if row.active}
        return [known.get(each, "") for each in idnps]

    def read(self, request: pb.VerifyPatientRequest) -> Verification:
        """A verification as asked for. Raises INVALID_FIELD."""
        claim = request.claim
        if request.health_id <= 0:
            raise invalid("health_id", "int64.gt", "a health id is positive")
        if len(claim.identifiers) > _MOST_IDENTIFIERS:
            raise invalid("claim.identifiers", "repeated.max_items", "at most 32 identifiers")
        for field, names in (("family_names", claim.family_names), ("given_names", claim.given_names)):
            if len(names) > _MOST_NAMES or any(len(name) > _LONGEST_NAME for name in names):
                raise invalid(f"claim.{field}", "repeated.max_items", "at most 16 names of 200 characters")
        if not is_birth_date(claim.birth_date):
            raise invalid("claim.birth_date", "date.form", "YYYY-MM-DD, YYYY-MM or YYYY")
        known: dict[PatientIdentifier, None] = {}
        invented: set[str] = set()
        for stated in claim.identifiers:
            identifier = sought(stated.system, stated.value)
            if identifier is not None:
                known[identifier] = None
            elif stated.system in INS_OIDS or stated.system == INSC_OID:
                invented.add(stated.system)
        read = Claim(
            tuple(known),
            frozenset(invented),
            tuple(claim.family_names),
            tuple(claim.given_names),
            claim.sex,
            claim.birth_date,
        )
        return Verification(request.health_id, read, tuple(map(self._digests.identifier, known)))

    async def close(self) -> None:
        """Refuse new lookups, finish those accepted."""
        await self._owners.close()
        await self._verifications.close()

    async def _records(self, health_ids: set[int]) -> dict[int, _Records]:
        """All records of each person, the survivor's first; those whose key was destroyed say nothing any more."""
        if not health_ids:
            return {}
        try:
            async with self._pool.acquire() as conn:
                together = await link_store.together(conn, health_ids)
                people = await store.people(conn, {each for members in together.values() for each in members})
                keys = await self._keys.for_read(conn, list(people))
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
            raise translate(error) from error
        found: dict[int, _Records] = {}
        for health_id, members in together.items():
            readable: list[RegisteredPerson] = []
            damaged = False
            for each in members:
                try:
                    readable += [open_person(people[each], keys)] if each in people else []
                except DmpError as error:
                    damaged |= error.reason != reasons.ERROR_REASON_CONTENT_DESTROYED
            found[health_id] = _Records(readable, damaged)
        return found

    async def _read_owners(self, calls: list[list[bytes]]) -> Sequence[list[int | None] | DmpError]:
        try:
            async with self._pool.acquire() as conn:
                owners = await _survivors(conn, await store.owners(conn, list(chain.from_iterable(calls))))
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is answered
            raise translate(error) from error
        return [[owners.get(digest) for digest in digests] for digests in calls]

    async def _verify(self, calls: list[list[Verification]]) -> Sequence[list[Verified] | DmpError]:
        asked = list(chain.from_iterable(calls))
        try:
            async with self._pool.acquire() as conn:
                owners = await store.owners(conn, [digest for one in asked for digest in one.digests])
                together = await link_store.together(conn, {one.health_id for one in asked}.union(owners.values()))
                about = {each for one in asked for each in together[one.health_id]}
                people = await store.people(conn, about)
                keys = await self._keys.for_read(conn, list(people))
        except Exception as error:  # a boundary: whatever the database's fault is, nothing is verified
            raise translate(error) from error
        results = iter([_decide(one, people, keys, owners, together) for one in asked])
        return [list(islice(results, len(verifications))) for verifications in calls]


def _names(name: str, traits: Traits) -> bool:
    said = f" {normalise_name(name)} "
    family = {normalise_name(each) for each in (traits.birth_name, traits.used_name)} - {""}
    return any(f" {each} " in said for each in family)


async def _survivors(conn: Connection, owners: dict[bytes, int]) -> dict[bytes, int]:
    """The owners, or the survivors of those that were merged: where the dossier is."""
    roots = await link_store.roots(conn, owners.values()) if owners else {}
    return {digest: roots.get(owner, owner) for digest, owner in owners.items()}


def _decide(
    one: Verification,
    people: dict[int, store.SealedPerson],
    keys: DossierKeyBatch,
    owners: dict[bytes, int],
    together: dict[int, tuple[int, ...]],
) -> Verified:
    """About the person named, or about any who is one person with it: a merged record's traits may differ, which is why
    there were two."""
    root = together[one.health_id][0]
    rows = [people[each] for each in together[one.health_id] if each in people]
    if not rows:
        return DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
    known = {
        identifier: together[owners[digest]][0]
        for identifier, digest in zip(one.claim.identifiers, one.digests, strict=True)
        if digest in owners
    }
    try:
        persons = [open_person(row, keys) for row in rows]
    except DmpError as error:
        return error
    identifiers = [known_as for each in persons for known_as in each.identifiers]
    return any(is_about(one.claim, KnownPerson(root, each.traits, identifiers), known) for each in persons)
