"""moto's S3 server behind the switch of `lying_store`."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from typing import Any

from tests.lying_store import Environ, LyingStore, StartResponse

_BUCKET = "documents"
STORE = f"s3://{_BUCKET}/dmp"


class LyingS3(LyingStore):
    """S3, in this process."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._app: Any = DomainDispatcherApplication(create_backend_app)
        super().__init__()

    @property
    def place(self) -> str:
        return STORE

    @property
    def config(self) -> dict[str, str]:
        return {
            "aws_endpoint": self.url,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
            "aws_region": "us-east-1",
            "allow_http": "true",
        }

    def prepare(self) -> None:
        request = urllib.request.Request(f"{self.url}/{_BUCKET}", method="PUT")  # noqa: S310 (our own server)
        urllib.request.urlopen(request).close()  # noqa: S310

    def honest(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def names_object(self, path: str) -> bool:
        return path.count("/") > 1
