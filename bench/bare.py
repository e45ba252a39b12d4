"""The baseline of the FHIR front: Granian and Starlette that answer one fixed FHIR resource over TLS, nothing else."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_BODY = b'{"resourceType":"DocumentReference","status":"current","description":"' + b"x" * 1500 + b'"}'


async def _answer(_: Request) -> Response:
    return Response(_BODY, media_type="application/fhir+json")


async def main(address: str, certificate: Path, key: Path) -> None:
    """Serve until killed."""
    host, _, port = address.rpartition(":")
    logging.getLogger("granian").setLevel(logging.WARNING)
    server = Server(
        Starlette(routes=[Route("/{path:path}", _answer, methods=["GET", "POST"])]),
        address=host,
        port=int(port),
        interface=Interfaces.ASGI,
        http=HTTPModes.auto,
        log_enabled=False,
        ssl_cert=certificate,
        ssl_key=key,
    )
    await server.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.bare")
    parser.add_argument("address")
    parser.add_argument("certificate", type=Path)
    parser.add_argument("key", type=Path)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(arguments.address, arguments.certificate, arguments.key))
