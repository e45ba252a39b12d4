"""An object store behind a switch: it may refuse to write, stall, say that it has written and keep nothing, write and
say that it has not, give other bytes than it keeps, or say that it has none.

Lives here: the switch. Which store stands behind it: `lying_s3`, `lying_clouds`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeAlias

from werkzeug.serving import make_server

from services.document.objects import ObjectStore

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]

_LONGEST = 8.0


class LyingStore(ABC):
    """A server of our own process. `mode`: "" honest; writes: `refuse`, `stall`, `lie`, `forget` (one answer is lost
    on its way); reads: `alter`, `deny`. The first `spared` writes are honest in any mode; `written` counts them all."""

    def __init__(self) -> None:
        self.mode = ""
        self.spared = self.written = 0
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    @abstractmethod
    def place(self) -> str:
        """The URL of the store, as the service is told it."""

    @property
    @abstractmethod
    def config(self) -> dict[str, str]:
        """What reaches it, as obstore names it."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the bucket or container."""

    @abstractmethod
    def honest(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """What the store behind the switch answers."""

    @abstractmethod
    def names_object(self, path: str) -> bool:
        """Whether a request's path is that of an object."""

    def store(self, timeout: float = 3.0) -> ObjectStore:
        """The object store of the service, at this server."""
        return ObjectStore(self.place, self.config, timeout=timeout)

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        of_object = self.names_object(environ["PATH_INFO"])
        if of_object and environ["REQUEST_METHOD"] == "GET":
            return self._read(environ, start_response)
        if of_object and environ["REQUEST_METHOD"] == "PUT":
            self.written += 1
            if self.spared:
                self.spared -= 1
            else:
                return self._write(environ, start_response)
        return self.honest(environ, start_response)

    def _read(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self.mode == "deny":
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        if self.mode == "alter":
            body = b"".join(self.honest(environ, start_response))
            return [body[:-1] + bytes([body[-1] ^ 1]) if body else body]
        return self.honest(environ, start_response)

    def _write(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        until = time.monotonic() + _LONGEST
        while self.mode == "stall" and time.monotonic() < until:
            time.sleep(0.05)
        if self.mode == "refuse":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if self.mode == "lie":
            length = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"].read(length)
            start_response("200 OK", [("Content-Length", "0"), ("ETag", '"0"'), ("x-goog-generation", "1")])
            return [b""]
        if self.mode == "forget":
            self.mode = ""
            b"".join(self.honest(environ, lambda *_: None))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return self.honest(environ, start_response)
