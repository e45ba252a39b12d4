"""What becomes of the settings of an object store: which store, at which address, with which credentials; and what is
said of those that are wrong. GCS and Azure are servers of our own here, which remember what they were asked; what the
emulators make of it is in `test_document_objects`."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest
from obstore.store import AzureStore, GCSStore, S3Store

from services.document.objects import ObjectStore, StoreMisconfigured
from services.document.store.rows import DocumentKey
from services.runtime.identifiers import new_health_id, uuid7

_KEY = base64.b64encode(b"an account's key").decode()


def configured(directory: Path, url: str, config: object) -> ObjectStore:
    """The store as the service makes it: the configuration is a mounted file."""
    file = directory / "store.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config), "utf-8")
    return ObjectStore.configured(url, file)


def made(store: ObjectStore) -> Any:
    return store._store


def test_s3_has_its_bucket_prefix_region_and_credentials(tmp_path: Path) -> None:
    config = {"aws_region": "eu-west-3", "aws_access_key_id": "id", "aws_secret_access_key": "secret"}
    store = made(configured(tmp_path, "s3://documents/dmp", config))
    assert isinstance(store, S3Store)
    assert store.prefix == "dmp"
    assert (store.config["bucket"], store.config["region"]) == ("documents", "eu-west-3")
    assert (store.config["access_key_id"], store.config["secret_access_key"]) == ("id", "secret")


def test_gcs_has_its_bucket_and_the_service_account_of_a_mounted_file(tmp_path: Path) -> None:
    account = tmp_path / "account.json"
    account.write_text(json.dumps(_account("https://storage.example")))
    store = made(configured(tmp_path, "gs://documents/dmp", {"google_service_account": str(account)}))
    assert isinstance(store, GCSStore)
    assert (store.config["bucket"], store.prefix) == ("documents", "dmp")
    assert store.config["service_account"] == str(account)


def test_azure_has_its_container_account_and_endpoint(tmp_path: Path) -> None:
    config = {
        "azure_storage_account_name": "account",
        "azure_storage_account_key": _KEY,
        "azure_endpoint": "http://127.0.0.1:1/account",
        "allow_http": True,
    }
    store = made(configured(tmp_path, "az://documents/dmp", config))
    assert isinstance(store, AzureStore)
    assert (store.config["container_name"], store.config["account_name"]) == ("documents", "account")
    assert store.config["endpoint"] == "http://127.0.0.1:1/account"
    assert store.client_options is not None
    assert str(store.client_options["allow_http"]) == "true"


@pytest.mark.parametrize(
    ("url", "config", "said"),
    [
        ("ftp://documents", {}, "DMP_OBJECT_STORE_URL: not the URL of a store"),
        ("s3://", {}, "DMP_OBJECT_STORE_URL: not the URL of a store"),
        ("documents", {}, "DMP_OBJECT_STORE_URL: not a store that can be used"),
        ("s3://documents", {"aws_regio": "x"}, "DMP_OBJECT_STORE_CONFIG_FILE: aws_regio is not a key of this store"),
        ("s3://documents", {"google_service_account": "x"}, "CONFIG_FILE: google_service_account is not a key of this"),
        ("gs://documents", {"google_service_account": "/none"}, "CONFIG_FILE: google_service_account names a file"),
        ("gs://documents", {"google_service_account_key": "PRIVATE"}, "CONFIG_FILE: google_service_account is not the"),
        ("az://documents", {}, "DMP_OBJECT_STORE_CONFIG_FILE: azure_storage_account_name is missing"),
        (
            "az://documents",
            {"azure_storage_account_name": "account", "azure_storage_account_key": "PRIVATE!"},
            "DMP_OBJECT_STORE_CONFIG_FILE: azure_storage_account_key is not base64",
        ),
        ("s3://documents", "{not JSON: PRIVATE", "DMP_OBJECT_STORE_CONFIG_FILE: cannot be read as JSON"),
        ("s3://documents", ["PRIVATE"], "DMP_OBJECT_STORE_CONFIG_FILE: a JSON object"),
        ("s3://documents", {"aws_region": {"PRIVATE": 1}}, "DMP_OBJECT_STORE_CONFIG_FILE: a JSON object"),
    ],
)
def test_what_is_wrong_is_named_by_its_setting_and_no_value_repeated(
    tmp_path: Path, url: str, config: object, said: str
) -> None:
    with pytest.raises(StoreMisconfigured) as refused:
        configured(tmp_path, url, config)
    assert said in str(refused.value)
    assert "PRIVATE" not in str(refused.value)


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="DMP_OBJECT_STORE_CONFIG_FILE: cannot be read"):
        ObjectStore.configured("s3://documents", tmp_path / "absent")


# --- one content, there and back -------------------------------------------------------------------------------------


class _Keeps(BaseHTTPRequestHandler):
    """Keeps what is put, in the way that GCS and Azure have in common, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    kept: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[tuple[str, str, dict[str, str]]]] = []

    @property
    def _place(self) -> str:
        return unquote(self.path.partition("?")[0])

    def _remember(self) -> bytes:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.asked.append((self.command, self._place, headers))
        return self.rfile.read(int(headers.get("content-length", "0")))

    def _answer(self, status: int, body: bytes = b"", kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("x-goog-generation", "1")
        self.send_header("Last-Modified", "Thu, 26 Nov 2026 05:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self._remember()
        there = self._place in self.kept
        self.kept.setdefault(self._place, body)
        self._answer(412 if there else 201)

    def do_GET(self) -> None:
        self._remember()
        body = self.kept.get(self._place)
        self._answer(404) if body is None else self._answer(200, body)

    def do_DELETE(self) -> None:
        self._remember()
        self._answer(404 if self.kept.pop(self._place, None) is None else 204)

    def do_POST(self) -> None:
        """Azure's batch of one deletion."""
        [place] = re.findall(rb"DELETE (\S+) HTTP", self._remember())
        there = self.kept.pop(unquote(place.decode()), None) is not None
        status = "202 Accepted" if there else "404 Not Found\r\nx-ms-error-code: BlobNotFound"
        part = f"--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n--b--\r\n"
        self._answer(202, part.encode(), "multipart/mixed; boundary=b")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def keeps() -> Iterator[tuple[type[_Keeps], str]]:
    """The server's memory and its address."""
    handler = type("Keeps", (_Keeps,), {"kept": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _account(base_url: str) -> dict[str, object]:
    """A service account's key that asks for no token, at an address of one's own."""
    empty = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    return {"gcs_base_url": base_url, "disable_oauth": True, **empty}


@pytest.mark.parametrize("kind", ["gcs", "azure"])
async def test_a_content_goes_to_the_address_set_once_and_comes_back(
    tmp_path: Path, keeps: tuple[type[_Keeps], str], kind: str
) -> None:
    server, address = keeps
    if kind == "gcs":
        config = {"google_service_account_key": json.dumps(_account(address)), "allow_http": True}
        store, place = configured(tmp_path, "gs://documents/dmp", config), "/documents/dmp/"
    else:
        config = {
            "azure_storage_account_name": "account",
            "azure_storage_account_key": _KEY,
            "azure_endpoint": f"{address}/account",
            "allow_http": True,
        }
        store, place = configured(tmp_path, "az://documents/dmp", config), "/account/documents/dmp/"
    sealed = b"sealed" * 1000
    key = await store.put(DocumentKey(new_health_id(), uuid7()), sealed)
    assert await store.get(key) == sealed
    await store.delete(key)
    assert await store.get(key) is None
    await store.delete(key)
    removes = "DELETE" if kind == "gcs" else "POST"
    assert [command for command, *_ in server.asked] == ["PUT", "GET", "GET", removes, "GET", removes]
    assert {path for command, path, _ in server.asked if command != "POST"} == {place + key}
    assert not server.kept
    written = server.asked[0][2]
    if kind == "gcs":
        assert written["x-goog-if-generation-match"] == "0"
    else:
        assert written["if-none-match"] == "*"
        assert all(headers["authorization"].startswith("SharedKey account:") for *_, headers in server.asked)
