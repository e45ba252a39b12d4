"""Vaccinations: done, planned, or not done and why (IHE PCC immunizations, CI-SIS VAC, C-CDA)."""

from __future__ import annotations

from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading import acts
from services.document.reading.datatypes import author, concept, identifiers, integer, says_something, span
from services.document.reading.model import Kind, Projection, codes_of
from services.document.reading.node import Element, Page, attribute, every, first, templates
from services.document.reading.products import product_of
from services.document.reading.sections import Section

VACCINATION_TYPES: Final = frozenset({"11369-6", "87273-9", "96874-3"})
_SECTIONS: Final = frozenset({"11369-6"})
_TEMPLATES: Final = frozenset(
    {
        "1.3.6.1.4.1.19376.1.5.3.1.4.12",
        "1.3.6.1.4.1.19376.1.5.3.1.4.12.2",
        "1.2.250.1.213.1.1.3.45",
        "2.16.840.1.113883.10.20.22.4.52",
        "2.16.840.1.113883.10.20.22.4.120",
    }
)
_IMMUNIZATION_CODES: Final = frozenset({"IMMUNIZ", "INITIMMUNIZ", "BOOSTER"})
_RANK: Final = frozenset({"30973-2"})
_TARGET: Final = frozenset({"75323-6"})


def is_vaccination(act: Element, section: Section) -> bool:
    """Whether a substanceAdministration is a vaccination: by its template, its code, or the section that it is in."""
    return (
        bool(templates(act) & _TEMPLATES)
        or attribute(first(act, "code"), "code") in _IMMUNIZATION_CODES
        or section.code in _SECTIONS
    )


def vaccination(page: Page, act: Element) -> values.Vaccination:
    """The vaccination of one act."""
    read = values.Vaccination(
        status=acts.status(act),
        not_done=acts.negated(act),
        planned=acts.planned(act),
        text=acts.words(page, act),
        comments=acts.comments(page, act),
        item_ids=identifiers(act),
    )
    product = product_of(page, act)
    if product is not None:
        read.product.CopyFrom(product)
    when = acts.happened(page, act)
    if when is not None:
        read.time.CopyFrom(when)
    scheme = concept(page, first(act, "code"))
    if scheme is not None and says_something(scheme):
        read.type.CopyFrom(scheme)
    dose = span(page, first(act, "doseQuantity"))
    if dose is not None:
        read.dose.CopyFrom(dose)
    route = acts.route(page, act)
    if route is not None:
        read.route.CopyFrom(route)
    read.sites.extend(acts.approach(page, act))
    for performer in [*every(act, "performer"), *every(act, "author")][:1]:
        if (named := author(page, performer)) is not None:
            read.performer.CopyFrom(named)
    _relations(page, act, read)
    return read


def projection(read: values.Vaccination) -> Projection:
    """A vaccination as it is kept."""
    when = read.time if read.HasField("time") else None
    return Projection(Kind.VACCINATION, read, acts.occurred(when), codes=codes_of(read.product.code, *read.targets))


def _relations(page: Page, act: Element, read: values.Vaccination) -> None:
    for how, name, inner in acts.related(act):
        code = attribute(first(inner, "code"), "code")
        if name == "act" and acts.is_comment(inner):
            continue  # taken with the comments
        if code in _RANK:
            rank = integer(attribute(first(inner, "value"), "value"))
            if rank is not None and 0 < rank < 1000:
                read.dose_number = rank
            else:
                _detail(page, inner, read)
        elif code in _TARGET:
            read.targets.extend(value.coded for value in acts.values_of(page, inner) if value.HasField("coded"))
        elif how == "RSON":
            _reason(page, inner, read)
        elif how in {"CAUS", "MFST"} and name == "observation":
            if (reaction := acts.observation(page, inner)) is not None:
                read.reactions.append(reaction)
        elif name in {"observation", "act"}:
            _detail(page, inner, read)


def _reason(page: Page, act: Element, read: values.Vaccination) -> None:
    for element in (first(act, "value"), first(act, "code")):
        coded = concept(page, element)
        if coded is not None and says_something(coded):
            read.reasons.append(coded)
            return


def _detail(page: Page, act: Element, read: values.Vaccination) -> None:
    if (fact := acts.observation(page, act)) is not None:
        read.details.append(fact)
