"""Text that may be stored and compared: no control characters in what a request says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_NUL: Final = re.compile(r"\x00")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""C0 controls but for tab and line ends, and DEL."""


def control_characters(message: Message) -> Iterator[str]:
    """The paths of the string fields, at any depth, that hold a control character."""
    return _holding(_CONTROL, message, "")


def nul_characters(message: Message) -> Iterator[str]:
    """The paths of the string fields, at any depth, that hold U+0000, which PostgreSQL stores in no text."""
    return _holding(_NUL, message, "")


def _holding(unwanted: re.Pattern[str], message: Message, path: str) -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if any(unwanted.search(text) for text in texts):
                yield name
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.is_repeated:
                for index, item in enumerate(value):
                    yield from _holding(unwanted, item, f"{name}[{index}]")
            else:
                yield from _holding(unwanted, value, name)
