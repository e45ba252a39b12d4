"""What a new document is to those that the dossier holds: duplicate, replacement, late version, completion. Pure.

CDA (domain.md §4): the same id, or the same setId and versionNumber, twice is refused; version n+1 names version n as
its parent; an older version never overwrites a newer one: one that comes late is kept, deprecated, behind the newer.
A version may be missing for ever; the newest that is there is the current one.

What replaces a document, or is it in another form, is hidden from those from whom that one is hidden: otherwise a
correction would unmask. An announcement whose month is over is hidden from nobody, and its correction neither.

What patients deposit and what professionals feed are no versions of each other, whatever identifiers they state:
neither takes the place of the other.

Documents of linked dossiers count as one dossier's. Who was replaced from a dossier that has been parted since may be
replaced again: nobody who reads it finds what took its place.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document.access import PATIENT_DEPOSITED
from services.document.store.rows import DocumentRow
from services.document.store.writing import Fact
from services.runtime.errors import DmpError, FieldViolation

_REPLACES: Final = document_pb2.RELATIONSHIP_TYPE_REPLACES
_TRANSFORMS: Final = document_pb2.RELATIONSHIP_TYPE_TRANSFORMS
_APPROVED: Final = document_pb2.DOCUMENT_STATUS_APPROVED
_DEPRECATED: Final = document_pb2.DOCUMENT_STATUS_DEPRECATED
_ARCHIVED: Final = document_pb2.DOCUMENT_STATUS_ARCHIVED
_DELETED: Final = document_pb2.DOCUMENT_STATUS_DELETED
_TEXT: Final[dict[int, str]] = {
    document_pb2.RELATIONSHIP_TYPE_REPLACES: "replace",
    document_pb2.RELATIONSHIP_TYPE_APPENDS: "complete",
    _TRANSFORMS: "transform",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A relation that a document states: `stated` by the request it must hold, by the header alone it may not."""

    type: int
    document_id: uuid.UUID | None
    unique_id_digest: bytes | None
    expected_version: int
    stated: bool


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What a document says that bears on others, and how it is hidden."""

    index: int
    document_id: uuid.UUID
    unique_id_digest: bytes
    set_digest: bytes | None
    set_version: int | None
    relations: tuple[Wanted, ...]
    masked: bool
    invisible_patient: bool
    invisible_representatives: bool
    by_patient: bool
    """Whether it is of a type that patients deposit, as they alone do."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place that a newcomer gets: its status, what it is to others, whom it replaces, how it is hidden."""

    status: int
    replaced_by: uuid.UUID | None
    related: tuple[tuple[int, uuid.UUID], ...]
    replaces: tuple[DocumentRow, ...]
    masked: bool
    invisible_patient: bool
    invisible_representatives: bool


def place_all(newcomers: Sequence[Newcomer], known: Sequence[Fact], announced: datetime) -> list[Place]:
    """The places of a submission's documents, in their order; versions of one CDA follow each other in theirs. What was
    submitted until `announced` is hidden from the patient no longer.

    Raises DUPLICATE_UNIQUE_ID naming every document at fault, METADATA_ERROR for a parent that is not named,
    REPLACE_FAILED or CONCURRENT_CHANGE for a relation that does not hold.
    """
    _refuse_duplicates(newcomers, known)
    gone: set[uuid.UUID] = set()
    found: dict[int, Place] = {}
    for index in sorted(range(len(newcomers)), key=lambda index: newcomers[index].set_version or 0):
        found[index] = _place(newcomers[index], known, gone, announced)
        gone.update(row.document_id for row in found[index].replaces)
    places = [found[index] for index in range(len(newcomers))]
    _place_together(newcomers, places)
    return places


def _place_together(newcomers: Sequence[Newcomer], places: list[Place]) -> None:
    """Versions of one CDA that come in one submission: as if they had come one after another, in their order."""
    versions: dict[bytes, list[int]] = {}
    for index, (newcomer, place) in enumerate(zip(newcomers, places, strict=True)):
        if newcomer.set_digest is not None and place.status == _APPROVED:
            versions.setdefault(newcomer.set_digest, []).append(index)
    for family in versions.values():
        family.sort(key=lambda index: newcomers[index].set_version or 0)
        masked = any(places[index].masked for index in family)
        from_patient = any(places[index].invisible_patient for index in family)
        from_representatives = any(places[index].invisible_representatives for index in family)
        for index in family:
            places[index] = replace(
                places[index],
                masked=masked,
                invisible_patient=from_patient,
                invisible_representatives=from_representatives,
            )
        for before, after in itertools.pairwise(family):
            old, new = newcomers[before], newcomers[after]
            if (old.set_version or 0) + 1 == new.set_version and not _names(new, old.unique_id_digest, old.document_id):
                raise _parent_missing(new)
            places[before] = replace(places[before], status=_DEPRECATED, replaced_by=new.document_id)
            places[after] = replace(places[after], related=(*places[after].related, (_REPLACES, old.document_id)))


def _hidden_alike(row: DocumentRow, place: Place, announced: datetime) -> Place:
    """The place, hidden as the document is that it replaces, or is in another form."""
    return replace(
        place,
        masked=place.masked or row.masked,
        invisible_patient=place.invisible_patient or (row.invisible_patient and row.submitted_at > announced),
        invisible_representatives=place.invisible_representatives or row.invisible_representatives,
    )


def _refuse_duplicates(newcomers: Sequence[Newcomer], known: Sequence[Fact]) -> None:
    held = {fact.unique_id_digest for fact in known}
    repeated = [n.index for n in newcomers if n.unique_id_digest in held]
    if repeated:
        raise taken(repeated)
    versions = {(fact.set_digest, fact.set_version) for fact in known if fact.set_digest is not None}
    for newcomer in newcomers:
        if newcomer.set_digest is None:
            continue
        version = (newcomer.set_digest, newcomer.set_version)
        if version in versions:
            what = "the dossier holds a CDA of this setId and versionNumber"
            field = FieldViolation(f"documents[{newcomer.index}].document.unique_id", "set_version", what)
            raise DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=(field,))
        versions.add(version)


def _place(newcomer: Newcomer, known: Sequence[Fact], gone: set[uuid.UUID], announced: datetime) -> Place:
    family = sorted(
        (f for f in known if f.set_digest == newcomer.set_digest is not None and _is_alike(newcomer, f.row)),
        key=lambda fact: fact.set_version or 0,
    )
    number = newcomer.set_version or 0
    newer = next((fact for fact in family if (fact.set_version or 0) > number), None)
    older = [fact for fact in family if (fact.set_version or 0) < number]
    if newer is None and older and older[-1].set_version == number - 1:
        _check_parent(newcomer, older[-1])
    related: dict[tuple[int, uuid.UUID], DocumentRow] = {}
    for wanted in newcomer.relations:
        row = _target(newcomer, wanted, known, gone, late=newer is not None)
        if row is not None:
            related[wanted.type, row.document_id] = row
    if newer is None:
        for fact in older:
            if (fact.row.status == _APPROVED or _comes_back(fact.row)) and fact.row.document_id not in gone:
                related[_REPLACES, fact.row.document_id] = fact.row
    named = [row for (kind, _), row in related.items() if kind == _REPLACES]
    replaces = [row for row in named if _is_current(row, known) or _comes_back(row)]
    place = Place(
        status=_APPROVED if newer is None else _DEPRECATED,
        replaced_by=None if newer is None else newer.row.document_id,
        related=tuple(related),
        replaces=tuple(replaces) if newer is None else (),
        masked=newcomer.masked,
        invisible_patient=newcomer.invisible_patient,
        invisible_representatives=newcomer.invisible_representatives,
    )
    same = [row for (kind, _), row in related.items() if kind == _TRANSFORMS]
    for row in (*replaces, *same, *(() if newer is None else (newer.row,))):
        place = _hidden_alike(row, place, announced)
    return place


def _check_parent(newcomer: Newcomer, before: Fact) -> None:
    named = _names(newcomer, before.unique_id_digest, before.row.document_id)
    if not named and before.row.status != _DELETED:
        raise _parent_missing(newcomer)


def _names(newcomer: Newcomer, unique_id_digest: bytes, document_id: uuid.UUID) -> bool:
    """Whether the newcomer says that it replaces that document."""
    return any(
        wanted.type == _REPLACES and (wanted.unique_id_digest == unique_id_digest or wanted.document_id == document_id)
        for wanted in newcomer.relations
    )


def _parent_missing(newcomer: Newcomer) -> DmpError:
    what = "ClinicalDocument/relatedDocument: the version before is not named as the one that this replaces"
    field = FieldViolation(f"documents[{newcomer.index}].content", "parent", what)
    return DmpError(reasons.ERROR_REASON_METADATA_ERROR, fields=(field,))


def _target(
    newcomer: Newcomer, wanted: Wanted, known: Iterable[Fact], gone: set[uuid.UUID], *, late: bool
) -> DocumentRow | None:
    """The document that a relation is to; None for one that the dossier does not hold and need not."""
    row = next((fact.row for fact in known if _is(fact, wanted)), None)
    if row is None or row.status == _DELETED:
        if not wanted.stated:
            return None
        raise _failed(newcomer, wanted, "the dossier holds no such document")
    if wanted.type == _REPLACES and not _is_alike(newcomer, row):
        raise _failed(newcomer, wanted, "patients replace what patients deposited, and nobody else does")
    if late and not wanted.stated:
        return row
    if wanted.expected_version and wanted.expected_version != row.version:
        raise DmpError(reasons.ERROR_REASON_CONCURRENT_CHANGE)
    if not _is_current(row, known) or row.document_id in gone:
        raise _failed(newcomer, wanted, "that document is not approved any more")
    return row


def _is_current(row: DocumentRow, known: Iterable[Fact]) -> bool:
    """Whether nothing that is read with the document has taken its place."""
    if row.status == _DEPRECATED and row.replaced_by is not None:
        return all(fact.row.document_id != row.replaced_by for fact in known)
    return row.status == _APPROVED


def _is_alike(newcomer: Newcomer, row: DocumentRow) -> bool:
    """Whether both are what patients deposit, or neither is."""
    return newcomer.by_patient == row.type_code.startswith(PATIENT_DEPOSITED)


def _comes_back(row: DocumentRow) -> bool:
    """Whether the document is archived, and would be approved again: beside a newer version, unless it is replaced."""
    return row.status == _ARCHIVED and (row.status_before or _APPROVED) == _APPROVED


def successors(known: Sequence[Fact]) -> list[uuid.UUID]:
    """What took the place of these documents and is not among them: to be looked for, before `place_all`."""
    there = {fact.row.document_id for fact in known}
    deprecated = (fact.row.replaced_by for fact in known if fact.row.status == _DEPRECATED)
    return [one for one in deprecated if one is not None and one not in there]


def _is(fact: Fact, wanted: Wanted) -> bool:
    if wanted.document_id is not None:
        return wanted.document_id in (fact.row.document_id, fact.row.entry_id)
    return fact.unique_id_digest == wanted.unique_id_digest


def _failed(newcomer: Newcomer, wanted: Wanted, what: str) -> DmpError:
    path = f"documents[{newcomer.index}].relationships"
    field = FieldViolation(path, _TEXT.get(wanted.type, "relation"), what)
    return DmpError(reasons.ERROR_REASON_REPLACE_FAILED, fields=(field,))


def taken(indices: Iterable[int]) -> DmpError:
    """The error of documents whose uniqueId the dossier (or the submission) holds already."""
    fields = [
        FieldViolation(f"documents[{index}].document.unique_id", "unique", "the dossier holds a document with it")
        for index in indices
    ]
    return DmpError(reasons.ERROR_REASON_DUPLICATE_UNIQUE_ID, fields=fields)
