"""What every clinical statement of a CDA has, whatever it is about: status, mood, times, words, comments, relations.

The readers of medicines, results, vaccinations and statements share it; none of them is known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.cda_element import HL7
from services.document.reading.datatypes import (
    concept,
    period,
    quantity,
    says_something,
    small,
    span,
    value,
)
from services.document.reading.node import Element, Page, attribute, every, first, local, templates, type_of
from services.document.times import instant

STATEMENTS: Final = frozenset(
    {"act", "encounter", "observation", "organizer", "procedure", "substanceAdministration", "supply"}
)
"""The clinical statements that are read; media and regions of interest go with what they illustrate."""

COMMENT: Final = "48767-8"
COMMENT_TEMPLATE: Final = "1.3.6.1.4.1.19376.1.5.3.1.4.2"

_STATUS: Final = {
    "active": values.ENTRY_STATUS_ACTIVE,
    "new": values.ENTRY_STATUS_ACTIVE,
    "normal": values.ENTRY_STATUS_ACTIVE,
    "completed": values.ENTRY_STATUS_COMPLETED,
    "aborted": values.ENTRY_STATUS_ABORTED,
    "cancelled": values.ENTRY_STATUS_CANCELLED,
    "held": values.ENTRY_STATUS_SUSPENDED,
    "suspended": values.ENTRY_STATUS_SUSPENDED,
    "nullified": values.ENTRY_STATUS_ENTERED_IN_ERROR,
}
_DEEPEST_FACT: Final = 6
_PLANNED: Final = frozenset({"INT", "RQO", "PRP", "PRMS", "ARQ", "APT", "GOL", "OPT"})


def status(act: Element) -> values.EntryStatus.ValueType:
    """What `statusCode` says."""
    return _STATUS.get(attribute(first(act, "statusCode"), "code").lower(), values.ENTRY_STATUS_UNSPECIFIED)


def negated(act: Element) -> bool:
    """Whether the act is said not to be so."""
    return attribute(act, "negationInd").lower() in {"true", "1"}


def planned(act: Element) -> bool:
    """Whether the act is still to happen: an intent, a request, a proposal, a goal."""
    return attribute(act, "moodCode") in _PLANNED


def statements(parent: Element) -> Iterator[tuple[str, Element]]:
    """The clinical statements right inside an entry, a relationship or a component, by name."""
    for child in parent:
        name = local(child)
        if name in STATEMENTS and child.tag == HL7 + name:
            yield name, child


def related(act: Element) -> Iterator[tuple[str, str, Element]]:
    """The statements related to an act: how (typeCode), by which name, and what; components of organizers too."""
    for link in act:
        if link.tag in {HL7 + "entryRelationship", HL7 + "component"}:
            how = attribute(link, "typeCode") or "COMP"
            for name, inner in statements(link):
                yield how, name, inner


def is_comment(act: Element) -> bool:
    """Whether an act is the producer's comment on another."""
    return attribute(first(act, "code"), "code") == COMMENT or COMMENT_TEMPLATE in templates(act)


def words(page: Page, act: Element) -> str:
    """What the act's `text` says."""
    return page.words(first(act, "text"))


def comments(page: Page, act: Element) -> list[str]:
    """The comments on an act."""
    found = [words(page, inner) for _, name, inner in related(act) if name == "act" and is_comment(inner)]
    return [text for text in found if text]


def observation(page: Page, act: Element) -> values.Observation | None:
    """An observation (or an act) as a fact about another; None where it says nothing."""
    read = values.Observation(negated=negated(act))
    coded = concept(page, first(act, "code"))
    if coded is not None:
        read.code.CopyFrom(coded)
    read.values.extend(values_of(page, act))
    if not read.values and (text := words(page, act)):
        read.values.add(text=text)
    when = happened(page, act)
    if when is not None:
        read.time.CopyFrom(when)
    read.sites.extend(sites(page, act))
    return read if read.HasField("code") or read.values else None


def sites(page: Page, act: Element) -> list[values.CodedText]:
    """Where on the body an act was, or what it observed is."""
    found = [concept(page, element) for element in every(act, "targetSiteCode")]
    return [read for read in found if read is not None and says_something(read)]


def route(page: Page, act: Element) -> values.CodedText | None:
    """By which way something is given."""
    read = concept(page, first(act, "routeCode"))
    return read if says_something(read) else None


def approach(page: Page, act: Element) -> list[values.CodedText]:
    """Where on the body something is given."""
    found = [concept(page, element) for element in every(act, "approachSiteCode")]
    return [read for read in found if read is not None and says_something(read)]


def subject(page: Page, act: Element) -> values.CodedText | None:
    """Whom an act is about where that is not the patient; never by name."""
    for about in every(act, "subject"):
        other = first(about, "relatedSubject")
        if other is not None:
            return concept(page, first(other, "code")) or values.CodedText(null_flavor="UNK")
    return None


def facts(page: Page, act: Element, depth: int = 0) -> Iterator[values.Observation]:
    """What is observed of an act, and of that in turn, the nearest first: severity, status, reactions."""
    if depth > _DEEPEST_FACT:
        page.leave_out()
        return
    for _, name, inner in related(act):
        if name in {"observation", "act", "procedure", "encounter", "organizer"} and not is_comment(inner):
            if name != "organizer" and (read := observation(page, inner)) is not None:
                yield read
            yield from facts(page, inner, depth + 1)


def values_of(page: Page, act: Element) -> list[values.Value]:
    """The values of an observation, in order."""
    return [read for element in every(act, "value")[:64] if (read := value(page, element)) is not None]


def happened(page: Page, act: Element) -> values.PartialTime | None:
    """When an act was: its time, or the beginning of its period, or the end of it."""
    for element in every(act, "effectiveTime"):
        during = period(page, element)
        if during is not None:
            return during.start if during.HasField("start") else during.end if during.HasField("end") else None
    return None


def lasted(page: Page, act: Element) -> values.Period | None:
    """From when until when an act was: its first effectiveTime that is a time or a period."""
    for element in every(act, "effectiveTime"):
        if type_of(element) not in {"PIVL_TS", "EIVL_TS"} and (during := period(page, element)) is not None:
            return during
    return None


def occurred(*times: values.PartialTime | None) -> datetime | None:
    """The first of these that is stated, as an instant."""
    return next((instant(time.time) for time in times if time is not None and time.HasField("time")), None)


def start_of(during: values.Period) -> values.PartialTime | None:
    """When a period begins, or ends where only that is stated."""
    if during.HasField("start"):
        return during.start
    return during.end if during.HasField("end") else None


def schedule(page: Page, act: Element) -> tuple[values.Period | None, list[values.Frequency]]:
    """What the effectiveTimes of a treatment say: from when until when, and how often."""
    during: values.Period | None = None
    often: list[values.Frequency] = []
    waiting = list(reversed(every(act, "effectiveTime")[:32]))
    while waiting:
        element = waiting.pop()
        parts = every(element, "comp")
        if parts:
            waiting += list(reversed(parts[:32]))
            continue
        frequency = _frequency(page, element)
        if frequency is not None:
            often.append(frequency)
        elif during is None and type_of(element) not in {"PIVL_TS", "EIVL_TS"}:
            during = period(page, element)
    return during, often


def _frequency(page: Page, element: Element) -> values.Frequency | None:
    """A PIVL_TS or an EIVL_TS; None for another kind of time."""
    each, event = first(element, "period"), first(element, "event")
    if each is None and event is None:
        return None
    read = values.Frequency(event=attribute(event, "code"))
    if each is not None:
        every_so_often = quantity(page, each)
        if every_so_often is not None:
            read.period.CopyFrom(every_so_often)
        read.text = page.words(first(each, "translation", "originalText"))
    times = first(element, "frequency", "numerator")
    read.times = small(attribute(times, "value"))
    offset = span(page, first(element, "offset"))
    if offset is not None:
        read.offset.CopyFrom(offset)
    phase = period(page, first(element, "phase"))
    if phase is not None:
        read.phase.CopyFrom(phase)
    return read if read.ByteSize() else None
