"""What was told about a dossier, as its patient or its attending physician reads it. No gRPC, no consent here."""

from __future__ import annotations

import uuid
from typing import Final

from dmp.audit.v1 import notice_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from services.audit import notice_store
from services.audit.listing import DEFAULT_PAGE
from services.audit.notice_store import NoticeRow
from services.audit.notices import notice_aad
from services.audit.rules import TrailFilter
from services.runtime.context import Call
from services.runtime.dossier_keys import DossierKeyBatch, DossierKeys
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, event_name
from services.runtime.paging import PageTokens, page_scope
from services.runtime.postgres import Pool, translate
from services.runtime.sealing import SealBroken, open_sealed

_ACQUIRE_SECONDS: Final = 5.0
_LAST: Final = uuid.UUID(int=(1 << 128) - 1)
_IN_PERSON: Final = frozenset({context_pb2.ACTOR_KIND_PATIENT, context_pb2.ACTOR_KIND_REPRESENTATIVE})


_EventIds = dict[int, dict[int, uuid.UUID]]
"""By log, then by leaf."""


class NoticeList:
    """Pages of a dossier's notices."""

    def __init__(self, pool: Pool, keys: DossierKeys, tokens: PageTokens) -> None:
        self._pool = pool
        self._keys = keys
        self._tokens = tokens

    async def page(
        self, call: Call, visible: TrailFilter, request: notice_pb2.ListNoticesRequest
    ) -> notice_pb2.ListNoticesResponse:
        """The notices to the kind of reader that the caller is; none to one who sees his own acts alone."""
        recipients, dossiers = _recipients(call, visible), (call.health_id, *visible.linked)
        scope = page_scope(b"audit.ListNotices", call.health_id.to_bytes(8, "big"), call.actor.subject.encode())
        before = uuid.UUID(bytes=self._tokens.read(request.page_token, scope)) if request.page_token else _LAST
        size = request.page_size or DEFAULT_PAGE
        try:
            async with self._pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
                rows = await notice_store.notices(conn, dossiers, recipients, before, size + 1)
                keys = await self._keys.for_read(conn, dossiers)
                ids: _EventIds = {}
                for log_id in {row.log_id for row in rows[:size]}:
                    leaves = [leaf for row in rows[:size] if row.log_id == log_id for leaf in row.leaves]
                    ids[log_id] = await notice_store.event_ids(conn, log_id, leaves)
        except Exception as error:
            raise translate(error) from error
        response = notice_pb2.ListNoticesResponse(
            notices=[_notice(row, keys, ids, call.health_id) for row in rows[:size]]
        )
        if len(rows) > size:
            response.next_page_token = self._tokens.issue(scope, rows[size - 1].notice_id.bytes)
        return response


def _recipients(call: Call, visible: TrailFilter) -> list[int]:
    if call.actor.actor_kind in _IN_PERSON:
        return [notice_pb2.NOTICE_RECIPIENT_PATIENT]
    return [] if visible.own_only else [notice_pb2.NOTICE_RECIPIENT_ATTENDING_PHYSICIAN]


def _notice(row: NoticeRow, keys: DossierKeyBatch, ids: _EventIds, asked: int) -> notice_pb2.Notice:
    try:
        text = open_sealed(keys[row.health_id], row.sealed, notice_aad(row.health_id, row.notice_id)).decode()
    except SealBroken as error:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from error
    notice = notice_pb2.Notice(
        name=f"{dossier_name(asked)}/notices/{row.notice_id}",
        kind=row.kind,  # type: ignore[arg-type]
        recipient=row.recipient,  # type: ignore[arg-type]
        text=text,
        events=[event_name(asked, ids[row.log_id][leaf]) for leaf in row.leaves if leaf in ids[row.log_id]],
    )
    notice.create_time.FromDatetime(row.created_at)
    if row.delivered_at is not None:
        notice.deliver_time.FromDatetime(row.delivered_at)
    return notice
