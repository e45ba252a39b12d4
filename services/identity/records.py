"""People as they are kept: a dmp.identity.v1.Person, sealed under the person's own key. No statement, no rule.

Associated data (frozen): a label, then the health id in 8 bytes, big-endian; a row moved to another person, or an
answer taken for a record, does not open.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import PatientIdentifier, trusted_traits, write_traits
from services.identity.registration_rules import RegisteredPerson
from services.identity.store import SealedPerson
from services.runtime.dossier_keys import DossierKeyBatch
from services.runtime.errors import DmpError
from services.runtime.identifiers import person_name
from services.runtime.sealing import DossierKey, SealBroken, open_sealed, seal

_RECORD: Final = b"dmp/identity/person/v1/"
_ANSWER: Final = b"dmp/identity/answer/v1/"
_HEALTH_ID_BYTES: Final = 8
_STATUS_WORDS: Final = {
    pb.IDENTITY_STATUS_PROVISIONAL: "provisional",
    pb.IDENTITY_STATUS_RETRIEVED: "retrieved",
    pb.IDENTITY_STATUS_VALIDATED: "validated",
    pb.IDENTITY_STATUS_QUALIFIED: "qualified",
}
_STATUSES: Final = {word: status for status, word in _STATUS_WORDS.items()}


def seal_person(person: RegisteredPerson, key: DossierKey) -> SealedPerson:
    """The row of a person."""
    record = pb.Person(
        traits=write_traits(person.traits),
        identifiers=[Identifier(system=known.system, value=known.value) for known in person.identifiers],
    )
    return SealedPerson(
        person.health_id,
        _STATUS_WORDS[person.status],  # type: ignore[index]
        seal(key, record.SerializeToString(), _bound(_RECORD, person.health_id)),
        person.created_at,
    )


def open_person(row: SealedPerson, keys: DossierKeyBatch) -> RegisteredPerson:
    """The person of a row. Raises CONTENT_CORRUPTED when the row was altered, CONTENT_DESTROYED when its key is."""
    try:
        plain = open_sealed(keys[row.health_id], row.sealed, _bound(_RECORD, row.health_id))
        record = pb.Person.FromString(plain)
    except (SealBroken, DecodeError):
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from None
    return RegisteredPerson(
        health_id=row.health_id,
        traits=trusted_traits(record.traits),
        identifiers=tuple(PatientIdentifier(known.system, known.value) for known in record.identifiers),
        status=_STATUSES[row.status],
        created_at=row.created_at,
    )


def write_person(person: RegisteredPerson, shown: frozenset[PatientIdentifier]) -> pb.Person:
    """A person as the contract shows it, with those identifiers only that the caller named."""
    written = pb.Person(
        name=person_name(person.health_id),
        traits=write_traits(person.traits),
        identifiers=[
            Identifier(system=known.system, value=known.value) for known in person.identifiers if known in shown
        ],
        status=person.status,  # type: ignore[arg-type]
    )
    written.create_time.FromDatetime(person.created_at)
    return written


def seal_answer(health_id: int, answer: bytes, key: DossierKey) -> bytes:
    """An answer as it is remembered: whose it is, and its sealed bytes."""
    return health_id.to_bytes(_HEALTH_ID_BYTES, "big") + seal(key, answer, _bound(_ANSWER, health_id))


def answer_owner(remembered: bytes) -> int:
    """Whose a remembered answer is."""
    return int.from_bytes(remembered[:_HEALTH_ID_BYTES], "big")


def open_answer(remembered: bytes, keys: DossierKeyBatch) -> bytes:
    """The answer remembered. Raises CONTENT_CORRUPTED or CONTENT_DESTROYED."""
    health_id = answer_owner(remembered)
    try:
        return open_sealed(keys[health_id], remembered[_HEALTH_ID_BYTES:], _bound(_ANSWER, health_id))
    except SealBroken:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from None


def _bound(label: bytes, health_id: int) -> bytes:
    return label + health_id.to_bytes(_HEALTH_ID_BYTES, "big")
