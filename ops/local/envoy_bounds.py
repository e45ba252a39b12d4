"""How much a terminator lets in at once, by class: what is beyond is pushed back before the service has seen it.

A refusal here costs a tenth of what it costs in Python, so a crowd that asks for twice what can be served takes little
away from those who are served (docs/decisions/0011-overload.md). The service's own limit, which moves, is behind it.

A class is known from what is cheap to see: who is connected, and what the client says in `x-dmp-traffic`. Each has an
upstream cluster of its own, so connections of its own: an emergency does not stand behind everyday calls. Who says
`emergency` without a token that does has won no place: the service takes its class from the token.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from dmp.common.v1 import error_reason_pb2 as reasons
from services.runtime.errors import DETAILS_KEY, DmpError, to_status
from services.runtime.limits import BATCH, EMERGENCY, NAMES, TRAFFIC_HEADER
from services.runtime.settings import ServiceSettings
from services.runtime.terminator import FORWARDED_CERTIFICATE
from services.runtime.tls import TRUST_DOMAIN

_DEFAULTS: Final = ServiceSettings()
_QUEUED: Final = 128
"""Calls beyond the most that a service works on, which wait there for their turn, so that no place is ever empty."""
_PUSHED_BACK_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """Which requests (all matchers of `headers` hold), the cluster that takes them, how many of them at once."""

    cluster: str
    most: int
    headers: tuple[dict[str, Any], ...] = ()


_OF_SERVICES: Final = {
    "name": FORWARDED_CERTIFICATE,
    "string_match": {"contains": f"URI=spiffe://{TRUST_DOMAIN}/service/"},
}
_UNBOUNDED: Final = 4096
CLASSES: Final = (
    TrafficClass("services", _UNBOUNDED, (_OF_SERVICES,)),
    TrafficClass("emergencies", _UNBOUNDED, ({"name": TRAFFIC_HEADER, "string_match": {"exact": NAMES[EMERGENCY]}},)),
    TrafficClass(
        "batch",
        int(_DEFAULTS.concurrency_max * _DEFAULTS.batch_share) + _QUEUED,
        ({"name": TRAFFIC_HEADER, "string_match": {"exact": NAMES[BATCH]}},),
    ),
    TrafficClass("care", _DEFAULTS.concurrency_max + _QUEUED),
)
"""The first that matches is a request's. Work of the platform's services was let in where it entered."""
STREAMS: Final = TrafficClass("streams", _UNBOUNDED)
"""What lasts as long as its client likes, and so would keep everybody else's calls out: it has no place of the service
either once it has begun."""
CLUSTERS: Final = (*CLASSES, STREAMS)


def probes() -> dict[str, Any]:
    """The route of health checks: whether a service is there is asked most when it is busy."""
    return {"match": {"prefix": "/grpc.health.v1.Health/"}, "route": {"cluster": CLASSES[0].cluster, "timeout": "0s"}}


def routes() -> Iterable[dict[str, Any]]:
    """A route for each class."""
    for each in CLASSES:
        headers = {"headers": list(each.headers)} if each.headers else {}
        yield {"match": {"prefix": "/"} | headers, "route": {"cluster": each.cluster, "timeout": "0s"}}


def thresholds(each: TrafficClass) -> dict[str, Any]:
    """The circuit breaker of a class's cluster."""
    return {"max_connections": 8, "max_pending_requests": each.most, "max_requests": each.most}


def pushed_back() -> dict[str, Any]:
    """What those beyond are told: OVERLOADED, as the service says it. They are spread over a second by the millisecond
    of their coming, so that those refused together do not come back together."""
    error = DmpError(reasons.ERROR_REASON_OVERLOADED, retry_after=_PUSHED_BACK_SECONDS)
    details = base64.b64encode(to_status(error).SerializeToString()).decode("ascii").rstrip("=")
    said = {
        "grpc-message": error.message,
        DETAILS_KEY: details,
        "grpc-retry-pushback-ms": f"{_PUSHED_BACK_SECONDS}%START_TIME(%3f)%",
    }
    return {
        "filter": {"response_flag_filter": {"flags": ["UO"]}},
        "headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in said.items()
        ],
    }
