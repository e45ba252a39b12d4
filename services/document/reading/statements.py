"""Problems, allergies, acts, risks, relatives' diseases, stays, devices, plans: what summaries and letters state.

Concern acts hold observations, organizers hold relatives' problems; what it is about follows from templates (IHE PCC),
else from the section, else from the kind of act.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading import acts
from services.document.reading.datatypes import coding, concept, says_something
from services.document.reading.node import Element, Page, attribute, every, first, templates
from services.document.reading.products import device_of
from services.document.reading.sections import Section

_PROBLEM_TEMPLATES: Final = frozenset(
    {"1.3.6.1.4.1.19376.1.5.3.1.4.5", "1.3.6.1.4.1.19376.1.5.3.1.4.5.2", "2.16.840.1.113883.10.20.1.28"}
)
_ALLERGY_TEMPLATES: Final = frozenset(
    {"1.3.6.1.4.1.19376.1.5.3.1.4.6", "1.3.6.1.4.1.19376.1.5.3.1.4.5.3", "2.16.840.1.113883.10.20.22.4.7"}
)
_CONCERN_TEMPLATES: Final = frozenset(
    {
        "1.3.6.1.4.1.19376.1.5.3.1.4.5.1",
        "1.3.6.1.4.1.19376.1.5.3.1.4.5.2",
        "1.3.6.1.4.1.19376.1.5.3.1.4.5.3",
        "2.16.840.1.113883.10.20.1.27",
    }
)
_ALLERGY_SECTIONS: Final = frozenset({"48765-2"})
_PROBLEM_SECTIONS: Final = frozenset({"11450-4", "11348-0", "46240-8", "11535-2", "46241-6"})
_FAMILY_SECTIONS: Final = frozenset({"10157-6"})
_RISK_SECTIONS: Final = frozenset({"29762-2", "10161-8", "57207-3"})
_MAX_NESTED: Final = 16

_BY_NAME: Final = {
    "procedure": values.STATEMENT_KIND_PROCEDURE,
    "encounter": values.STATEMENT_KIND_ENCOUNTER,
    "supply": values.STATEMENT_KIND_DEVICE,
}


def statements(page: Page, name: str, act: Element, section: Section) -> Iterator[values.Statement]:
    """What one entry states, in the document's order."""
    yield from _statements(page, name, act, section, 0, None)


def _statements(
    page: Page, name: str, act: Element, section: Section, depth: int, relative: values.Observation | None
) -> Iterator[values.Statement]:
    if depth > _MAX_NESTED:
        page.leave_out()
        return
    if name == "organizer" or (name == "act" and _is_concern(act)):
        relative = _relative(page, act) or relative
        found = False
        for _, inner_name, inner in acts.related(act):
            if inner_name in {"observation", "organizer", "procedure", "act"} and not acts.is_comment(inner):
                found = True
                yield from _statements(page, inner_name, inner, section, depth + 1, relative)
        if found:
            return
    read = _statement(page, name, act, section, relative)
    if read is not None:
        yield read


def _is_concern(act: Element) -> bool:
    return bool(templates(act) & _CONCERN_TEMPLATES) or any(
        name == "observation" and how == "SUBJ" and not acts.is_comment(inner) for how, name, inner in acts.related(act)
    )


def _statement(
    page: Page, name: str, act: Element, section: Section, relative: values.Observation | None
) -> values.Statement | None:
    kind = _kind(name, act, section)
    read = values.Statement(
        kind=kind,
        status=acts.status(act),
        negated=acts.negated(act),
        text=acts.words(page, act),
        comments=acts.comments(page, act),
    )
    element = first(section.element, "code")
    if element is not None and (about := coding(page, element)) is not None:
        read.section.CopyFrom(about)
    during = acts.lasted(page, act)
    if during is not None:
        read.period.CopyFrom(during)
    _what(page, act, read)
    if relative is not None:
        read.details.append(relative)
    read.details.extend(acts.facts(page, act))
    if says_something(read.code) or read.values or read.text:
        return read
    page.leave_out()
    return None


def _what(page: Page, act: Element, read: values.Statement) -> None:
    """Its code and values. A problem and an allergy are in the value: their code only says how it was found."""
    coded, found = concept(page, first(act, "code")), acts.values_of(page, act)
    if read.kind == values.STATEMENT_KIND_DEVICE and (device := device_of(page, act)) is not None:
        read.code.CopyFrom(device.code)
        return
    if read.kind == values.STATEMENT_KIND_ALLERGY and (agent := _agent(page, act)) is not None:
        read.code.CopyFrom(agent)
        if coded is not None and says_something(coded):
            read.details.append(values.Observation(code=coded, values=found))
        return
    problem = read.kind in {
        values.STATEMENT_KIND_PROBLEM,
        values.STATEMENT_KIND_ALLERGY,
        values.STATEMENT_KIND_FAMILY_HISTORY,
    }
    if problem and found and found[0].HasField("coded"):
        read.code.CopyFrom(found[0].coded)
        read.values.extend(found[1:])
        return
    if coded is not None:
        read.code.CopyFrom(coded)
    read.values.extend(found)


def _agent(page: Page, act: Element) -> values.CodedText | None:
    """What a patient is allergic to: the consumable that takes part."""
    for participant in every(act, "participant"):
        entity = first(participant, "participantRole", "playingEntity")
        what = concept(page, first(entity, "code"))
        name = page.words(first(entity, "name"))
        if name:
            what = what or values.CodedText()
            what.text = what.text or name
        if what is not None and says_something(what):
            return what
    return None


def _kind(name: str, act: Element, section: Section) -> values.StatementKind.ValueType:
    if acts.planned(act):
        return values.STATEMENT_KIND_PLAN
    if name in _BY_NAME:
        return _BY_NAME[name]
    roots = templates(act)
    if roots & _ALLERGY_TEMPLATES or section.code in _ALLERGY_SECTIONS:
        return values.STATEMENT_KIND_ALLERGY
    if section.code in _FAMILY_SECTIONS:
        return values.STATEMENT_KIND_FAMILY_HISTORY
    if section.codes & _RISK_SECTIONS:
        return values.STATEMENT_KIND_RISK
    if roots & _PROBLEM_TEMPLATES or section.code in _PROBLEM_SECTIONS:
        return values.STATEMENT_KIND_PROBLEM
    return values.STATEMENT_KIND_OBSERVATION


def _relative(page: Page, act: Element) -> values.Observation | None:
    """Whose problems an organizer lists, where it is a relative."""
    code = concept(page, first(act, "subject", "relatedSubject", "code"))
    if code is None or not says_something(code):
        return None
    return values.Observation(code=code)


def is_device(act: Element) -> bool:
    """Whether a supply is of a device: one takes part in it."""
    return any(attribute(p, "typeCode") == "DEV" for p in every(act, "participant"))
