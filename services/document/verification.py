"""Whether what is stored is what was stored: keys, seals, digests, sizes, and columns against sealed metadata; and so
what belongs to it (`belongings`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document import author_names, codes, envelope, titles
from services.document.authorship import Authorship
from services.document.belongings import Belongings
from services.document.contents import Contents
from services.document.envelope import OpenedMetadata
from services.document.store.keeping import StoredDocument
from services.document.store.reading import DocumentStore
from services.document.store.rows import DocumentKey
from services.document.times import instant
from services.document.unique_ids import UniqueIds
from services.runtime.errors import DmpError
from services.runtime.sealing import DossierKey

_Kind: TypeAlias = document_pb2.ContentFaultKind.ValueType
_KEY: Final = document_pb2.CONTENT_FAULT_KIND_KEY
_METADATA: Final = document_pb2.CONTENT_FAULT_KIND_METADATA
_COLUMN: Final = document_pb2.CONTENT_FAULT_KIND_COLUMN
_MISSING: Final = document_pb2.CONTENT_FAULT_KIND_CONTENT_MISSING
_CONTENT: Final = document_pb2.CONTENT_FAULT_KIND_CONTENT


class Checked(NamedTuple):
    """What a check found: the faults by dossier and document, and how many bytes of content were opened."""

    faults: list[tuple[tuple[int, uuid.UUID], _Kind]]
    bytes: int


class Verifier:
    """Checks documents."""

    def __init__(
        self,
        store: DocumentStore,
        contents: Contents,
        authorship: Authorship,
        unique_ids: UniqueIds,
        belongings: Belongings,
    ) -> None:
        self._belongings = belongings
        self._store = store
        self._contents = contents
        self._authorship = authorship
        self._unique_ids = unique_ids

    async def check(self, documents: Sequence[StoredDocument]) -> Checked:
        """Every fault of these documents. Raises DEPENDENCY_UNAVAILABLE when a store cannot be asked: no verdict."""
        health_ids = sorted({one.row.health_id for one in documents})
        keys: dict[int, DossierKey | DmpError] = {}
        if health_ids:
            keys = dict(zip(health_ids, await self._store.keys(health_ids), strict=True))
        checked = Checked([], 0)
        for one in documents:
            key = keys[one.row.health_id]
            identity = (one.row.health_id, one.row.document_id)
            if isinstance(key, DmpError):
                if key.reason != reasons.ERROR_REASON_CONTENT_DESTROYED:
                    checked.faults.append((identity, _KEY))
                continue
            kind, size = await self._one(one, key)
            checked = checked._replace(bytes=checked.bytes + size)
            if kind is not None:
                checked.faults.append((identity, kind))
        usable = {health_id: key for health_id, key in keys.items() if isinstance(key, DossierKey)}
        broken = {of for of, kind in checked.faults if kind in (_METADATA, _COLUMN)}  # do not say what belongs to them
        sound = [one for one in documents if (one.row.health_id, one.row.document_id) not in broken]
        checked.faults.extend(await self._belongings.check(sound, usable))
        return checked

    async def _one(self, one: StoredDocument, key: DossierKey) -> tuple[_Kind | None, int]:
        try:
            metadata = envelope.open_metadata(key, one.row)
        except DmpError:
            return _METADATA, 0
        if not self._columns_hold(one, metadata):
            return _COLUMN, 0
        if one.row.status == document_pb2.DOCUMENT_STATUS_DELETED:
            return None, 0
        wanted = DocumentKey(one.row.health_id, one.content_id)
        try:
            blob = await self._contents.get(wanted, one.row.stored_size, None)
        except DmpError as error:
            if error.reason != reasons.ERROR_REASON_CONTENT_CORRUPTED:
                raise
            return _MISSING, 0
        size = metadata.document.size
        try:
            await envelope.off_loop(size, envelope.open_content, key, metadata.content, size, blob)
        except DmpError:
            return _CONTENT, 0
        return None, size

    def _columns_hold(self, one: StoredDocument, metadata: OpenedMetadata) -> bool:
        """Whether the columns that are searched by say what the metadata say. Rows from before versions existed have
        only some of them."""
        document = metadata.document
        base = (
            one.content_id == metadata.content.content_id
            and one.class_code == document.class_code.code
            and one.format_code == document.format_code.code
            and one.created_at == instant(document.create_time)
            and one.service_start == instant(document.service_start_time)
            and one.row.type_code == document.type_code.code
            and one.unique_id_digest == self._unique_ids.digest(document.unique_id)
        )
        if one.row.entry_id is None:
            return base
        stop = instant(document.service_stop_time) if document.HasField("service_stop_time") else None
        held = (
            one.service_stop,
            one.facility_code,
            one.setting_code,
            one.confidentiality,
            one.event_codes,
            one.reference_digests,
            sorted(one.title_digests),
            one.set_digest,
            one.set_version,
            sorted(one.author_name_digests),
        )
        return base and held == (
            stop,
            document.facility_type.code,
            document.practice_setting.code,
            [code.code for code in document.confidentiality if code.system != codes.VISIBILITY],
            list(dict.fromkeys(code.code for code in document.event_codes)),
            [self._unique_ids.of_reference(r.system, r.value) for r in document.reference_ids],
            sorted(titles.digests_of(self._unique_ids.title_key(one.row.health_id), document.title)),
            self._unique_ids.of_cda_set(document.set_id) if document.set_version else None,
            document.set_version or None,
            sorted(author_names.digests_of(self._unique_ids.author_name_key(one.row.health_id), document.authors)),
        )
