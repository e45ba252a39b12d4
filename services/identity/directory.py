"""The directory: reading, searching, and importing professionals, structures and who works where."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Final, TypeVar

from dmp.common.v1.coding_pb2 import Coding
from dmp.identity.v1 import directory_pb2 as pb
from services.identity.changes import NOBODY, Changes, told
from services.identity.civil_identity import normalise_name
from services.identity.directory_rules import Finding, judge
from services.identity.store import directory as store
from services.identity.store.directory import END, FindingRow, ImportRow, PractitionerRow, RoleRow, StructureRow
from services.runtime.context import Call
from services.runtime.errors import invalid
from services.runtime.outbox import OutboxRow
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Connection
from services.runtime.validation import validate_for_storage

Row = TypeVar("Row")
Searched = TypeVar(
    "Searched", pb.SearchPractitionersRequest, pb.SearchStructuresRequest, pb.SearchPractitionerRolesRequest
)

_PAGE: Final = 50
_FINDINGS: Final = 500
_FEWEST: Final = 2
_MOST_ROWS: Final = 1000


class Directory:
    """Reads, searches, imports. `strict_keys` refuses identifiers with a wrong Luhn key; else they are a warning."""

    def __init__(self, changes: Changes, tokens: PageTokens, *, strict_keys: bool) -> None:
        self._changes = changes
        self._pool = changes.pool
        self._tokens = tokens
        self._strict_keys = strict_keys

    async def get(self, request: pb.BatchGetDirectoryEntriesRequest) -> pb.BatchGetDirectoryEntriesResponse:
        """Those that exist."""
        return pb.BatchGetDirectoryEntriesResponse(
            practitioners=map(_practitioner, await store.practitioners(self._pool, request.idnps)),
            structures=map(_structure, await store.structures(self._pool, request.idnst)),
        )

    async def practitioners(self, call: Call, request: pb.SearchPractitionersRequest) -> pb.SearchPractitionersResponse:
        """By identifier, or by the beginning of a name. INVALID_FIELD, INVALID_PAGE_TOKEN."""
        size = request.page_size or _PAGE
        given = normalise_name(request.given_name)
        if request.idnps:
            rows = [
                row
                for row in await store.practitioners(self._pool, [request.idnps])
                if _begins(row.family_key, request.family_name)
                and row.given_key.startswith(given)
                and request.profession in ("", row.profession)
                and (not request.specialty or request.specialty in row.specialties)
                and (row.active or not request.active_only)
            ]
            return pb.SearchPractitionersResponse(practitioners=map(_practitioner, rows))
        key = _beginning(request.family_name, "family_name")
        scope = _scope(b"SearchPractitioners", call, request)
        after = self._position(request.page_token, scope, 3)
        found = await self._pool.fetch(
            store.FIND_PRACTITIONERS,
            key,
            key + END,
            *after,
            given,
            request.profession,
            request.specialty,
            request.active_only,
            size + 1,
        )
        rows = [PractitionerRow(*row) for row in found]
        return pb.SearchPractitionersResponse(
            practitioners=map(_practitioner, rows[:size]),
            next_page_token=self._next(rows, size, scope, lambda row: (row.family_key, row.given_key, row.idnps)),
        )

    async def structures(self, call: Call, request: pb.SearchStructuresRequest) -> pb.SearchStructuresResponse:
        """By identifier, or by the beginning of a name or postcode. INVALID_FIELD, INVALID_PAGE_TOKEN."""
        size = request.page_size or _PAGE
        if request.idnst:
            rows = [
                row
                for row in await store.structures(self._pool, [request.idnst])
                if _begins(row.name_key, request.display_name)
                and row.postcode.startswith(request.postcode)
                and request.facility_type in ("", row.facility_type)
                and (row.active or not request.active_only)
            ]
            return pb.SearchStructuresResponse(structures=map(_structure, rows))
        scope = _scope(b"SearchStructures", call, request)
        after = self._position(request.page_token, scope, 2)
        more = (request.facility_type, request.active_only, size + 1)
        if request.display_name or not request.postcode:
            key = _beginning(request.display_name, "display_name")
            found = await self._pool.fetch(store.FIND_STRUCTURES, key, key + END, *after, request.postcode, *more)
        else:
            if len(request.postcode) < _FEWEST:
                raise invalid("postcode", "search.letters", "a search needs two digits of a postcode")
            low, high = request.postcode, request.postcode + END
            found = await self._pool.fetch(store.FIND_STRUCTURES_OF_PLACE, low, high, *after, *more)
        rows = [StructureRow(*row) for row in found]
        return pb.SearchStructuresResponse(
            structures=map(_structure, rows[:size]),
            next_page_token=self._next(rows, size, scope, lambda row: (row.name_key, row.idnst)),
        )

    async def roles(self, call: Call, request: pb.SearchPractitionerRolesRequest) -> pb.SearchPractitionerRolesResponse:
        """Of a professional, of a structure, or both. INVALID_FIELD, INVALID_PAGE_TOKEN."""
        size = request.page_size or _PAGE
        scope = _scope(b"SearchPractitionerRoles", call, request)
        after = self._position(request.page_token, scope, 2)
        if request.idnps:
            found = await self._pool.fetch(
                store.ROLES_OF_PRACTITIONER, request.idnps, request.idnst, *after, request.active_only, size + 1
            )
        elif request.idnst:
            found = await self._pool.fetch(
                store.ROLES_OF_STRUCTURE, request.idnst, after[0], request.active_only, size + 1
            )
        else:
            raise invalid("idnps", "search.criteria", "a professional or a structure")
        rows = [RoleRow(*row) for row in found]
        shown = rows[:size]
        people = await store.practitioners(self._pool, sorted({row.idnps for row in shown}))
        places = await store.structures(self._pool, sorted({row.idnst for row in shown}))
        return pb.SearchPractitionerRolesResponse(
            roles=map(_role, shown),
            practitioners=map(_practitioner, people),
            structures=map(_structure, places),
            next_page_token=self._next(rows, size, scope, lambda row: (row.idnps, row.idnst)),
        )

    # --- importing -----------------------------------------------------------------------------------------------

    async def bring(self, call: Call, request: pb.ImportDirectoryRequest) -> pb.ImportDirectoryResponse:
        """The next rows of an import: those that may be are written, the others reported. INVALID_FIELD when the rows
        are not in order."""
        validate_for_storage(pb.ImportDirectoryRequest(import_id=request.import_id, request_id=request.request_id))
        numbers = [row.row for row in request.rows]
        if len(numbers) > _MOST_ROWS or min(numbers, default=1) < 1:
            raise invalid("rows", "repeated.max_items", f"at most {_MOST_ROWS} rows, numbered from 1")
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            raise invalid("rows", "rows.order", "rows come in the order of the file")
        now = self._changes.clock()

        async def work(conn: Connection) -> tuple[int, pb.ImportDirectoryResponse, Sequence[OutboxRow]]:
            before = await store.lock_import(conn, request.import_id, now)
            rows = [row for row in request.rows if row.row > before.last_row]
            findings = {row.row: judge(row, strict_keys=self._strict_keys) for row in rows}
            await self._judge_ends(conn, rows, findings)
            taken = [row for row in rows if not any(found.refused for found in findings[row.row])]
            await store.write(
                conn,
                [_practitioner_row(row.practitioner, now) for row in taken if row.HasField("practitioner")],
                [_structure_row(row.structure, now) for row in taken if row.HasField("structure")],
                [_role_row(row.role, now) for row in taken if row.HasField("role")],
            )
            after = replace(
                before,
                last_row=rows[-1].row if rows else before.last_row,
                taken=before.taken + len(taken),
                refused=before.refused + len(rows) - len(taken),
                warned=before.warned + sum(bool(findings[row.row]) for row in taken),
                complete=before.complete or request.complete,
            )
            report = [
                FindingRow(number, found.field, found.rule, found.refused)
                for number, each in findings.items()
                for found in each
            ]
            await store.move_import(conn, after, now, report)
            answer = pb.ImportDirectoryResponse(directory_import=_import(after), findings=map(_finding, report))
            changes = (("directory_rows", str(len(taken))), ("directory_refused", str(len(rows) - len(taken))))
            return NOBODY, answer, [told(call, NOBODY, changes)]

        return await self._changes.make(call, request, pb.ImportDirectoryResponse, work)

    async def report(self, call: Call, request: pb.GetDirectoryImportRequest) -> pb.GetDirectoryImportResponse:
        """How far an import has come, and its findings. INVALID_PAGE_TOKEN."""
        scope = page_scope(b"identity.GetDirectoryImport", request.import_id.encode(), call.client_id.encode())
        after = (0, "", "")
        if request.page_token:
            number, field, rule = json.loads(self._tokens.read(request.page_token, scope))
            after = (number, field, rule)
        row = await store.directory_import(self._pool, request.import_id)
        found = await store.findings(self._pool, request.import_id, after, _FINDINGS + 1)
        response = pb.GetDirectoryImportResponse(
            directory_import=_import(row or ImportRow(request.import_id, 0, 0, 0, 0, complete=False)),
            findings=map(_finding, found[:_FINDINGS]),
        )
        if len(found) > _FINDINGS:
            last = found[_FINDINGS - 1]
            response.next_page_token = self._tokens.issue(scope, json.dumps(last[:3]).encode())
        return response

    async def _judge_ends(
        self, conn: Connection, rows: Sequence[pb.DirectoryRow], findings: dict[int, list[Finding]]
    ) -> None:
        """A role names a professional and a structure that the directory has, or that come before it."""
        roles = [row for row in rows if row.HasField("role")]
        if not roles:
            return
        known = set(await store.known(conn, [row.role.idnps for row in roles], [row.role.idnst for row in roles]))
        for row in rows:
            if any(found.refused for found in findings[row.row]):
                continue
            if row.HasField("practitioner"):
                known.add(f"ps:{row.practitioner.idnps}")
            elif row.HasField("structure"):
                known.add(f"st:{row.structure.idnst}")
            elif row.HasField("role"):
                if f"ps:{row.role.idnps}" not in known:
                    findings[row.row].append(Finding("idnps", "directory.known"))
                if f"st:{row.role.idnst}" not in known:
                    findings[row.row].append(Finding("idnst", "directory.known"))

    # --- paging --------------------------------------------------------------------------------------------------

    def _position(self, token: str, scope: bytes, width: int) -> list[str]:
        return list(json.loads(self._tokens.read(token, scope))) if token else [""] * width

    def _next(self, rows: Sequence[Row], size: int, scope: bytes, key: Callable[[Row], tuple[str, ...]]) -> str:
        if len(rows) <= size:
            return ""
        return self._tokens.issue(scope, json.dumps(key(rows[size - 1]), ensure_ascii=False).encode())


def _scope(method: bytes, call: Call, request: Searched) -> bytes:
    same = type(request)()
    same.CopyFrom(request)
    same.page_token = ""
    return page_scope(b"identity." + method, call.client_id.encode(), same.SerializeToString(deterministic=True))


def _beginning(text: str, field: str) -> str:
    key = normalise_name(text)
    if len(key) < _FEWEST:
        raise invalid(field, "search.letters", "a search needs two letters of a name")
    return key


def _begins(key: str, text: str) -> bool:
    return key.startswith(normalise_name(text))


def _practitioner_row(one: pb.Practitioner, now: datetime) -> PractitionerRow:
    return PractitionerRow(
        one.idnps,
        one.family_name.strip(),
        one.given_name.strip(),
        normalise_name(one.family_name),
        normalise_name(one.given_name),
        one.profession,
        [coding.code for coding in one.specialties],
        [coding.system for coding in one.specialties],
        one.active,
        now,
        one.email.strip(),
    )


def _structure_row(one: pb.Structure, now: datetime) -> StructureRow:
    return StructureRow(
        one.idnst,
        one.display_name.strip(),
        normalise_name(one.display_name),
        one.facility_type,
        one.postcode,
        one.city,
        one.active,
        now,
    )


def _role_row(one: pb.PractitionerRole, now: datetime) -> RoleRow:
    return RoleRow(one.idnps, one.idnst, one.profession, one.specialty.code, one.specialty.system, one.active, now)


def _practitioner(row: PractitionerRow) -> pb.Practitioner:
    written = pb.Practitioner(
        idnps=row.idnps,
        family_name=row.family_name,
        given_name=row.given_name,
        profession=row.profession,
        specialties=[
            Coding(system=system, code=code)
            for code, system in zip(row.specialties, row.specialty_systems, strict=True)
        ],
        active=row.active,
    )
    written.update_time.FromDatetime(row.updated_at)
    return written


def _structure(row: StructureRow) -> pb.Structure:
    written = pb.Structure(
        idnst=row.idnst,
        display_name=row.display_name,
        facility_type=row.facility_type,
        postcode=row.postcode,
        city=row.city,
        active=row.active,
    )
    written.update_time.FromDatetime(row.updated_at)
    return written


def _role(row: RoleRow) -> pb.PractitionerRole:
    written = pb.PractitionerRole(idnps=row.idnps, idnst=row.idnst, profession=row.profession, active=row.active)
    if row.specialty:
        written.specialty.code, written.specialty.system = row.specialty, row.specialty_system
    written.update_time.FromDatetime(row.updated_at)
    return written


def _import(row: ImportRow) -> pb.DirectoryImport:
    return pb.DirectoryImport(
        import_id=row.import_id,
        last_row=row.last_row,
        taken=row.taken,
        refused=row.refused,
        warned=row.warned,
        complete=row.complete,
    )


def _finding(row: FindingRow) -> pb.DirectoryFinding:
    return pb.DirectoryFinding(row=row.row_number, field=row.field, rule=row.rule, refused=row.refused)
