"""Text that may be stored and compared: no control characters in what a request says. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""C0 controls but for tab and line ends, and DEL."""


def control_characters(message: Message, path: str = "") -> Iterator[str]:
    """The paths of the string fields, at any depth, that hold a control character."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if any(_CONTROL.search(text) for text in texts):
                yield name
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.is_repeated:
                for index, item in enumerate(value):
                    yield from control_characters(item, f"{name}[{index}]")
            else:
                yield from control_characters(value, name)
