"""FHIR R4 data types, read into the contract's values: CodeableConcept, Quantity, Period, Timing, dateTime, …

As tolerant as `datatypes`: what does not follow its type is left out, and counted by the `Bundle` being read.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import clinical_values_pb2 as values
from services.document.hl7_time import FIRST_YEAR, LAST_YEAR, PARIS
from services.document.reading.datatypes import integer, number, small
from services.document.reading.fhir_tree import Node, many, node, nodes, resources, text
from services.document.times import timestamp

_SYSTEMS: Final = {
    "http://loinc.org": "2.16.840.1.113883.6.1",
    "http://snomed.info/sct": "2.16.840.1.113883.6.96",
    "http://www.whocc.no/atc": "2.16.840.1.113883.6.73",
    "http://hl7.org/fhir/sid/icd-10": "2.16.840.1.113883.6.3",
    "http://hl7.org/fhir/sid/cvx": "2.16.840.1.113883.12.292",
    "http://dicom.nema.org/resources/ontology/DCM": "1.2.840.10008.2.16.4",
    "http://standardterms.edqm.eu": "0.4.0.127.0.16.1.1.2.1",
    "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation": "2.16.840.1.113883.5.83",
    "http://unitsofmeasure.org": "2.16.840.1.113883.6.8",
}
_STATUS: Final = {
    "active": values.ENTRY_STATUS_ACTIVE,
    "draft": values.ENTRY_STATUS_ACTIVE,
    "preparation": values.ENTRY_STATUS_ACTIVE,
    "in-progress": values.ENTRY_STATUS_ACTIVE,
    "intended": values.ENTRY_STATUS_ACTIVE,
    "registered": values.ENTRY_STATUS_ACTIVE,
    "preliminary": values.ENTRY_STATUS_ACTIVE,
    "completed": values.ENTRY_STATUS_COMPLETED,
    "final": values.ENTRY_STATUS_COMPLETED,
    "amended": values.ENTRY_STATUS_COMPLETED,
    "corrected": values.ENTRY_STATUS_COMPLETED,
    "finished": values.ENTRY_STATUS_COMPLETED,
    "available": values.ENTRY_STATUS_COMPLETED,
    "stopped": values.ENTRY_STATUS_ABORTED,
    "cancelled": values.ENTRY_STATUS_CANCELLED,
    "declined": values.ENTRY_STATUS_CANCELLED,
    "not-done": values.ENTRY_STATUS_CANCELLED,
    "not-taken": values.ENTRY_STATUS_CANCELLED,
    "on-hold": values.ENTRY_STATUS_SUSPENDED,
    "entered-in-error": values.ENTRY_STATUS_ENTERED_IN_ERROR,
}
_DATE: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)


def system_of(uri: str) -> str:
    """A code system as the contracts write it: its OID where that is known, else the URI."""
    return uri.removeprefix("urn:oid:") if uri.startswith("urn:oid:") else _SYSTEMS.get(uri, uri)


def status_of(resource: Node) -> values.EntryStatus.ValueType:
    """What the resource's `status` says."""
    return _STATUS.get(text(resource, "status"), values.ENTRY_STATUS_UNSPECIFIED)


def coded(given: Node | None) -> values.CodedText | None:
    """A CodeableConcept: the first coding, the others as translations; None where it says nothing."""
    if given is None:
        return None
    read = values.CodedText(text=text(given, "text"))
    for item in nodes(given, "coding"):
        code = text(item, "code")
        if not code:
            continue
        found = coding_pb2.Coding(system=system_of(text(item, "system")), code=code, display=text(item, "display"))
        if read.HasField("code"):
            read.translations.append(found)
        else:
            read.code.CopyFrom(found)
    return read if read.ByteSize() else None


def coded_all(resource: Node, name: str) -> list[values.CodedText]:
    """All CodeableConcepts of that name."""
    return [read for item in nodes(resource, name) if (read := coded(item)) is not None]


def quantity(given: Node | None) -> values.Quantity | None:
    """A Quantity; its UCUM code where it has one, else its unit."""
    stated = text(given, "value")
    read = number(stated) if stated else None
    if read is None:
        return None
    read.unit = text(given, "code") or text(given, "unit")
    read.comparator = text(given, "comparator")
    return read


def span(given: Node | None) -> values.QuantityRange | None:
    """A Range."""
    low, high = quantity(node(given, "low")), quantity(node(given, "high"))
    if low is None and high is None:
        return None
    return values.QuantityRange(low=low, high=high)


def same(amount: values.Quantity | None) -> values.QuantityRange | None:
    """A quantity as a range from it to itself."""
    return None if amount is None else values.QuantityRange(low=amount, high=amount)


def ratio(given: Node | None) -> values.Ratio | None:
    """A Ratio; None without a numerator."""
    numerator = quantity(node(given, "numerator"))
    return (
        None
        if numerator is None
        else values.Ratio(numerator=numerator, denominator=quantity(node(given, "denominator")))
    )


def period(given: Node | None) -> values.Period | None:
    """A Period."""
    start, end = moment(text(given, "start")), moment(text(given, "end"))
    return None if start is None and end is None else values.Period(start=start, end=end)


def moment(stated: str) -> values.PartialTime | None:
    """A date, dateTime or instant; None for anything else."""
    match = _DATE.fullmatch(stated)
    if match is None or not FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
        return None
    year, month, day, hour, minute, second, zone = match.groups()
    whole = f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone or ''}"
    try:
        instant = datetime.fromisoformat(whole)
    except ValueError:
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=PARIS)
    precision = values.TIME_PRECISION_YEAR
    for part, finer in (
        (month, values.TIME_PRECISION_MONTH),
        (day, values.TIME_PRECISION_DAY),
        (hour, values.TIME_PRECISION_MINUTE),
        (second, values.TIME_PRECISION_SECOND),
    ):
        precision = finer if part else precision
    return values.PartialTime(time=timestamp(instant), precision=precision)


def when(resource: Node, *names: str) -> values.Period | None:
    """The first of these elements that states a time: a Period, or a dateTime as one that begins and ends with it."""
    for name in names:
        during = period(node(resource, name))
        if during is not None:
            return during
        at = moment(text(resource, name))
        if at is not None:
            return values.Period(start=at, end=at)
    return None


def value(resource: Node, prefix: str = "value") -> values.Value | None:
    """A `value[x]`; None where there is none."""
    if (amount := quantity(node(resource, f"{prefix}Quantity"))) is not None:
        return values.Value(quantity=amount)
    if (concept := coded(node(resource, f"{prefix}CodeableConcept"))) is not None:
        return values.Value(coded=concept)
    if (bounds := span(node(resource, f"{prefix}Range"))) is not None:
        return values.Value(range=bounds)
    if (rate := ratio(node(resource, f"{prefix}Ratio"))) is not None:
        return values.Value(ratio=rate)
    if (during := period(node(resource, f"{prefix}Period"))) is not None:
        return values.Value(period=during)
    if (at := moment(text(resource, f"{prefix}DateTime"))) is not None:
        return values.Value(time=at)
    if (whole := integer(text(resource, f"{prefix}Integer"))) is not None:
        return values.Value(integer=whole)
    truth = text(resource, f"{prefix}Boolean")
    if truth in {"true", "false"}:
        return values.Value(truth=truth == "true")
    words = text(resource, f"{prefix}String") or text(resource, f"{prefix}Time")
    raw = node(resource, f"{prefix}Quantity")
    if not words and raw is not None:
        words = f"{text(raw, 'value')} {text(raw, 'unit') or text(raw, 'code')}".strip()
    return values.Value(text=words) if words else None


def valued(resource: Node | None) -> list[values.Value]:
    """A `value[x]` as a list of it."""
    found = value(resource) if resource is not None else None
    return [found] if found is not None else []


def identifiers(resource: Node | None, name: str = "identifier") -> list[coding_pb2.Identifier]:
    """All identifiers of that name; a URN as its bare value."""
    found = []
    for item in nodes(resource, name):
        stated = text(item, "value").removeprefix("urn:oid:").removeprefix("urn:uuid:")
        system = text(item, "system")
        if stated:
            bare = "" if system in {"urn:ietf:rfc:3986", "urn:dicom:uid"} else system_of(system)
            found.append(coding_pb2.Identifier(system=bare, value=stated[:256]))
    return found


def dosage(given: Node) -> values.Dosage:
    """A Dosage with its Timing."""
    read = values.Dosage(
        sequence=small(text(given, "sequence")), text=text(given, "text") or text(given, "patientInstruction")
    )
    for condition in coded_all(given, "asNeededCodeableConcept"):
        read.conditions.append(condition.text or condition.code.display)
    repeat = node(given, "timing", "repeat")
    if repeat is not None:
        during = period(node(repeat, "boundsPeriod"))
        if during is not None:
            read.period.CopyFrom(during)
        read.frequencies.extend(_frequencies(repeat))
    for name, target in (("route", read.route), ("maxDosePerPeriod", read.maximum)):
        found = coded(node(given, name)) if name == "route" else ratio(node(given, name))
        if found is not None:
            target.CopyFrom(found)  # type: ignore[arg-type]  # each is of its own target's type
    read.sites.extend(coded_all(given, "site"))
    for amount in nodes(given, "doseAndRate")[:1] or [given]:
        dose = span(node(amount, "doseRange")) or same(quantity(node(amount, "doseQuantity")))
        rate = span(node(amount, "rateRange")) or same(quantity(node(amount, "rateQuantity")))
        if dose is not None:
            read.dose.CopyFrom(dose)
        if rate is not None:
            read.rate.CopyFrom(rate)
    return read


def _frequencies(repeat: Node) -> list[values.Frequency]:
    moments = [stated for stated in many(repeat, "when") if isinstance(stated, str)]
    stated = number(text(repeat, "period"))
    times = small(text(repeat, "frequency"))
    if stated is not None:
        stated.unit = text(repeat, "periodUnit")
    if not moments:
        return [values.Frequency(period=stated, times=times)] if stated is not None or times else []
    return [values.Frequency(period=stated, times=times, event=event[:32]) for event in moments]


class Bundle:
    """A Bundle being read: its resources by what may refer to them, and what was left out."""

    def __init__(self, bundle: Node) -> None:
        self.resources: list[Node] = []
        self.left_out = 0
        self._by_reference: dict[str, Node] = {}
        for url, resource in resources(bundle):
            self.resources.append(resource)
            kind, name = text(resource, "resourceType"), text(resource, "id")
            for reference in (url, f"{kind}/{name}" if name else ""):
                if reference:
                    self._by_reference.setdefault(reference, resource)

    def of(self, *kinds: str) -> list[Node]:
        """The resources of these kinds, in order."""
        return [resource for resource in self.resources if text(resource, "resourceType") in kinds]

    def resolve(self, given: Node | None, holder: Node | None = None) -> Node | None:
        """What a Reference leads to, in the Bundle or in the resource that holds it."""
        reference = text(given, "reference").partition("/_history/")[0]
        if reference.startswith("#"):
            return next((c for c in nodes(holder, "contained") if text(c, "id") == reference[1:]), None)
        if not reference:
            return None
        found = self._by_reference.get(reference)
        if found is None and "://" in reference:
            found = self._by_reference.get("/".join(reference.rsplit("/", 2)[-2:]))
        return found

    def author(self, given: Node | None, holder: Node | None = None) -> coding_pb2.Author | None:
        """Who a Reference to a Practitioner, PractitionerRole or Organization leads to."""
        target = self.resolve(given, holder)
        read = coding_pb2.Author(name=text(given, "display"))
        kind = text(target, "resourceType")
        if kind == "PractitionerRole":
            for specialty in coded_all(target or {}, "specialty")[:1]:
                if specialty.HasField("code"):
                    read.specialty.CopyFrom(specialty.code)
            self._institution(self.resolve(node(target, "organization"), target), read)
            person = self.resolve(node(target, "practitioner"), target)
            read.name = read.name or text(node(target, "practitioner"), "display")
        else:
            person = target if kind == "Practitioner" else None
            self._institution(target if kind == "Organization" else None, read)
        if person is not None:
            read.name = _person(person) or read.name
            for named in identifiers(person)[:1]:
                read.id.CopyFrom(named)
        return read if read.ByteSize() else None

    def _institution(self, organization: Node | None, read: coding_pb2.Author) -> None:
        if organization is None:
            return
        read.institution_name = text(organization, "name")
        for named in identifiers(organization)[:1]:
            read.institution_id.CopyFrom(named)


def _person(person: Node) -> str:
    name = node(person, "name")
    given = [stated for stated in many(name, "given") if isinstance(stated, str)]
    return " ".join([*given, text(name, "family")]).strip() or text(name, "text")
