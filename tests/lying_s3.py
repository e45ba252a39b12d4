"""moto's S3 server behind a switch: it may refuse to write, stall, say that it has written and keep nothing, or give
other bytes than it keeps, or say that it has none."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from werkzeug.serving import make_server

from services.document.objects import ObjectStore

_BUCKET = "documents"
STORE = f"s3://{_BUCKET}/dmp"


class LyingS3:
    """An S3 server of our own process. `mode`: "" honest; writes: `refuse`, `stall`, `lie`; reads: `alter`,
    `deny`. The first `spared` writes are honest in any mode; `written` counts them all."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.mode = ""
        self.spared = self.written = 0
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        import urllib.request

        request = urllib.request.Request(f"{self.url}/{_BUCKET}", method="PUT")  # noqa: S310 (our own server)
        urllib.request.urlopen(request).close()  # noqa: S310
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def config(self) -> dict[str, str]:
        """What reaches it, as obstore names it."""
        return {
            "aws_endpoint": self.url,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
            "aws_region": "us-east-1",
            "allow_http": "true",
        }

    def store(self, timeout: float = 3.0) -> ObjectStore:
        """The object store of the service, at this server."""
        return ObjectStore(STORE, self.config, timeout=timeout)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        of_object = environ["PATH_INFO"].count("/") > 1
        reads, writes = (
            of_object and environ["REQUEST_METHOD"] == "GET",
            of_object and environ["REQUEST_METHOD"] == "PUT",
        )
        if writes:
            self.written += 1
            if self.spared:
                self.spared -= 1
                return self._app(environ, start_response)
        if reads and self.mode == "deny":
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        if reads and self.mode == "alter":
            body = b"".join(self._app(environ, start_response))
            return [body[:-1] + bytes([body[-1] ^ 1]) if body else body]
        if writes and self.mode == "refuse":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if writes and self.mode == "stall":
            time.sleep(8)
        if writes and self.mode == "lie":
            length = int(environ.get("CONTENT_LENGTH") or 0)
            environ["wsgi.input"].read(length)
            start_response("200 OK", [("Content-Length", "0"), ("ETag", '"0"')])
            return [b""]
        return self._app(environ, start_response)
