"""What a pod does before its service is told to stop, where Envoy stands before it: `python -m ops.drain SOCKET SECS`.

Callers keep their connections to Envoy, so they would learn of the end only by failing. Envoy first sends each of them
elsewhere with its next answer (HTTP/2 GOAWAY) and goes on serving; then it accepts no more connections. The standard
library only: it runs at each stop, beside a service that still works.
"""

from __future__ import annotations

import http.client
import socket
import sys
import time
from pathlib import Path
from typing import Final

_TELL_CALLERS: Final = "/drain_listeners?graceful&skip_exit"
_ACCEPT_NO_MORE: Final = "/drain_listeners"
_ANSWER_SECONDS: Final = 2.0


class _Admin(http.client.HTTPConnection):
    """Envoy's administration, on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Called by the library at the first request."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def drain(admin: Path, seconds: float) -> None:
    """Return when callers had `seconds` to go elsewhere. Raises OSError when Envoy does not do as it is told."""
    _post(admin, _TELL_CALLERS)
    time.sleep(seconds)
    _post(admin, _ACCEPT_NO_MORE)


def _post(admin: Path, command: str) -> None:
    connection = _Admin(admin)
    try:
        connection.request("POST", command)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"Envoy answered {answer.status} to {command}")
    finally:
        connection.close()


if __name__ == "__main__":
    drain(Path(sys.argv[1]), float(sys.argv[2]))
