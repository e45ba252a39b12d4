"""Logs: one JSON object a line, with nothing personal in it.

Three gates, for our own loggers (structlog or logging) and every library's: only the keys of `names.LogKey` pass;
exceptions leave their type and the places they went through but not their text, unless they are DmpError (others may
quote values: a unique violation shows the row); and anything that has the shape of a NIR is cut out of what passes.
What was kept out is counted, and its key (not its value) shown as `dropped`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal
from uuid import UUID

import orjson
import structlog

from services.runtime.errors import DmpError
from services.runtime.names import LOG_KEYS

Event = MutableMapping[str, Any]

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OURS: Final = ("services.", "gateway.", "ops.")
_MAX_FRAMES: Final = 20
_PLAIN_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NIR: Final = re.compile(  # 13 characters, or 15 with the key; Corsica's departments are 2A and 2B
    r"(?<![0-9A-Za-z])[1-478]\s?\d{2}\s?\d{2}\s?\d[\dABab]\s?\d{3}\s?\d{3}(?:\s?\d{2})?(?![0-9A-Za-z])"
)


class Redaction:
    """The gates, as a structlog processor. `dropped` is called with the number of fields that it kept out."""

    def __init__(self, dropped: Callable[[int], None]) -> None:
        self._dropped = dropped

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        describe_exception(event)
        refused = sorted(key for key in event if key not in LOG_KEYS)
        for key in refused:
            del event[key]
        cut = 0
        for key, value in event.items():
            clean, cuts = _clean(value)
            if cuts:
                event[key] = clean
                cut += cuts
        if refused:
            event["dropped"] = refused
        if refused or cut:
            self._dropped(len(refused) + cut)
        return event


def _clean(value: object) -> tuple[object, int]:
    """The value without NIRs, and how many things were cut out of it. Only scalars and lists of them pass."""
    if isinstance(value, str):
        return _NIR.subn("[removed]", value)
    if value is None or isinstance(value, (bool, int, float)):
        return value, 0
    if isinstance(value, (list, tuple)):
        pairs = [_clean(item) for item in value]
        return [item for item, _ in pairs], sum(cuts for _, cuts in pairs)
    if isinstance(value, (PurePath, UUID, datetime, Enum)):
        return _clean(str(value))
    return f"[{type(value).__name__}]", 1


def describe_exception(event: Event) -> None:
    """Replace `exc_info` by the error's type, those of its causes, and its stack; by its text for a DmpError alone."""
    info = event.pop("exc_info", None)
    if not info:
        return
    error = info if isinstance(info, BaseException) else (info[1] if isinstance(info, tuple) else sys.exc_info()[1])
    if error is None:
        return
    event["error_type"] = _type_name(error)
    event["error_stack"] = _frames(error.__traceback__)
    causes = _causes(error)
    if causes:
        event["error_causes"] = causes
    if isinstance(error, DmpError):
        event["error"] = error.message
        event["reason"] = error.reason_name


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _causes(error: BaseException) -> list[str]:
    """Types of the errors behind this one: its chain of causes, or the members of a group."""
    if isinstance(error, BaseExceptionGroup):
        return [_type_name(member) for member in error.exceptions]
    causes: list[str] = []
    behind = error.__cause__ or error.__context__
    while behind is not None and len(causes) < _MAX_FRAMES:
        causes.append(_type_name(behind))
        behind = behind.__cause__ or behind.__context__
    return causes


def _frames(traceback: TracebackType | None) -> list[str]:
    """The innermost places the error went through, `file:line function`, outermost first."""
    frames = [
        f"{'/'.join(PurePath(frame.f_code.co_filename).parts[-3:])}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(traceback)
    ]
    return frames[-_MAX_FRAMES:]


class _LibraryHandler(logging.Handler):
    """Hands records of the logging module to the same gates and renderer.

    The first line of the message only, and of its arguments only numbers unless the logger is ours: libraries put
    values and the text of exceptions there.
    """

    def __init__(self, write: Callable[[Event], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] = {"event": _message(record), "logger": record.name, "level": record.levelname.lower()}
        event |= {key: value for key, value in vars(record).items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        self._write(event)


def _message(record: logging.LogRecord) -> str:
    template = str(record.msg).partition("\n")[0]
    if not record.args:
        return template
    if isinstance(record.args, Mapping):
        return template
    ours = record.name.startswith(_OURS)
    shown = tuple(
        argument if isinstance(argument, (int, float)) or (ours and isinstance(argument, str)) else "…"
        for argument in record.args
    )
    try:
        return template % shown
    except (TypeError, ValueError):
        return template


def configure(
    service: str, level: Literal["debug", "info", "warning", "error"], stream: BinaryIO, dropped: Callable[[int], None]
) -> None:
    """Send every log of this process, ours and the libraries', to `stream`. Replaces an earlier configuration."""
    shared: list[structlog.types.Processor] = [
        lambda _, __, event: {"service": service, **event},
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        Redaction(dropped),
    ]

    def write(event: Event) -> None:
        for processor in shared:
            event = processor(None, "", event)  # type: ignore[assignment]
        stream.write(orjson.dumps(event) + b"\n")
        stream.flush()

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *shared,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(write))
    root.setLevel(max(_LEVELS[level], logging.INFO))
    sys.excepthook = _log_and_die(write)


def _log_and_die(
    write: Callable[[Event], None],
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """What Python calls for an exception that nobody caught; its own printer would show the text."""

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            write({"event": "crashed", "level": "error", "exc_info": (kind, error, traceback)})

    return hook
