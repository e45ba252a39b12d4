"""People as they are kept: a dmp.identity.v1.PersonVersion, sealed under the person's own key. No statement.

Associated data (frozen): a label, then the health id in 8 bytes, big-endian; a row moved to another person, or an
answer taken for a record, does not open.
"""

from __future__ import annotations

from datetime import UTC
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import (
    PatientIdentifier,
    trusted_contact,
    trusted_traits,
    write_contact,
    write_traits,
)
from services.identity.nir import NATIONAL_OIDS
from services.identity.registration_rules import Held, RegisteredPerson
from services.identity.status_rules import shows_ins
from services.identity.store.people import SealedPerson
from services.runtime.errors import DmpError
from services.runtime.identifiers import person_name
from services.runtime.sealing import DossierKey, SealBroken, open_sealed, seal

_RECORD: Final = b"dmp/identity/person/v1/"
_VERSION: Final = b"dmp/identity/person/v2/"
_CHANGE: Final = b"dmp/identity/change/v1/"
_ANSWER: Final = b"dmp/identity/answer/v1/"
_HEALTH_ID_BYTES: Final = 8
_STATUS_WORDS: Final = {
    pb.IDENTITY_STATUS_PROVISIONAL: "provisional",
    pb.IDENTITY_STATUS_RETRIEVED: "retrieved",
    pb.IDENTITY_STATUS_VALIDATED: "validated",
    pb.IDENTITY_STATUS_QUALIFIED: "qualified",
}
_STATUSES: Final = {word: status for status, word in _STATUS_WORDS.items()}


class Keys(Protocol):
    """Keys by health id; a key that cannot be had raises the DmpError of that person."""

    def __getitem__(self, health_id: int, /) -> DossierKey: ...


def seal_person(person: RegisteredPerson, key: DossierKey) -> SealedPerson:
    """The row of a person."""
    record = pb.PersonVersion(person=_record(person), change=person.change)
    return SealedPerson(
        person.health_id,
        _STATUS_WORDS[person.status],  # type: ignore[index]
        seal(key, record.SerializeToString(), _bound(_VERSION, person.health_id)),
        person.created_at,
        person.version,
        person.updated_at,
    )


def open_person(row: SealedPerson, keys: Keys) -> RegisteredPerson:
    """The person of a row. Raises CONTENT_CORRUPTED when the row was altered, CONTENT_DESTROYED when its key is."""
    key = keys[row.health_id]
    try:
        try:
            version = pb.PersonVersion.FromString(open_sealed(key, row.sealed, _bound(_VERSION, row.health_id)))
        except SealBroken:  # a record from before there were versions
            plain = open_sealed(key, row.sealed, _bound(_RECORD, row.health_id))
            version = pb.PersonVersion(person=pb.Person.FromString(plain))
    except (SealBroken, DecodeError):
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from None
    record = version.person
    return RegisteredPerson(
        health_id=row.health_id,
        traits=trusted_traits(record.traits),
        identifiers=tuple(PatientIdentifier(known.system, known.value) for known in record.identifiers),
        status=_STATUSES[row.status],
        created_at=row.created_at,
        version=row.version,
        doubtful=record.doubtful,
        fictitious=record.fictitious,
        homonym=record.homonym,
        contact=trusted_contact(record.contact) if record.HasField("contact") else None,
        held=tuple(map(_trusted_held, record.identifier_history)),
        updated_at=row.updated_at,
        change=version.change if version.HasField("change") else None,
    )


def write_person(
    person: RegisteredPerson, shown: frozenset[PatientIdentifier] | None = None, merged_into: int = 0
) -> pb.Person:
    """A person as the contract shows it: an INS only of a qualified identity, and with `shown` those identifiers only
    that the caller named."""
    written = _record(person)
    if not shows_ins(person.status):
        _without_ins(written)
    if shown is not None:
        kept = [known for known in written.identifiers if PatientIdentifier(known.system, known.value) in shown]
        del written.identifiers[:], written.identifier_history[:]
        written.identifiers.extend(kept)
    written.name = person_name(person.health_id)
    written.status = person.status  # type: ignore[assignment]
    written.version = person.version
    written.create_time.FromDatetime(person.created_at)
    written.update_time.FromDatetime(person.updated_at or person.created_at)
    if merged_into:
        written.merged_into = person_name(merged_into)
    return written


def seal_change(health_id: int, change: pb.PersonChange, key: DossierKey) -> bytes:
    """Who changed something about a person, and why, as the ledger and the work list keep it."""
    return seal(key, change.SerializeToString(), _bound(_CHANGE, health_id))


def open_change(health_id: int, sealed: bytes, keys: Keys) -> pb.PersonChange:
    """What `seal_change` sealed. Raises CONTENT_CORRUPTED or CONTENT_DESTROYED."""
    try:
        return pb.PersonChange.FromString(open_sealed(keys[health_id], sealed, _bound(_CHANGE, health_id)))
    except (SealBroken, DecodeError):
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from None


def _record(person: RegisteredPerson) -> pb.Person:
    record = pb.Person(
        traits=write_traits(person.traits),
        identifiers=[Identifier(system=known.system, value=known.value) for known in person.identifiers],
        doubtful=person.doubtful,
        fictitious=person.fictitious,
        homonym=person.homonym,
    )
    if person.contact is not None:
        record.contact.CopyFrom(write_contact(person.contact))
    for held in person.held:
        kept = record.identifier_history.add(use=pb.IDENTIFIER_USE_OLD if held.until else pb.IDENTIFIER_USE_OFFICIAL)
        kept.identifier.system, kept.identifier.value = held.identifier.system, held.identifier.value
        kept.start_time.FromDatetime(held.since)
        if held.until is not None:
            kept.end_time.FromDatetime(held.until)
    return record


def _without_ins(person: pb.Person) -> None:
    local = [known for known in person.identifiers if known.system not in NATIONAL_OIDS]
    del person.identifiers[:], person.identifier_history[:]
    person.identifiers.extend(local)


def _trusted_held(held: pb.HeldIdentifier) -> Held:
    return Held(
        PatientIdentifier(held.identifier.system, held.identifier.value),
        held.start_time.ToDatetime(UTC),
        held.end_time.ToDatetime(UTC) if held.HasField("end_time") else None,
    )


def seal_answer(health_id: int, answer: bytes, key: DossierKey) -> bytes:
    """An answer as it is remembered: whose it is, and its sealed bytes."""
    return health_id.to_bytes(_HEALTH_ID_BYTES, "big") + seal(key, answer, _bound(_ANSWER, health_id))


def answer_owner(remembered: bytes) -> int:
    """Whose a remembered answer is."""
    return int.from_bytes(remembered[:_HEALTH_ID_BYTES], "big")


def open_answer(remembered: bytes, keys: Keys) -> bytes:
    """The answer remembered. Raises CONTENT_CORRUPTED or CONTENT_DESTROYED."""
    health_id = answer_owner(remembered)
    try:
        return open_sealed(keys[health_id], remembered[_HEALTH_ID_BYTES:], _bound(_ANSWER, health_id))
    except SealBroken:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from None


def _bound(label: bytes, health_id: int) -> bytes:
    return label + health_id.to_bytes(_HEALTH_ID_BYTES, "big")
