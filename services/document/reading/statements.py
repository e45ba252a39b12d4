"""Problems, allergies, acts, risks, relatives' diseases, stays, devices, plans: what summaries and letters state.

Concern acts hold observations, organizers hold relatives' problems; what it is about follows from templates (IHE PCC),
else from the section, else from the kind of act.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
_PROBLEM_SORTS: Final = frozenset(
    {
        "282291009", "439401001", "64572001", "404684003", "409586006", "418799008", "55607006", "248536006",
        "373930000", "29308-4", "75326-9", "75325-1", "75321-0", "75323-6", "75318-6", "75319-4",
    }
)  # fmt: skip
"""Codes that say what sort of problem follows (IHE PCC 6.3.4.14: diagnosis, symptom, finding, …), not which."""
_INSIDE: Final = frozenset({"observation", "organizer", "procedure", "act", "encounter"})
_MAX_NESTED: Final = 16

_BY_NAME: Final = {
    "procedure": values.STATEMENT_KIND_PROCEDURE,
    "encounter": values.STATEMENT_KIND_ENCOUNTER,
    "supply": values.STATEMENT_KIND_DEVICE,
}


@dataclass(frozen=True, slots=True)
class _Around:
    """What a statement has from the concern or the list that it lies in."""

    subject: values.CodedText | None = None
    groups: tuple[values.CodedText, ...] = ()
    status: values.EntryStatus.ValueType = values.ENTRY_STATUS_UNSPECIFIED
    comments: tuple[str, ...] = ()


def statements(page: Page, name: str, act: Element, section: Section) -> Iterator[values.Statement]:
    """What one entry states, in the document's order."""
    yield from _statements(page, name, act, section, 0, _Around())


def _statements(
    page: Page, name: str, act: Element, section: Section, depth: int, around: _Around
) -> Iterator[values.Statement]:
    if depth > _MAX_NESTED:
        page.leave_out()
        return
    if name == "organizer" or (name == "act" and _is_concern(act)):
        inside = _within(page, name, act, around)
        found = False
        for _, inner_name, inner in acts.related(act):
            if inner_name in _INSIDE and not acts.is_comment(inner):
                yield from _statements(page, inner_name, inner, section, depth + 1, inside)
                found, inside = True, replace(inside, comments=())
        if found:
            return
    read = _statement(page, name, act, section, around)
    if read is not None:
        yield read


def _within(page: Page, name: str, act: Element, around: _Around) -> _Around:
    """A list names what it lists; a concern says how far the concern has come, which its observation does not."""
    groups, coded = around.groups, concept(page, first(act, "code"))
    if coded is not None and says_something(coded):
        groups = (*groups, coded)
    return _Around(
        subject=acts.subject(page, act) or around.subject,
        groups=groups,
        status=acts.status(act) if name == "act" else around.status,
        comments=(*around.comments, *acts.comments(page, act)),
    )


def _is_concern(act: Element) -> bool:
    return bool(templates(act) & _CONCERN_TEMPLATES) or any(
        name == "observation" and how == "SUBJ" and not acts.is_comment(inner) for how, name, inner in acts.related(act)
    )


def _statement(page: Page, name: str, act: Element, section: Section, around: _Around) -> values.Statement | None:
    kind = _kind(name, act, section)
    read = values.Statement(
        kind=kind,
        status=around.status or acts.status(act),
        negated=acts.negated(act),
        text=acts.words(page, act),
        comments=[*around.comments, *acts.comments(page, act)],
        groups=around.groups,
        sites=acts.sites(page, act),
    )
    element = first(section.element, "code")
    if element is not None and (titled := coding(page, element)) is not None:
        read.section.CopyFrom(titled)
    during = acts.lasted(page, act)
    if during is not None:
        read.period.CopyFrom(during)
    _what(page, act, read)
    about = acts.subject(page, act) or around.subject
    if about is not None:
        read.subject.CopyFrom(about)
    read.details.extend(acts.facts(page, act))
    if says_something(read.code) or read.values or read.text:
        return read
    page.leave_out()
    return None


def _what(page: Page, act: Element, read: values.Statement) -> None:
    """Its code and values. A problem and an allergy are in the value, where their code only says what sort it is."""
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
    sort_only = coded is None or not says_something(coded) or coded.code.code in _PROBLEM_SORTS
    if problem and sort_only and found and found[0].HasField("coded"):
        read.code.CopyFrom(found[0].coded)
        read.values.extend(found[1:])
        return
    if read.kind == values.STATEMENT_KIND_ALLERGY and found and found[0].HasField("coded") and coded is not None:
        read.code.CopyFrom(found[0].coded)
        read.details.append(values.Observation(code=coded, values=found[1:]))
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


def is_device(act: Element) -> bool:
    """Whether a supply is of a device: one takes part in it."""
    return any(attribute(p, "typeCode") == "DEV" for p in every(act, "participant"))
