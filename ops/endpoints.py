"""Where a running local stack listens, written at its start and read by the other commands."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ops.local.stack import Stack
from ops.local.state import OPENID, Endpoint, State, write_whole

_FILE = "endpoints.json"


class NotRunning(Exception):
    """No stack has been started on this state."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """`http` is a URL, `relay` and the services are `host:port` (several replicas as a gRPC target)."""

    http: str
    relay: str
    identity: str
    consent: str
    document: str
    audit: str
    mutual_tls: str = ""
    """A URL: the OAuth forms for clients that show a certificate."""
    operators: str = ""
    """`host:port`: where `dmp partner` goes."""
    openid: str = ""
    """A URL: the local OpenID provider."""


def publish(stack: Stack) -> Endpoints:
    """Write down where `stack` listens."""
    endpoints = Endpoints(
        http=f"https://{stack.http_address()}",
        relay=stack.address("gateway"),
        identity=stack.target("identity"),
        consent=stack.target("consent"),
        document=stack.target("document"),
        audit=stack.target("audit"),
        mutual_tls=f"https://{stack.ports.address(Endpoint('gateway', channel='mutual-tls'))}",
        operators=stack.ports.address(Endpoint("gateway", channel="operator")),
        openid=f"https://{stack.ports.address(OPENID)}",
    )
    write_whole(stack.state.root / _FILE, json.dumps(asdict(endpoints), indent=2), mode=0o644)
    return endpoints


def published(state: State) -> Endpoints:
    """Where the stack of `state` listens; NotRunning if none was ever started."""
    path = state.root / _FILE
    if not path.exists():
        raise NotRunning("no platform has been started here; run `make run` first")
    return Endpoints(**json.loads(path.read_bytes()))
