"""The baseline: a `grpc.aio` server that gives back the bytes it gets, as a process of its own. Nothing else is here.
At a Unix socket it is the native server instead, for what that transport alone allows.

It has what every service has (grpcio, uvloop, one event loop, the same transport options, the same mutual TLS) and
none of what a service does, so that its rate is what the transport alone allows on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import uvloop

from services.runtime import tls
from services.runtime.boundary import Rpcs
from services.runtime.native import NativeServer
from services.runtime.server import stop_on_signals
from services.runtime.settings import UNIX, ServiceSettings
from services.runtime.transport import server_options

PATH = "/dmp.bench.v1.Echo/Echo"
"""The only method."""
_LARGEST: Final = 4 << 20


class Echo(Rpcs):
    """Answers each call with its request."""

    def __init__(self) -> None:
        super().__init__({PATH: grpc.unary_unary_rpc_method_handler(_same)})


async def _same(data: bytes, _context: object) -> bytes:
    return data


async def serve(listen: str, directory: Path | None, ca: Path | None) -> None:
    """Serve until SIGTERM; with mutual TLS by the certificate in `directory`, in clear without one or at a socket."""
    stop = stop_on_signals()
    if listen.startswith(UNIX):
        native = NativeServer(listen.removeprefix(UNIX), Echo().handlers, max_message_bytes=_LARGEST)
        await native.start()
        await stop.wait()
        await native.stop(1)
        return
    server = grpc.aio.server(options=server_options(ServiceSettings()))
    server.add_generic_rpc_handlers((Echo(),))
    if directory is None or ca is None:
        server.add_insecure_port(listen)
    else:
        server.add_secure_port(listen, tls.server_credentials(directory / "tls.pem", directory / "tls.key", ca))
    await server.start()
    await stop.wait()
    await server.stop(1)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.echo")
    parser.add_argument("listen", help="host:port, or unix:/path for the native server")
    parser.add_argument("--identity", type=Path, help="directory of tls.pem and tls.key; in clear without it")
    parser.add_argument("--ca", type=Path, help="who signs the certificates of clients")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.listen, arguments.identity, arguments.ca))


if __name__ == "__main__":
    main()
