"""The call being served: who acts, in which method, until when. Set by the interceptor, read by handlers."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Final, NamedTuple

from dmp.common.v1 import access_pb2
from dmp.common.v1.context_pb2 import ActingContext, ItemContext
from services.runtime.access import MethodAccess
from services.runtime.wire import varint


class Call(NamedTuple):
    """One RPC as authenticated.

    `actor` comes from a verified token (empty for calls between services, whose items carry their
    own); it is shared between calls of one token and never modified. `deadline` is a
    time.monotonic() instant, None without one. `health_id` is the dossier named by the routing
    field, 0 without one. `address` is the network address from which it reached the platform, empty when not known.

    A tuple, for each call makes it more than once, and a frozen dataclass costs four times as much.
    """

    actor: ActingContext
    caller: int
    client_id: str
    peer: str
    request_id: str
    deadline: float | None
    traceparent: str
    method: MethodAccess
    health_id: int = 0
    address: str = ""

    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one, never negative."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        return left if left > 0 else 0.0

    def routed(self, request_id: str, health_id: int) -> Call:
        """This call, with what its routing fields say."""
        return Call(
            self.actor,
            self.caller,
            self.client_id,
            self.peer,
            request_id,
            self.deadline,
            self.traceparent,
            self.method,
            health_id,
            self.address,
        )

    def within(self, health_id: int) -> Call:
        """This call as one about a dossier that its request does not name."""
        return self._replace(health_id=health_id)

    @property
    def trace_id(self) -> str:
        """The 32 hexadecimal digits of the trace, empty without one."""
        return self.traceparent[3:35]

    def item_bytes(self) -> bytes:
        """`item`, serialized: a quarter of the time."""
        actor, request_id = self.actor.SerializeToString(), self.request_id.encode()
        traceparent = self.traceparent.encode()
        remaining = self.remaining()
        timeout_ms = 0 if remaining is None else max(1, int(remaining * 1000))
        return b"\x0a%b%b\x12%b%b\x18%b\x22%b%b" % (
            varint(len(actor)),
            actor,
            varint(len(request_id)),
            request_id,
            varint(timeout_ms),
            varint(len(traceparent)),
            traceparent,
        )

    def item(self) -> ItemContext:
        """This call as the context of an item in a batch to another service."""
        remaining = self.remaining()
        return ItemContext(
            actor=self.actor,
            request_id=self.request_id,
            timeout_ms=0 if remaining is None else max(1, int(remaining * 1000)),
            traceparent=self.traceparent,
        )


_MANY: Final = 64
_FEW: Final = 16
_WAITING: Final = 1
_REMEMBERED: Final = 1.0
"""Seconds after the last emergency."""

_last_urgent = float("-inf")
_current: ContextVar[Call] = ContextVar("dmp_call")
_traffic: ContextVar[int] = ContextVar("dmp_traffic", default=access_pb2.TRAFFIC_CLASS_CARE)


def current_call() -> Call:
    """The call being served in this task; LookupError outside of one."""
    return _current.get()


def is_on_trial() -> bool:
    """Whether the call being served is of software on trial, which may reach fictitious people only. The platform's own
    work, outside of a call, is not."""
    call = _current.get(None)
    return call is not None and call.actor.sandbox


def bound_patient() -> int:
    """The health id of the one patient whom the token of the call being served names; 0 for none, and outside of a
    call."""
    call = _current.get(None)
    return call.actor.patient_health_id if call is not None else 0


def traffic() -> int:
    """The class of what runs now (`access_pb2.TrafficClass`), which has lanes of its own at the queues on its way;
    everyday work where nobody said."""
    return _traffic.get()


def is_urgent() -> bool:
    """Whether what runs now is done for an emergency: it goes before other work that waits."""
    return _traffic.get() == access_pb2.TRAFFIC_CLASS_EMERGENCY


def go_on_as(traffic: int) -> None:
    """What this task does from here on, and the tasks that it starts, is of this class."""
    global _last_urgent  # noqa: PLW0603 (one event loop a process: an instant, not a state)
    _traffic.set(traffic)
    if traffic == access_pb2.TRAFFIC_CLASS_EMERGENCY:
        _last_urgent = time.monotonic()


def hurry() -> None:
    """What this task does from here on, and the tasks that it starts, is done for an emergency."""
    go_on_as(access_pb2.TRAFFIC_CLASS_EMERGENCY)


def callers_a_turn() -> int:
    """How many callers may begin or go on in one turn of the event loop. Of batch work few, so that everybody else has
    a turn between them. Of other work few while emergencies come, since each waits for its own turn at every step of
    its way; else many, for short turns cost CPU (docs/decisions/0011)."""
    if _traffic.get() == access_pb2.TRAFFIC_CLASS_BATCH:
        return _WAITING
    return _FEW if time.monotonic() - _last_urgent < _REMEMBERED else _MANY


def enter(call: Call) -> None:
    """Make `call` the current one of this task. gRPC serves each call in a task of its own."""
    _current.set(call)
