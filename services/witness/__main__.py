"""Starts a witness: key, logs, store, HTTP. It shares no key, no store and no network identity with the platform.

Settings, in the environment:

    DMP_WITNESS_LISTEN     host:port; TLS, where the network needs it, is a terminator's affair (checkpoints are signed)
    DMP_WITNESS_KEY_FILE   its key, of type 0x04 (`dmp audit new-key --witness`)
    DMP_WITNESS_LOGS_FILE  the logs that it watches, a policy of `log` lines (c2sp.org/tlog-policy)
    DMP_WITNESS_STORE      its SQLite file
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import time

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server as HttpServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.runtime.server import StartRefused, stop_on_signals
from services.runtime.tlog.note import COSIGNATURE, NoteWrong, Signer
from services.runtime.tlog.policy import PolicyWrong, parse_policy
from services.witness.cosigning import Answer, Witness
from services.witness.settings import WitnessSettings
from services.witness.store import WitnessStore

_LONGEST_BODY = 256 << 10
"""Room for 63 lines of proof and 16 signatures of the longest kind, as c2sp.org/signed-note asks for."""


def make(settings: WitnessSettings) -> tuple[Witness, WitnessStore]:
    """The witness of these settings. Raises StartRefused."""
    try:
        signer = Signer.parse(settings.key_file.read_text("utf-8").strip())
    except (OSError, NoteWrong) as error:
        raise StartRefused(f"DMP_WITNESS_KEY_FILE: {error}") from None
    if signer.kind != COSIGNATURE:
        raise StartRefused("DMP_WITNESS_KEY_FILE: the key of a witness has the type 0x04")
    try:
        policy = parse_policy(settings.logs_file.read_text("utf-8"))
        store = WitnessStore.open(settings.store)
    except PolicyWrong as error:
        raise StartRefused(f"DMP_WITNESS_LOGS_FILE: {error}") from None
    except sqlite3.Error as error:
        raise StartRefused(f"DMP_WITNESS_STORE: {error}") from None
    return Witness(signer, [log.key for log in policy.logs], store, time.time), store


def application(witness: Witness) -> Starlette:
    """The protocol over HTTP."""

    async def add_checkpoint(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _LONGEST_BODY:
                return Response("too long\n", 413)
        return _response(witness.add_checkpoint(bytes(body)))

    async def newest(request: Request) -> Response:
        return _response(witness.newest(request.path_params["origin"]))

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin}/checkpoint", newest, methods=["GET"]),
        ]
    )


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, {"cache-control": "no-store"}, answer.content_type)


async def main() -> None:
    """Serve until told to stop."""
    settings = WitnessSettings()
    witness, store = make(settings)
    host, _, port = settings.listen.rpartition(":")
    logging.getLogger("granian").setLevel(logging.WARNING)
    server = HttpServer(
        application(witness),
        address=host.strip("[]"),
        port=int(port),
        interface=Interfaces.ASGI,
        http=HTTPModes.auto,
        websockets=False,
        log_enabled=False,
    )
    stop = stop_on_signals()
    serving = asyncio.ensure_future(server.serve())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.stop()  # type: ignore[no-untyped-call]  # the library types nothing here
    await serving
    store.close()


if __name__ == "__main__":
    try:
        uvloop.run(main())
    except (StartRefused, ValueError) as refused:
        print(refused, file=sys.stderr)  # noqa: T201 (before or beyond the logs)
        raise SystemExit(2) from None
