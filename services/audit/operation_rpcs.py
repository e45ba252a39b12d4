"""The RPCs of those who run and verify the platform: trees, checks, counts, the work list, destruction."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Final

from dmp.audit.v1 import audit_pb2, log_pb2, notice_pb2
from services.audit import derived_store, tree_store
from services.audit.adopting import Adoption
from services.audit.append import AuditLog
from services.audit.checking import EntryChecker
from services.audit.destroying import destroy_dossier
from services.audit.entry import EntryDigests
from services.audit.logs import Logs
from services.audit.table_checks import TableChecker
from services.audit.tags import Place
from services.audit.tiles import ForkFound
from services.audit.tree import LogTree
from services.audit.work_list import PREFIX, WorkList
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError, invalid, unavailable
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool, translate
from services.runtime.tlog.layout import Bundle, Tile
from services.runtime.trail import Trail, build_event
from services.runtime.validation import validate

_ACQUIRE_SECONDS: Final = 5.0
_MOST_DAYS: Final = 366


class OperationRpcs:
    """What operators and the platform's own services may ask of the logs as a whole."""

    _log: AuditLog
    _trail: Trail
    _digests: EntryDigests
    _keys: DossierKeys
    _pool: Pool
    _logs: Logs
    _checker: EntryChecker
    _tables: TableChecker
    _tokens: PageTokens
    _work: WorkList

    async def ListLogs(self, request: log_pb2.ListLogsRequest, call: Call) -> log_pb2.ListLogsResponse:
        """Which logs there are, and how they are verified."""
        response = log_pb2.ListLogsResponse()
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                for tree in self._logs.trees:
                    state = await tree.state(conn)
                    response.logs.add(
                        log_id=tree.log_id,
                        origin=tree.origin,
                        key=tree.signer.verifier.text(),
                        policy=self._logs.policy_text,
                        size=await tree_store.size_of(conn, tree.log_id),
                        tree_size=state.published_size,
                    )
        except Exception as error:
            raise _translated(error) from error
        return response

    async def GetCheckpoint(self, request: log_pb2.GetCheckpointRequest, call: Call) -> log_pb2.GetCheckpointResponse:
        """The published checkpoint, byte for byte."""
        validate(request)
        try:
            return log_pb2.GetCheckpointResponse(checkpoint=await self._tree(request.log_id).checkpoint())
        except Exception as error:
            raise _translated(error) from error

    async def GetTile(self, request: log_pb2.GetTileRequest, call: Call) -> log_pb2.GetTileResponse:
        """A tile of the published tree."""
        validate(request)
        try:
            hashes = await self._tree(request.log_id).tile(Tile(request.level, request.index, request.width))
        except Exception as error:
            raise _translated(error) from error
        return log_pb2.GetTileResponse(found=hashes is not None, hashes=hashes or b"")

    async def GetEntryBundle(
        self, request: log_pb2.GetEntryBundleRequest, call: Call
    ) -> log_pb2.GetEntryBundleResponse:
        """The entries under a tile of the published tree."""
        validate(request)
        try:
            entries = await self._tree(request.log_id).bundle(Bundle(request.index, request.width))
        except Exception as error:
            raise _translated(error) from error
        return log_pb2.GetEntryBundleResponse(found=entries is not None, entries=entries or b"")

    async def CheckEntries(self, request: log_pb2.CheckEntriesRequest, call: Call) -> log_pb2.CheckEntriesResponse:
        """Stored events against their entries; recorded, since clear parts are opened for it."""
        validate(request)
        try:
            checked = await self._checker.check(self._tree(request.log_id), request.start, request.count)
        except Exception as error:
            raise _translated(error) from error
        await self._record(call, len(checked.entries))
        return checked.response()

    async def CheckTables(self, request: log_pb2.CheckTablesRequest, call: Call) -> log_pb2.CheckTablesResponse:
        """The tables beside the log, part by part; recorded like the check of entries."""
        validate(request)
        scope = page_scope(b"audit.CheckTables", call.actor.subject.encode(), request.log_id.to_bytes(4, "big"))
        part = self._tokens.read(request.page_token, scope) if request.page_token else b""
        try:
            checked = await self._tables.check(self._tree(request.log_id), part)
        except Exception as error:
            raise _translated(error) from error
        await self._record(call, checked.rows)
        return log_pb2.CheckTablesResponse(
            damages=[log_pb2.TableDamage(**damage._asdict()) for damage in checked.damages],
            row_count=checked.rows,
            next_page_token=self._tokens.issue(scope, checked.next_part) if checked.next_part else "",
        )

    async def AdoptRows(self, request: log_pb2.AdoptRowsRequest, call: Call) -> log_pb2.AdoptRowsResponse:
        """Takes over what bears no tag; the event that it is done is durable first."""
        validate(request)
        event = build_event(call, outcome=audit_pb2.OUTCOME_SUCCESS, actor=call.actor)
        receipt = await self._trail.record(event, call.remaining())
        place = Place(receipt.log_id, receipt.leaf_index)
        try:
            taken = await Adoption(self._pool, self._keys, self._digests, self._log.log_count, place).run()
        except Exception as error:
            raise _translated(error) from error
        return log_pb2.AdoptRowsResponse(row_count=taken.events, key_count=taken.keys, derived_count=taken.derived)

    async def CountEvents(self, request: audit_pb2.CountEventsRequest, call: Call) -> audit_pb2.CountEventsResponse:
        """Counts by day, over all logs."""
        validate(request)
        first, last = _day(request.start_day, "start_day"), _day(request.end_day, "end_day")
        if not 0 <= (last - first).days < _MOST_DAYS:
            raise invalid("end_day", "period", f"from the first day to {_MOST_DAYS} days on")
        logs = list(range(self._log.log_count))
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                counted = await derived_store.counts(conn, logs, first, last)
        except Exception as error:
            raise translate(error) from error
        await self._record(call, len(counted))
        return audit_pb2.CountEventsResponse(
            counts=[
                audit_pb2.DayCount(
                    day=day.isoformat(),
                    action=action,
                    outcome=outcome,  # type: ignore[arg-type]
                    access_mode=mode,  # type: ignore[arg-type]
                    event_count=number,
                )
                for day, action, outcome, mode, number in counted
            ]
        )

    async def ListUnusualAccesses(
        self, request: notice_pb2.ListUnusualAccessesRequest, call: Call
    ) -> notice_pb2.ListUnusualAccessesResponse:
        """The work list."""
        validate(request)
        response = await self._work.page(call.actor.subject, request)
        await self._record(call, len(response.unusual_accesses), [item.name for item in response.unusual_accesses])
        return response

    async def DecideUnusualAccess(
        self, request: notice_pb2.DecideUnusualAccessRequest, call: Call
    ) -> notice_pb2.DecideUnusualAccessResponse:
        """Closes an item of the work list."""
        validate(request)
        try:
            item_id = uuid.UUID(request.name.removeprefix(PREFIX))
        except ValueError:
            raise invalid("name", "resource_name", "the last part is a UUID") from None
        item = await self._work.decide(item_id, request.decision, call.actor.subject)
        await self._record(call, 1, [request.name])
        return notice_pb2.DecideUnusualAccessResponse(unusual_access=item)

    async def DestroyDossier(
        self, request: audit_pb2.DestroyDossierRequest, call: Call
    ) -> audit_pb2.DestroyDossierResponse:
        """Destroys a dossier's clear parts for ever."""
        validate(request)
        at = await destroy_dossier(self._pool, self._keys, self._digests, self._log, request.health_id)
        response = audit_pb2.DestroyDossierResponse()
        response.destroy_time.FromDatetime(at)
        return response

    def _tree(self, log_id: int) -> LogTree:
        if log_id >= len(self._logs.trees):
            raise invalid("log_id", "log", "there is no such log")
        return self._logs.trees[log_id]

    async def _record(self, call: Call, count: int, objects: list[str] | None = None) -> None:
        """Return when an operator's act is durable in the trail."""
        event = build_event(
            call, outcome=audit_pb2.OUTCOME_SUCCESS, result_count=count, objects=objects or [], actor=call.actor
        )
        await self._trail.record(event, call.remaining())


def _day(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise invalid(field, "date", "a day of the calendar") from None


def _translated(error: Exception) -> DmpError:
    return unavailable("log") if isinstance(error, ForkFound) else translate(error)
