"""One element of a CDA header, and the readings of it that the header needs.

Here live the HL7 data types as XML writes them (II, CD, TS, ST): bounded, trimmed, refused with the path of the element
where they are malformed. Which elements a header has is the business of `cda`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final
from xml.etree.ElementTree import Element

from services.document.cda_header import CdaError, Code, InstanceId
from services.document.hl7_time import Hl7Time, parse_birth_date, parse_timestamp

HL7: Final = "{urn:hl7-org:v3}"
"""What the names of a CDA's elements begin with."""
MAX_TEXT: Final = 1_000
"""Longest text or attribute of the header that is kept, in characters."""
MAX_REPEATS: Final = 200
"""Most repetitions of one header element that are read."""

_ROOT: Final = re.compile(
    r"[0-2](?:\.(?:0|[1-9]\d*))+"  # OID
    r"|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"  # UUID
    r"|[A-Za-z][A-Za-z0-9-]*",  # a name reserved by HL7
    re.ASCII,
)
_MAX_ROOT: Final = 128


class CdaElement:
    """An element and its path in the document, which names it in errors."""

    __slots__ = ("_above", "_element", "_name")

    def __init__(self, element: Element, name: str, above: CdaElement | None = None) -> None:
        """Keep the element; `name` is its own, `above` the one that it lies in."""
        self._element = element
        self._name = name
        self._above = above

    @property
    def path(self) -> str:
        """Its name after those that it lies in."""
        return self._name if self._above is None else f"{self._above.path}/{self._name}"

    def every(self, name: str) -> tuple[CdaElement, ...]:
        """Give the children of that name, in order."""
        found = self._element.findall(HL7 + name)
        if len(found) > MAX_REPEATS:
            raise CdaError(f"{self.path}/{name}", "repeats", f"more than {MAX_REPEATS} of these are not read")
        return tuple([CdaElement(child, name, self) for child in found])

    def first(self, *names: str) -> CdaElement | None:
        """Follow the first child of each name in turn; None where one is missing."""
        section = self
        for name in names:
            child = section._element.find(HL7 + name)
            if child is None:
                return None
            section = CdaElement(child, name, section)
        return section

    def required(self, name: str, *, once: bool = False) -> CdaElement:
        """Give the first child of that name; with `once`, the only one."""
        found = self.every(name) if once else (self.first(name),)
        if not found or found[0] is None:
            raise CdaError(f"{self.path}/{name}", "required", "this element is missing")
        if len(found) > 1:
            raise CdaError(f"{self.path}/{name}", "once", "this element may appear once")
        return found[0]

    def attribute(self, name: str) -> str | None:
        """Give an attribute, trimmed; None where it is missing or blank."""
        value = self._element.get(name)
        return self._bounded(value.strip(), f"/@{name}") if value is not None else None

    def text(self) -> str | None:
        """Give the text, white space normalised; None where there is none."""
        return self._bounded(" ".join("".join(self._element.itertext()).split()), "")

    def text_of(self, name: str) -> str | None:
        """Give the text of the first child of that name."""
        child = self.first(name)
        return child.text() if child else None

    def timestamp(self) -> Hl7Time:
        """Read `value` as an HL7 timestamp."""
        try:
            return parse_timestamp(self._value())
        except ValueError as error:
            raise CdaError(f"{self.path}/@value", "timestamp", str(error)) from None

    def birth_date(self) -> date | str | None:
        """Read `value` as a birth date, whole or partial; None where there is none."""
        value = self.attribute("value")
        try:
            return parse_birth_date(value) if value else None
        except ValueError as error:
            raise CdaError(f"{self.path}/@value", "birth_date", str(error)) from None

    def identifier(self) -> InstanceId | None:
        """Read an instance identifier; None where it has a nullFlavor or no root."""
        root = self.attribute("root")
        if root is None or self.attribute("nullFlavor"):
            return None
        if len(root) > _MAX_ROOT or not _ROOT.fullmatch(root):
            raise CdaError(f"{self.path}/@root", "oid", "a root is an OID or a UUID")
        return InstanceId(root, self.attribute("extension"))

    def required_id(self) -> InstanceId:
        """Read an instance identifier that must be there."""
        found = self.identifier()
        if found is None:
            raise CdaError(f"{self.path}/@root", "required", "an identifier has a root")
        return found

    def optional_id(self, name: str) -> InstanceId | None:
        """Read the first child of that name that is an identifier."""
        return next((found for item in self.every(name) if (found := item.identifier())), None)

    def coded(self) -> Code | None:
        """Read a coded value; None where it has a nullFlavor, no code or no system."""
        code, system = self.attribute("code"), self.attribute("codeSystem")
        if code is None or system is None or self.attribute("nullFlavor"):
            return None
        return Code(code, system, self.attribute("displayName"))

    def required_code(self) -> Code:
        """Read a coded value that must be there."""
        found = self.coded()
        if found is None:
            raise CdaError(self.path, "required", "a code and its system are needed")
        return found

    def code(self, name: str) -> Code | None:
        """Read the first child of that name as a coded value."""
        child = self.first(name)
        return child.coded() if child else None

    def _value(self) -> str:
        value = self.attribute("value")
        if value is None:
            raise CdaError(f"{self.path}/@value", "required", "this value is missing")
        return value

    def _bounded(self, text: str, part: str) -> str | None:
        if len(text) > MAX_TEXT:
            raise CdaError(self.path + part, "length", f"longer than {MAX_TEXT} characters")
        return text or None
