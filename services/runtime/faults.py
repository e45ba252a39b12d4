"""Fault points: named instants at which a test makes a process die or freeze. In production they are never armed.

Lives here: the names of all points, and what happens at an armed one. A point costs one look at an empty dictionary.
The setting `fault_points` (refused in production) holds `<point>=<fault>` or `<point>=<fault>:<n>`: it strikes at the
n-th passage, by default the first. Faults: `kill` (SIGKILL to this process, so that nothing is flushed or rolled back)
and `freeze` (SIGSTOP, until somebody sends SIGCONT).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Final

POINTS: Final = frozenset(
    {
        "submit.entered",
        "submit.prepared",
        "submit.verified",
        "submit.content_stored",
        "submit.begun",
        "submit.locked",
        "submit.keyed",
        "submit.read",
        "submit.written",
        "submit.before_commit",
        "submit.after_commit",
        "change.locked",
        "change.before_commit",
        "change.after_commit",
        "reading.opened",
        "reading.read",
        "reading.locked",
        "reading.cleared",
        "reading.before_commit",
        "reading.after_commit",
        "reading.before_advance",
        "move.stored",
        "move.committed",
        "consent.before_commit",
        "consent.after_commit",
        "sequencer.before_commit",
        "sequencer.after_commit",
        "integrate.before_commit",
        "integrate.after_commit",
        "publish.before",
        "publish.after",
        "destroy.told",
        "destroy.key_gone",
        "destroy.ended",
        "retention.told",
        "relay.before_deliver",
        "relay.before_delete",
        "relay.after_delete",
        "record.before",
        "record.after",
        "reply.before",
    }
)
"""Every point there is: `record` is a read's or a refusal's event on its way to the log, `reply` a unary answer."""

_SIGNALS: Final = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


class FaultUnknown(Exception):
    """A setting names a point or a fault that does not exist."""


class _Armed:
    """A fault that strikes once, at the last of `passages`."""

    __slots__ = ("number", "passages")

    def __init__(self, number: signal.Signals, passages: int) -> None:
        self.number = number
        self.passages = passages


_armed: dict[str, _Armed] = {}


def point(name: str) -> None:
    """Pass a point; `name` is one of POINTS. Does nothing unless a test has armed it."""
    if _armed:
        _pass(name)


def arm(settings: Iterable[str]) -> None:
    """Arm what the setting `fault_points` holds, in place of what was armed before. Raises FaultUnknown."""
    armed: dict[str, _Armed] = {}
    for setting in settings:
        name, _, fault = setting.partition("=")
        kind, _, passages = fault.partition(":")
        if name not in POINTS or kind not in _SIGNALS or not (passages or "1").isdecimal():
            raise FaultUnknown(f"{setting}: not <point>=kill|freeze[:n] with a point of services/runtime/faults.py")
        armed[name] = _Armed(_SIGNALS[kind], int(passages or "1"))
    _armed.clear()
    _armed.update(armed)


def _pass(name: str) -> None:
    fault = _armed.get(name)
    if fault is None:
        return
    fault.passages -= 1
    if fault.passages == 0:
        os.kill(os.getpid(), fault.number)
