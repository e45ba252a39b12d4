"""Sending callers elsewhere before a service stops, told to an Envoy that only notes what it is told."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.drain import drain


class Notes(http.server.BaseHTTPRequestHandler):
    """Notes each command, and answers as the server says."""

    server: Envoy

    def do_POST(self) -> None:
        self.server.commands.append(self.path)
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Silent."""


class Envoy(socketserver.UnixStreamServer):
    """An administration port on a Unix socket."""

    def __init__(self, path: Path, answer: int) -> None:
        super().__init__(str(path), Notes)
        self.answer = answer
        self.commands: list[str] = []

    def get_request(self) -> tuple[object, object]:  # type: ignore[override]  # a handler wants a client's address
        connection, _ = super().get_request()
        return connection, ("", 0)


@contextmanager
def running(path: Path, answer: int = 200) -> Iterator[Envoy]:
    with Envoy(path, answer) as envoy:
        thread = threading.Thread(target=envoy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield envoy
        finally:
            envoy.shutdown()
            thread.join()


def test_callers_are_told_before_connections_are_refused(tmp_path: Path) -> None:
    with running(tmp_path / "envoy.sock") as envoy:
        drain(tmp_path / "envoy.sock", 0)
    assert envoy.commands == ["/drain_listeners?graceful&skip_exit", "/drain_listeners"]


def test_an_envoy_that_refuses_is_an_error(tmp_path: Path) -> None:
    with running(tmp_path / "envoy.sock", answer=405), pytest.raises(OSError, match="405"):
        drain(tmp_path / "envoy.sock", 0)


def test_an_envoy_that_is_gone_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        drain(tmp_path / "envoy.sock", 60)
