"""The sections of a structured body, outermost first, and their text as the reader of the document sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dmp.document.v1 import clinical_values_pb2 as values
from services.document.reading.datatypes import concept
from services.document.reading.model import same_code
from services.document.reading.node import Element, Page, attribute, every, first, lines, own_text, templates

MAX_SECTION_TEXT: Final = 16_000
"""Longest text of one section that is kept, in characters."""
MAX_TEXT: Final = 200_000
"""Longest text of all sections of a document that is kept, in characters."""
MAX_SECTIONS: Final = 500

ATTACHED: Final = frozenset({"55108-5"})
"""Sections that hold a copy of the document as a file: nothing in them is a statement about the patient."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section and what it lies in. `codes` and `templates` are its own and those of the sections around it."""

    element: Element
    depth: int
    code: str
    codes: frozenset[str]
    templates: frozenset[str]
    concepts: tuple[values.CodedText, ...]


def sections(page: Page, body: Element) -> Iterator[Section]:
    """Every section of a `structuredBody`, in the document's order; at most MAX_SECTIONS, the others counted."""
    waiting = [_section(page, element, None) for element in reversed(_children(body))]
    seen = 0
    while waiting:
        section = waiting.pop()
        seen += 1
        if seen > MAX_SECTIONS:
            page.leave_out()
            continue
        yield section
        waiting += [_section(page, element, section) for element in reversed(_children(section.element))]


def _children(element: Element) -> list[Element]:
    return [section for component in every(element, "component") for section in every(component, "section")]


def _section(page: Page, element: Element, around: Section | None) -> Section:
    coded = first(element, "code")
    code = attribute(coded, "code")
    named = concept(page, coded)
    title = first(element, "title")
    if named is None:
        named = values.CodedText()
    if not named.text and title is not None:
        named.text = page.phrase(own_text(title))
    outer = around.concepts if around else ()
    if named.ByteSize() and not (outer and same_code(outer[-1], named)):
        outer = (*outer, named)
    return Section(
        element=element,
        depth=around.depth + 1 if around else 0,
        code=code,
        codes=(around.codes if around else frozenset()) | ({code} if code else set()),
        templates=(around.templates if around else frozenset()) | templates(element),
        concepts=outer,
    )


class ReportText:
    """The text of sections, bounded section by section and as a whole."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._room = MAX_TEXT

    def of(self, section: Section) -> values.ReportSection | None:
        """A section's title and lines; None for one that shows nothing."""
        read = values.ReportSection(depth=section.depth)
        coded = concept(self._page, first(section.element, "code"))
        if coded is not None:
            read.code.CopyFrom(coded)
        title = first(section.element, "title")
        if title is not None:
            read.title = self._page.phrase(own_text(title))
        narrative = first(section.element, "text")
        if narrative is not None:
            read.text = self._bounded(read, narrative)
        return read if read.title or read.text else None

    def _bounded(self, read: values.ReportSection, narrative: Element) -> str:
        room = min(MAX_SECTION_TEXT, self._room)
        kept: list[str] = []
        for line in lines(narrative):
            if len(line) >= room:
                kept.append(line[:room])
                room = 0
                read.truncated = True
                break
            kept.append(line)
            room -= len(line) + 1
        text = "\n".join(kept)
        self._room -= len(text)
        return text
