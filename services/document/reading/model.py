"""What reading gives: the projections of one document, and what could not be read.

The values themselves are the contract's own messages (`clinical_values.proto`): one set of types, no mapping between
two. A projection is frozen, and nobody changes the message in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Final

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_pb2, clinical_values_pb2

READER_VERSION: Final = 2
"""Of all readers together. Raise it when a document may read better than before: each is then read again."""

MAX_PROJECTIONS: Final = 5_000
"""Most projections of one document; what exceeds them is counted as left out. Real ones have under 200."""


class Kind(IntEnum):
    """What a projection is. Stored: a number is never given another meaning."""

    MEDICATION = 1
    RESULT = 2
    VACCINATION = 3
    IMAGING_REPORT = 4
    IMAGING_REFERENCE = 5
    SUMMARY = 6
    EVENT = 7


Message = (
    clinical_values_pb2.Medication
    | clinical_values_pb2.Result
    | clinical_values_pb2.Vaccination
    | clinical_values_pb2.ImagingReport
    | clinical_values_pb2.ImagingReference
    | clinical_values_pb2.Summary
    | clinical_values_pb2.PathwayEvent
)

MESSAGES: Final[dict[Kind, type[Message]]] = {
    Kind.MEDICATION: clinical_values_pb2.Medication,
    Kind.RESULT: clinical_values_pb2.Result,
    Kind.VACCINATION: clinical_values_pb2.Vaccination,
    Kind.IMAGING_REPORT: clinical_values_pb2.ImagingReport,
    Kind.IMAGING_REFERENCE: clinical_values_pb2.ImagingReference,
    Kind.SUMMARY: clinical_values_pb2.Summary,
    Kind.EVENT: clinical_values_pb2.PathwayEvent,
}


@dataclass(frozen=True, slots=True)
class Projection:
    """One thing that a document says.

    `occurred` is when it was so (aware), None when the document does not say. `subkind` is the message's own kind
    (of medication, summary, pathway event), 0 without one. `codes` find it, `series` keeps results of one code and
    unit together, `links` join reports to references: all three are kept as digests only. `message` is None for a
    document that stands in its list unread; `unread` says why, for an event too, whose document could not be read.
    """

    kind: Kind
    message: Message | None
    occurred: datetime | None = None
    subkind: int = 0
    codes: tuple[str, ...] = ()
    series: str = ""
    links: tuple[str, ...] = ()
    unread: clinical_pb2.UnreadReason.ValueType = clinical_pb2.UNREAD_REASON_UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was read in one document. `unread` says why nothing could be, where that is so; `left_out` counts the
    entries and values that are in the document and not in the projections."""

    projections: tuple[Projection, ...]
    unread: clinical_pb2.UnreadReason.ValueType = clinical_pb2.UNREAD_REASON_UNSPECIFIED
    left_out: int = 0


@dataclass
class Findings:
    """Projections on their way; the readers of one document share it."""

    projections: list[Projection] = field(default_factory=list)
    left_out: int = 0

    def add(self, projection: Projection) -> None:
        """Keep one, up to MAX_PROJECTIONS."""
        if len(self.projections) < MAX_PROJECTIONS:
            self.projections.append(projection)
        else:
            self.left_out += 1

    def of(self, *kinds: Kind) -> list[Projection]:
        """Those of these kinds, in the document's order."""
        return [projection for projection in self.projections if projection.kind in kinds]


def codes_of(*concepts: clinical_values_pb2.CodedText) -> tuple[str, ...]:
    """The codes of concepts, principal ones and translations, each once."""
    found = [coding.code for concept in concepts for coding in codings(concept)]
    return tuple(dict.fromkeys(found))


def codings(concept: clinical_values_pb2.CodedText) -> Iterable[coding_pb2.Coding]:
    """The principal code and the translations."""
    if concept.HasField("code"):
        yield concept.code
    yield from concept.translations


def same_code(one: clinical_values_pb2.CodedText, other: clinical_values_pb2.CodedText) -> bool:
    """Whether two concepts have one code, whatever they are called."""
    return one.HasField("code") and (one.code.system, one.code.code) == (other.code.system, other.code.code)


def label_of(concept: clinical_values_pb2.CodedText) -> str:
    """What to call a concept: the document's own words first."""
    if concept.text:
        return concept.text
    return next((coding.display or coding.code for coding in codings(concept)), "")
