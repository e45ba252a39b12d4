"""The object store: sealed contents written once, proved to be there, read back, listed. Nothing is opened here.

One store of the kinds that `obstore` knows (S3, GCS, Azure, a directory). What a store says of its own success is not
believed: what was written is read back and compared before anybody relies on it. Names of objects:

    contents/<health id, 16 hexadecimal digits>/<content id>/<a UUID of the attempt>

so that an attempt never meets another one's object, and a listing says to which row an object would belong.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.exceptions import NotFoundError as ObjectNotFoundError
from obstore.store import from_url

from services.document.store.rows import DocumentKey
from services.runtime.errors import DmpError, unavailable
from services.runtime.identifiers import uuid7

_log = structlog.get_logger("document")

_PREFIX: Final = "contents"
_TIMEOUT: Final = 15.0
"""Seconds that a write or a read may take, whatever the store's own attempts."""
_FAILURES: Final = (BaseError, OSError, TimeoutError)


URL_SETTING: Final = "DMP_OBJECT_STORE_URL"
CONFIG_SETTING: Final = "DMP_OBJECT_STORE_CONFIG_FILE"
# What obstore says, by the name of the cause in it, as this service says it: its own text may repeat a key or a path.
_REFUSALS: Final = {
    "Unrecognised": (URL_SETTING, "not the URL of a store: s3://bucket, gs://bucket, az://container or file:///path"),
    "MissingAccount": (CONFIG_SETTING, "azure_storage_account_name is missing"),
    "InvalidAccessKey": (CONFIG_SETTING, "azure_storage_account_key is not base64"),
    "OpenCredentials": (CONFIG_SETTING, "google_service_account names a file that cannot be opened"),
    "DecodeCredentials": (CONFIG_SETTING, "google_service_account is not the key of a service account"),
}
_UNKNOWN_KEY: Final = re.compile(r"Configuration key: '([a-z0-9_]{1,80})'")


class StoreMisconfigured(ValueError):
    """A store that cannot be made of what was set. The message begins with the setting, and repeats no value."""


class StoredObject(NamedTuple):
    """An object of the listing, and to which content it would belong."""

    key: str
    content: DocumentKey | None
    modified_at: datetime


class ObjectStore:
    """One object store. Every method raises DEPENDENCY_UNAVAILABLE when it cannot be told what is there."""

    def __init__(self, url: str, config: dict[str, Any] | None = None, *, timeout: float = _TIMEOUT) -> None:
        """`url` as obstore has it (`s3://bucket/prefix`, `file:///path`, …); `config` holds its keys and options.

        Raises StoreMisconfigured.
        """
        parts = urlsplit(url)
        self._timeout = timeout
        self._root = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if self._root is not None:
            self._root.mkdir(parents=True, exist_ok=True)
            self._store: Any = from_url(url)
            return
        client = {"timeout": timedelta(seconds=timeout / 3), "connect_timeout": timedelta(seconds=timeout / 5)}
        options = dict(config or {})
        if str(options.pop("allow_http", "")).lower() in ("true", "1"):
            client["allow_http"] = True  # type: ignore[assignment]
        retry = {"max_retries": 2, "retry_timeout": timedelta(seconds=timeout)}
        try:
            self._store = from_url(url, config=options, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        except (BaseError, ValueError, TypeError) as error:
            raise _misconfigured(error) from None

    @classmethod
    def configured(cls, url: str, config_file: Path | None) -> ObjectStore:
        """The store at a URL, with the JSON object in a file as its configuration. Raises StoreMisconfigured."""
        return cls(url, None if config_file is None else _read(config_file))

    async def put(self, content: DocumentKey, sealed: bytes) -> str:
        """Write, read back, compare; gives the key. An object that could not be proved is left for the sweep."""
        key = f"{_PREFIX}/{content.health_id:016x}/{content.id}/{uuid7()}"
        try:
            async with asyncio.timeout(self._timeout):
                with suppress(AlreadyExistsError):  # our own first attempt, whose answer was lost
                    await obstore.put_async(self._store, key, sealed, mode="create")
                if self._root is not None:
                    await asyncio.to_thread(_sync, self._root / key, self._root)
                written = await self._get(key)
        except _FAILURES as error:
            raise _failed("object_not_written", error) from error
        if written != sealed:
            raise _failed("object_not_as_written", None)
        return key

    async def get(self, key: str) -> bytes | None:
        """An object; None when the store says that there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._get(key)
        except _FAILURES as error:
            raise _failed("object_not_read", error) from error

    async def delete(self, key: str) -> None:
        """Remove an object; nothing when there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                await obstore.delete_async(self._store, key)
        except (ObjectNotFoundError, FileNotFoundError):
            return
        except _FAILURES as error:
            raise _failed("object_not_removed", error) from error

    async def listing(self, after: str, limit: int) -> list[StoredObject]:
        """Objects in the order of their keys, after one of them."""
        found: list[StoredObject] = []
        try:
            async for page in self._pages(after, limit):
                found.extend(_stored(entry) for entry in page if entry["path"] > after)
                if len(found) >= limit and not self._unordered:
                    break
        except _FAILURES as error:
            raise _failed("objects_not_listed", error) from error
        return sorted(found)[:limit]

    async def of_dossier(self, health_id: int) -> list[str]:
        """The keys of all objects of a dossier."""
        try:
            stream = obstore.list(self._store, prefix=f"{_PREFIX}/{health_id:016x}")
            return [entry["path"] async for page in stream for entry in page]
        except _FAILURES as error:
            raise _failed("objects_not_listed", error) from error

    @property
    def _unordered(self) -> bool:
        """Whether the listing has no order of its own: a directory's."""
        return self._root is not None

    async def _pages(self, after: str, limit: int) -> AsyncIterator[Any]:
        offset = None if self._unordered or not after else after
        stream = obstore.list(self._store, prefix=_PREFIX, offset=offset, chunk_size=min(max(limit, 1), 1000))
        async for page in stream:
            yield page

    async def _get(self, key: str) -> bytes | None:
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except (ObjectNotFoundError, FileNotFoundError):
            return None


def _read(config_file: Path) -> dict[str, Any]:
    try:
        config = json.loads(config_file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoreMisconfigured(f"{CONFIG_SETTING}: cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(config, dict) or not all(isinstance(value, str | bool | int) for value in config.values()):
        raise StoreMisconfigured(f"{CONFIG_SETTING}: a JSON object of texts, numbers, true and false")
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in config.items()}


def _misconfigured(error: Exception) -> StoreMisconfigured:
    if (unknown := _UNKNOWN_KEY.search(str(error))) is not None:
        return StoreMisconfigured(f"{CONFIG_SETTING}: {unknown[1]} is not a key of this store")
    for cause, (setting, description) in _REFUSALS.items():
        if cause in str(error):
            return StoreMisconfigured(f"{setting}: {description}")
    return StoreMisconfigured(f"{URL_SETTING}: not a store that can be used ({type(error).__name__})")


def content_of(key: str) -> DocumentKey | None:
    """To which content an object would belong, by its name; None for a name that is not ours."""
    parts = key.split("/")
    if len(parts) != 4 or parts[0] != _PREFIX:
        return None
    try:
        return DocumentKey(int(parts[1], 16), uuid.UUID(parts[2]))
    except ValueError:
        return None


def _stored(entry: Any) -> StoredObject:
    return StoredObject(entry["path"], content_of(entry["path"]), entry["last_modified"])


def _sync(file: Path, root: Path) -> None:
    """Make a file of a directory store durable, and the directories that name it."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    for directory in (*file.parents[: len(file.relative_to(root).parts)],):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _failed(what: str, error: BaseException | None) -> DmpError:
    _log.warning(what, error_type=type(error).__name__ if error is not None else "compared")
    return unavailable("object-store")
