"""A typed reader over parsed JSON: each step checks the JSON type and knows the FHIR path that an error names.

Pure: values in, values or DmpError out. An absent element reads as empty ('', None, no items) unless `required`.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Any

import pybase64

from gateway.fhir.refusals import invalid, metadata, unsupported
from services.runtime.errors import DmpError

JsonObject = dict[str, Any]

LONGEST_URI = 1024
LONGEST_CODE = 128
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_CONTROLS_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a resource: its FHIR path and the JSON found there (None when absent)."""

    path: str
    value: Any

    @property
    def present(self) -> bool:
        """Whether the element is there."""
        return self.value is not None

    def error(self, rule: str, description: str) -> DmpError:
        """An INVALID_FIELD error about this place."""
        return invalid(self.path, rule, description)

    def required(self) -> Node:
        """This node; METADATA_ERROR when it is absent."""
        if self.value is None:
            raise metadata(self.path, "required", "this element is required")
        return self

    def object(self) -> JsonObject:
        """The JSON object here; empty when absent."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error("type", "a JSON object is expected here")
        return self.value

    def child(self, name: str) -> Node:
        """The element `name` of the object here."""
        return Node(f"{self.path}.{name}", self.object().get(name))

    def array(self, most: int) -> list[Node]:
        """The items of the array here; none when absent."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.error("type", "a JSON array is expected here")
        if len(self.value) > most:
            raise self.error("max_items", f"at most {most} items")
        items = [Node(f"{self.path}[{index}]", value) for index, value in enumerate(self.value)]
        for item in items:
            if item.value is None:
                raise item.error("type", "null is not an element")
        return items

    def children(self, name: str, most: int) -> list[Node]:
        """The objects of the array `name`."""
        items = self.child(name).array(most)
        for item in items:
            item.object()
        return items

    def text(self, most: int, name: str | None = None) -> str:
        """The string here, or of the element `name`; '' when absent. No controls but line breaks and tabs."""
        return self._string(most, name, _CONTROLS_IN_TEXT)

    def token(self, most: int = LONGEST_CODE, name: str | None = None) -> str:
        """A code: a string on one line, words one space apart; '' when absent."""
        value = self._string(most, name, _CONTROLS)
        if value != " ".join(value.split()):
            raise (self.child(name) if name else self).error("whitespace", "no space around the value, none twice")
        return value

    def uri(self, name: str) -> str:
        """The uri of the element `name`, which has no spaces; '' when absent."""
        value = self.token(LONGEST_URI, name)
        if " " in value:
            raise self.child(name).error("whitespace", "a uri has no spaces")
        return value

    def boolean(self, name: str) -> bool:
        """The boolean of the element `name`; False when absent."""
        node = self.child(name)
        if node.value is None:
            return False
        if not isinstance(node.value, bool):
            raise node.error("type", "true or false is expected here")
        return node.value

    def integer(self, name: str, least: int, most: int) -> int | None:
        """The integer of the element `name`; None when absent. 1.0 and "1" are not integers."""
        node = self.child(name)
        if node.value is None:
            return None
        if not isinstance(node.value, int) or isinstance(node.value, bool):
            raise node.error("type", "a JSON integer is expected here")
        if not least <= node.value <= most:
            raise node.error("range", f"between {least} and {most}")
        return node.value

    def base64(self, name: str) -> bytes | None:
        """The bytes of the base64Binary element `name`; None when absent. White space between characters is allowed."""
        node = self.child(name)
        if node.value is None:
            return None
        if not isinstance(node.value, str):
            raise node.error("type", "a base64 string is expected here")
        text = node.value
        if any(space in text for space in " \t\r\n"):
            text = "".join(text.split())
        if len(text) % 4:
            raise node.error("base64", "the base64 is truncated: its length is not a multiple of four")
        try:
            return pybase64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise node.error("base64", "this is not base64") from None

    def extension(self, *urls: str) -> Node:
        """The extension that has one of these urls; an absent node when there is none."""
        for item in self.children("extension", 64):
            if item.uri("url") in urls:
                return item
        return Node(f"{self.path}.extension('{urls[0]}')", None)

    def refuse_modifiers(self) -> None:
        """Refuse what would change the meaning of the resource and is not understood here."""
        for name in ("modifierExtension", "implicitRules"):
            if self.child(name).present:
                raise unsupported(
                    f"{self.path}.{name}", "an element that may change the meaning is not understood here"
                )

    def _string(self, most: int, name: str | None, controls: re.Pattern[str]) -> str:
        node = self if name is None else self.child(name)
        value = node.value
        if value is None:
            return ""
        if not isinstance(value, str):
            raise node.error("type", "a string is expected here")
        if not value:
            raise node.error("empty", "a string is never empty")
        if len(value) > most:
            raise node.error("max_length", f"at most {most} characters")
        if controls.search(value):
            raise node.error("characters", "no control characters")
        return value
