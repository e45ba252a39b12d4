"""The RPCs about the directory and the keys: who calls, which use case, what is answered. Thin."""

from __future__ import annotations

from dataclasses import dataclass

from dmp.identity.v1 import directory_pb2, keys_pb2
from services.identity.directory import Directory
from services.identity.recording import Recorded
from services.identity.rotation import KeyRotation
from services.runtime.context import Call
from services.runtime.trail import Trail
from services.runtime.validation import validate_for_storage


@dataclass(frozen=True, slots=True)
class DirectoryParts:
    """The use cases of the directory and of operation."""

    directory: Directory
    rotation: KeyRotation


class DirectoryRpcs(Recorded):
    """Professionals, structures, imports; rotation of keys."""

    def __init__(self, trail: Trail, parts: DirectoryParts) -> None:
        Recorded.__init__(self, trail)
        self._directory_parts = parts

    async def BatchGetDirectoryEntries(
        self, request: directory_pb2.BatchGetDirectoryEntriesRequest, call: Call
    ) -> directory_pb2.BatchGetDirectoryEntriesResponse:
        """By identifier."""
        async with self._recording(call):
            validate_for_storage(request)
            response = await self._directory_parts.directory.get(request)
            await self._read(call, [])
            return response

    async def SearchPractitioners(
        self, request: directory_pb2.SearchPractitionersRequest, call: Call
    ) -> directory_pb2.SearchPractitionersResponse:
        """ITI-90."""
        async with self._recording(call):
            validate_for_storage(request)
            response = await self._directory_parts.directory.practitioners(call, request)
            await self._read(call, [])
            return response

    async def SearchStructures(
        self, request: directory_pb2.SearchStructuresRequest, call: Call
    ) -> directory_pb2.SearchStructuresResponse:
        """ITI-90."""
        async with self._recording(call):
            validate_for_storage(request)
            response = await self._directory_parts.directory.structures(call, request)
            await self._read(call, [])
            return response

    async def SearchPractitionerRoles(
        self, request: directory_pb2.SearchPractitionerRolesRequest, call: Call
    ) -> directory_pb2.SearchPractitionerRolesResponse:
        """ITI-90."""
        async with self._recording(call):
            validate_for_storage(request)
            response = await self._directory_parts.directory.roles(call, request)
            await self._read(call, [])
            return response

    async def ImportDirectory(
        self, request: directory_pb2.ImportDirectoryRequest, call: Call
    ) -> directory_pb2.ImportDirectoryResponse:
        """The next rows; a row that may not be is a finding, never a refusal of the others."""
        async with self._recording(call):
            return await self._directory_parts.directory.bring(call, request)

    async def GetDirectoryImport(
        self, request: directory_pb2.GetDirectoryImportRequest, call: Call
    ) -> directory_pb2.GetDirectoryImportResponse:
        """How far, and what was found."""
        async with self._recording(call):
            validate_for_storage(request)
            response = await self._directory_parts.directory.report(call, request)
            await self._read(call, [])
            return response

    async def AdvanceKeyRotation(
        self, request: keys_pb2.AdvanceKeyRotationRequest, call: Call
    ) -> keys_pb2.AdvanceKeyRotationResponse:
        """The next slice."""
        async with self._recording(call):
            validate_for_storage(request)
            return await self._directory_parts.rotation.advance(call, request)

    async def GetKeyRotation(
        self, request: keys_pb2.GetKeyRotationRequest, call: Call
    ) -> keys_pb2.GetKeyRotationResponse:
        """Where it stands."""
        async with self._recording(call):
            state = await self._directory_parts.rotation.state()
            await self._read(call, [])
        return keys_pb2.GetKeyRotationResponse(key_rotation=state)
