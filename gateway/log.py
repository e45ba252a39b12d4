"""The audit logs as the public sees them (c2sp.org/tlog-tiles): checkpoints, tiles and entries, for whoever asks.

    GET /log/<name>/checkpoint
    GET /log/<name>/tile/<level>/<n>[.p/<w>]
    GET /log/<name>/tile/entries/<n>[.p/<w>]

`<name>` is what follows `/log/` in the log's origin, or the whole origin. No caller is known and nothing is traced:
nothing in a tree tells who or what. Tiles are immutable, so they may be kept for ever; what is not there
yet may be tomorrow, so its absence is not kept.
"""

from __future__ import annotations

import gzip
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dmp.audit.v1 import log_pb2
from gateway.admission import admitted
from services.runtime.channels import Peer
from services.runtime.errors import DmpError
from services.runtime.limits import BATCH
from services.runtime.tlog.layout import CHECKPOINT_PATH, Bundle, Tile, parse_path

_AUDIT: Final = "/dmp.audit.v1.AuditService"
_TIMEOUT: Final = 5.0
_LOGS_KEPT: Final = 60.0
_IMMUTABLE: Final = {"cache-control": "public, max-age=31536000, immutable"}
_BRIEF: Final = {"cache-control": "public, max-age=1"}
_NEVER: Final = {"cache-control": "no-store"}
_OCTETS: Final = "application/octet-stream"


class LogPages:
    """Serves what the audit service publishes."""

    def __init__(self, audit: Peer) -> None:
        self._list = audit.unary(f"{_AUDIT}/ListLogs", log_pb2.ListLogsRequest, log_pb2.ListLogsResponse)
        self._checkpoint = audit.unary(
            f"{_AUDIT}/GetCheckpoint", log_pb2.GetCheckpointRequest, log_pb2.GetCheckpointResponse
        )
        self._tile = audit.unary(f"{_AUDIT}/GetTile", log_pb2.GetTileRequest, log_pb2.GetTileResponse)
        self._bundle = audit.unary(
            f"{_AUDIT}/GetEntryBundle", log_pb2.GetEntryBundleRequest, log_pb2.GetEntryBundleResponse
        )
        self._logs: dict[str, int] = {}
        self._look_again = 0.0

    def routes(self) -> list[Route]:
        """What to register."""
        return [Route("/log/{path:path}", self.get, methods=["GET"])]

    async def get(self, request: Request) -> Response:
        """One resource of one log."""
        await admitted(request, BATCH, _TIMEOUT)
        try:
            return await self._get(request)
        except DmpError:
            return PlainTextResponse("the log cannot be read right now\n", 503, {**_NEVER, "retry-after": "1"})

    async def _get(self, request: Request) -> Response:
        name, resource = _divided(request.path_params["path"])
        log_id = await self._log(name) if resource else None
        if log_id is None:
            return PlainTextResponse("no such log\n", 404, _NEVER)
        if resource == CHECKPOINT_PATH:
            found = await self._checkpoint(log_pb2.GetCheckpointRequest(log_id=log_id), timeout=_TIMEOUT)
            return Response(found.checkpoint, 200, _BRIEF, "text/plain; charset=utf-8")
        wanted = parse_path(resource)
        content = None if wanted is None else await self._content(log_id, wanted)
        if content is None:
            return PlainTextResponse("no such tile\n", 404, _NEVER)
        if not isinstance(wanted, Bundle):
            return Response(content, 200, _IMMUTABLE, _OCTETS)
        headers = {**_IMMUTABLE, "vary": "accept-encoding"}  # on both: a cache keeps the first that it sees for a year
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            content = gzip.compress(content, 1, mtime=0)
        return Response(content, 200, headers, _OCTETS)

    async def _content(self, log_id: int, wanted: Tile | Bundle) -> bytes | None:
        if isinstance(wanted, Bundle):
            bundle = await self._bundle(
                log_pb2.GetEntryBundleRequest(log_id=log_id, index=wanted.number, width=wanted.width),
                timeout=_TIMEOUT,
            )
            return bundle.entries if bundle.found else None
        tile = await self._tile(
            log_pb2.GetTileRequest(log_id=log_id, level=wanted.level, index=wanted.number, width=wanted.width),
            timeout=_TIMEOUT,
        )
        return tile.hashes if tile.found else None

    async def _log(self, name: str) -> int | None:
        """The log of a name; the list of logs is asked for again once a minute, and when a name is not in it."""
        now = time.monotonic()
        if now >= self._look_again or (name not in self._logs and not self._logs):
            listed = await self._list(log_pb2.ListLogsRequest(), timeout=_TIMEOUT)
            self._logs = {origin: log.log_id for log in listed.logs for origin in _names(log.origin)}
            self._look_again = now + _LOGS_KEPT
        return self._logs.get(name)


def _names(origin: str) -> tuple[str, str]:
    """What a log is called in a path: its origin, or what follows `/log/` in it."""
    return origin, origin.partition("/log/")[2] or origin


def _divided(path: str) -> tuple[str, str]:
    """The name of the log and of the resource; empty for a path that is neither."""
    if path.endswith(f"/{CHECKPOINT_PATH}"):
        return path.removesuffix(f"/{CHECKPOINT_PATH}"), CHECKPOINT_PATH
    name, found, rest = path.rpartition("/tile/")
    return name, f"tile/{rest}" if found else ""
