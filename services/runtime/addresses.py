"""From which network address a call reached the platform, as the trail keeps it. Pure.

It is the other end of the caller's own connection, as the process that he is connected to sees it: the gateway sends it
on with each call, and no other peer is believed. Behind a terminator the other end is the terminator's socket, and the
address is not known.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

ADDRESS_HEADER: Final = "x-forwarded-for"
"""What the gateway sends the address in: one address, never a list."""
_LONGEST: Final = 64


@lru_cache(maxsize=4096)
def read_address(text: str) -> str:
    """An address in its usual form; empty for what is none."""
    if not text or len(text) > _LONGEST:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


@lru_cache(maxsize=4096)
def peer_address(peer: str) -> str:
    """The address in what gRPC says of the other end, such as `ipv4:192.0.2.1:41234` or `ipv6:%5B::1%5D:41234`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").replace("%25", "%")
    return read_address(host.strip("[]").partition("%")[0])
