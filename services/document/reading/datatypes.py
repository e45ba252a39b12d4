"""HL7 V3 data types as CDA writes them, read into the contract's values: CD, TS, IVL_TS, PQ, IVL_PQ, RTO, II, …

Tolerant on purpose: producers differ, and a value that does not follow its type is still what the document says. It is
kept as words where words can stand for it; otherwise the page counts it as left out. What has a nullFlavor is absent.
"""

from __future__ import annotations

import re
from typing import Final

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.hl7_time import Precision, parse_timestamp
from services.document.reading.node import (
    Element,
    Page,
    any_of,
    attribute,
    every,
    first,
    is_null,
    local,
    own_text,
    type_of,
)
from services.document.times import timestamp

_DECIMAL: Final = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_COMPARED: Final = re.compile(r"(<=|>=|<|>|≤|≥)\s*(\S+)")
_COMPARATORS: Final = {"≤": "<=", "≥": ">="}
_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_FINE: Final = re.compile(r"(\.\d{6})\d+")
_PRECISIONS: Final = {
    Precision.YEAR: values.TIME_PRECISION_YEAR,
    Precision.MONTH: values.TIME_PRECISION_MONTH,
    Precision.DAY: values.TIME_PRECISION_DAY,
    Precision.HOUR: values.TIME_PRECISION_HOUR,
    Precision.MINUTE: values.TIME_PRECISION_MINUTE,
    Precision.SECOND: values.TIME_PRECISION_SECOND,
    Precision.FRACTION: values.TIME_PRECISION_SECOND,
}
_CONCEPTS: Final = frozenset({"CD", "CE", "CV", "CS", "CO", "CR"})
_NUMBERS: Final = frozenset({"PQ", "REAL", "MO", "PPD_PQ", "PPD_REAL"})
_RANGES: Final = frozenset({"IVL_PQ", "IVL_REAL", "IVL_INT", "IVL_MO", "URG_PQ"})
_RATIOS: Final = frozenset({"RTO", "RTO_PQ_PQ", "RTO_MO_PQ", "RTO_INT_INT"})
_SPANS: Final = frozenset({"IVL_TS", "PIVL_TS", "EIVL_TS", "SXPR_TS"})
_BOUNDS: Final = ("low", "high", "center", "width")


def coding(page: Page, element: Element) -> coding_pb2.Coding | None:
    """The code that an element carries; None without one."""
    code = attribute(element, "code")
    if not code:
        return None
    return coding_pb2.Coding(
        system=attribute(element, "codeSystem"),
        code=page.phrase(code),
        display=page.phrase(attribute(element, "displayName")),
    )


def concept(page: Page, element: Element | None) -> values.CodedText | None:
    """A CD with its translations and words; None where it says nothing at all."""
    if element is None:
        return None
    read = values.CodedText(
        null_flavor=attribute(element, "nullFlavor"), text=page.words(first(element, "originalText"))
    )
    principal = coding(page, element)
    if principal is not None:
        read.code.CopyFrom(principal)
    for qualifier in every(element, "qualifier")[:16]:
        narrowed = values.Qualifier(
            name=_inner_coding(page, first(qualifier, "name")), value=_inner_coding(page, first(qualifier, "value"))
        )
        if narrowed.HasField("value"):
            read.qualifiers.append(narrowed)
    for translation in every(element, "translation"):
        found = coding(page, translation)
        if found is not None:
            read.translations.append(found)
        if not read.text:
            read.text = page.words(first(translation, "originalText"))
    if not read.text and principal is None and not read.translations:
        read.text = attribute(element, "displayName") or page.words(element)
    if says_something(read):
        return read
    if attribute(first(element, "originalText", "reference"), "value").strip("#"):
        page.leave_out()  # its words are somewhere that is not in the document
    return read if read.null_flavor else None


def _inner_coding(page: Page, element: Element | None) -> coding_pb2.Coding | None:
    return coding(page, element) if element is not None else None


def says_something(read: values.CodedText | None) -> bool:
    """Whether a concept is more than a reason why there is none."""
    return read is not None and (read.HasField("code") or bool(read.translations) or bool(read.text))


def point(page: Page, element: Element | None) -> values.PartialTime | None:
    """The TS in `value`; None where it is missing, null or no time."""
    text = attribute(element, "value")
    return moment(page, text) if text else None


def moment(page: Page, text: str) -> values.PartialTime | None:
    """An HL7 time; None, and counted, where it is none."""
    try:
        parsed = parse_timestamp(_FINE.sub(r"\1", text))
    except ValueError:
        page.leave_out()
        return None
    return values.PartialTime(time=timestamp(parsed.instant), precision=_PRECISIONS[parsed.precision])


def period(page: Page, element: Element | None) -> values.Period | None:
    """An IVL_TS, or a TS as a period that begins and ends with it; None where neither is stated."""
    if element is None:
        return None
    read = values.Period()
    start = point(page, first(element, "low"))
    end = point(page, first(element, "high"))
    if start is None and end is None:
        at = point(page, element) or point(page, first(element, "center"))
        start, end = at, at if first(element, "width") is None else None
    if start is not None:
        read.start.CopyFrom(start)
    if end is not None:
        read.end.CopyFrom(end)
    width = quantity(page, first(element, "width"))
    if width is not None:
        read.duration.CopyFrom(width)
    return read if read.ByteSize() else None


def quantity(page: Page, element: Element | None) -> values.Quantity | None:
    """A PQ (or REAL, INT): number and unit as written; its translation where it has no number itself."""
    if element is None:
        return None
    text = attribute(element, "value")
    unit = attribute(element, "unit") or attribute(element, "currency")
    if not text:
        return _translated_quantity(page, element)
    read = number(text)
    if read is None:
        page.leave_out()
        return None
    read.unit = page.phrase(unit)
    return read


def number(text: str) -> values.Quantity | None:
    """A decimal, with or without a comparator before it; None for anything else."""
    comparator = ""
    compared = _COMPARED.fullmatch(text.strip())
    if compared is not None:
        comparator, text = _COMPARATORS.get(compared[1], compared[1]), compared[2]
    if len(text) > 64 or not _DECIMAL.fullmatch(text.strip()):
        return None
    return values.Quantity(value=text.strip().replace(",", "."), comparator=comparator)


def _translated_quantity(page: Page, element: Element) -> values.Quantity | None:
    for translation in every(element, "translation"):
        text = attribute(translation, "value")
        read = number(text) if text else None
        if read is not None:
            unit = attribute(translation, "unit") or attribute(translation, "displayName")
            read.unit = page.phrase(unit or attribute(translation, "code"))
            return read
    return None


def span(page: Page, element: Element | None) -> values.QuantityRange | None:
    """An IVL_PQ; a single PQ is a range from it to itself; None where nothing is stated."""
    if element is None:
        return None
    read = values.QuantityRange()
    low, high = first(element, "low"), first(element, "high")
    for bound, target in ((low, read.low), (high, read.high)):
        found = quantity(page, bound)
        if found is not None:
            target.CopyFrom(found)
    read.low_open = attribute(low, "inclusive") == "false"
    read.high_open = attribute(high, "inclusive") == "false"
    if low is None and high is None:
        only = quantity(page, element) or quantity(page, first(element, "center"))
        if only is not None:
            read.low.CopyFrom(only)
            read.high.CopyFrom(only)
    return read if read.HasField("low") or read.HasField("high") else None


def ratio(page: Page, element: Element | None) -> values.Ratio | None:
    """An RTO; None where it has no numerator."""
    numerator = quantity(page, _child(element, "numerator"))
    if numerator is None:
        return None
    read = values.Ratio(numerator=numerator)
    denominator = quantity(page, _child(element, "denominator"))
    if denominator is not None:
        read.denominator.CopyFrom(denominator)
    return read


def _child(element: Element | None, name: str) -> Element | None:
    found = any_of(element, name) if element is not None else []
    return found[0] if found else None


def integer(text: str) -> int | None:
    """A whole number of at most 18 digits; None for anything else."""
    return int(text) if _INTEGER.fullmatch(text) else None


def small(text: str) -> int:
    """A whole number that fits 31 bits and is not negative, else 0."""
    read = integer(text)
    return read if read is not None and 0 <= read < 2**31 else 0


def identifier(element: Element) -> coding_pb2.Identifier | None:
    """An II: an extension in the domain of its root, or a root that stands alone; None where it has neither."""
    if element.get("nullFlavor") is not None:
        return None
    root, extension = attribute(element, "root"), attribute(element, "extension")
    if not root and not extension:
        return None
    return coding_pb2.Identifier(system=root if extension else "", value=(extension or root)[:256])


def identifiers(element: Element, name: str = "id") -> list[coding_pb2.Identifier]:
    """All II of that name."""
    return [read for item in every(element, name)[:64] if (read := identifier(item)) is not None]


def media(page: Page, element: Element) -> values.MediaReference:
    """An ED that holds, or points to, bytes."""
    read = values.MediaReference(media_type=page.phrase(attribute(element, "mediaType")))
    if attribute(element, "representation") == "B64":
        text = "".join((element.text or "").split())
        read.size = len(text) * 3 // 4 - text[-2:].count("=")
    reference = attribute(first(element, "reference"), "value")
    if ":" in reference:
        read.uri = page.phrase(reference.partition("?")[0])
    return read


def value(page: Page, element: Element) -> values.Value | None:
    """A `value` of any type, by its xsi:type or, where that is missing or unknown, by its shape; None where null."""
    kind = type_of(element)
    read = _typed(page, element, kind) or (None if kind == "ED" else _shaped(page, element))
    if read is not None:
        return read
    words = page.words(element) or page.phrase(attribute(element, "value"))
    if words and attribute(element, "unit"):
        words = f"{words} {attribute(element, 'unit')}"
    return values.Value(text=words) if words else None


def _typed(page: Page, element: Element, kind: str) -> values.Value | None:
    read: values.Value | None = None
    if kind in _NUMBERS or kind == "INT":
        read = _number(page, element, kind)
    elif kind in _RANGES:
        read = _wrapped_range(page, element)
    elif kind in _RATIOS:
        found = ratio(page, element)
        read = values.Value(ratio=found) if found is not None else None
    elif kind in _CONCEPTS:
        coded = concept(page, element)
        read = values.Value(coded=coded) if coded is not None and says_something(coded) else None
    elif kind in {"BL", "BN"}:
        truth = attribute(element, "value")
        read = values.Value(truth=truth == "true") if truth in {"true", "false"} else None
    elif kind == "TS":
        at = point(page, element)
        read = values.Value(time=at) if at is not None else None
    elif kind in _SPANS:
        during = period(page, element)
        read = values.Value(period=during) if during is not None else None
    elif kind == "ED" and (
        element.get("representation") == "B64" or ":" in attribute(first(element, "reference"), "value")
    ):
        read = values.Value(media=media(page, element))
    elif kind == "II":
        named = identifier(element)
        read = values.Value(text=f"{named.system}^{named.value}".lstrip("^")) if named is not None else None
    return read


def _number(page: Page, element: Element, kind: str) -> values.Value | None:
    text = attribute(element, "value")
    whole = integer(text) if kind == "INT" and not attribute(element, "unit") else None
    if whole is not None:
        return values.Value(integer=whole)
    if text and number(text) is None:
        return None  # kept as words by the caller
    read = quantity(page, element)
    return values.Value(quantity=read) if read is not None else None


def _wrapped_range(page: Page, element: Element) -> values.Value | None:
    if attribute(element, "value") and first(element, "low") is None and first(element, "high") is None:
        return _number(page, element, "PQ")
    read = span(page, element)
    return values.Value(range=read) if read is not None else None


def _shaped(page: Page, element: Element) -> values.Value | None:
    """The value of an element whose type is not stated, is unknown, or does not fit."""
    if is_null(element) and not len(element):
        return None
    names = {local(child) for child in element}
    if "numerator" in names:
        return _typed(page, element, "RTO")
    if names & set(_BOUNDS):
        dated = any(not attribute(bound, "unit") and len(attribute(bound, "value")) >= 8 for bound in element)
        return _typed(page, element, "IVL_TS" if dated else "IVL_PQ")
    if attribute(element, "code") or "translation" in names or "originalText" in names:
        return _typed(page, element, "CD")
    text = attribute(element, "value")
    if text in {"true", "false"}:
        return values.Value(truth=text == "true")
    if text and number(text) is not None:
        return _number(page, element, "PQ")
    return None


def author(page: Page, element: Element | None) -> coding_pb2.Author | None:
    """An author, performer, participant or the entity in it; None where nobody is named."""
    entity = element
    for name in ("assignedAuthor", "assignedEntity", "participantRole", "relatedEntity"):
        found = first(element, name)
        if found is not None:
            entity = found
            break
    if entity is None:
        return None
    read = coding_pb2.Author()
    named = identifiers(entity)
    if named:
        read.id.CopyFrom(named[0])
    person = first(entity, "assignedPerson", "name")
    if person is None:
        person = first(entity, "playingEntity", "name")
    device = first(entity, "assignedAuthoringDevice", "softwareName")
    read.name = person_name(page, person) if person is not None else page.words(device)
    specialty = first(entity, "code")
    if specialty is not None and (coded := coding(page, specialty)) is not None:
        read.specialty.CopyFrom(coded)
    organization = first(entity, "representedOrganization")
    if organization is not None:
        ids = identifiers(organization)
        if ids:
            read.institution_id.CopyFrom(ids[0])
        read.institution_name = page.words(first(organization, "name"))
    return read if read.ByteSize() else None


def person_name(page: Page, name: Element) -> str:
    """Given names, then family names; the words as they are where the parts are not told apart."""
    parts = [own_text(part) for kind in ("given", "family") for part in every(name, kind)]
    return page.phrase(" ".join(part for part in parts if part) or own_text(name))
