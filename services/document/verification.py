"""Whether what is stored is what was stored: keys, seals, digests, sizes, and columns against sealed metadata; and so
what belongs to it (`belongings`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
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

_AT_ONCE: Final = 32
_AT_ONCE_BYTES: Final = 8 << 20
"""Documents, and sealed bytes, that are fetched together: a few milliseconds of work, between which others are
served."""


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
        usable = {health_id: key for health_id, key in keys.items() if isinstance(key, DossierKey)}
        for one in documents:
            error = keys[one.row.health_id]
            if isinstance(error, DmpError) and error.reason != reasons.ERROR_REASON_CONTENT_DESTROYED:
                checked.faults.append((_identity(one), _KEY))
        for some in _together([one for one in documents if one.row.health_id in usable]):
            opened = await self._check_together(some, usable, checked.faults)
            checked = checked._replace(bytes=checked.bytes + opened)
        broken = {of for of, kind in checked.faults if kind in (_METADATA, _COLUMN)}  # do not say what belongs to them
        sound = [one for one in documents if _identity(one) not in broken]
        checked.faults.extend(await self._belongings.check(sound, usable))
        return checked

    async def _check_together(
        self,
        documents: Sequence[StoredDocument],
        keys: Mapping[int, DossierKey],
        faults: list[tuple[tuple[int, uuid.UUID], _Kind]],
    ) -> int:
        """Add the faults of some documents; gives how many bytes of content were opened."""
        sound: list[tuple[StoredDocument, OpenedMetadata]] = []
        for one in documents:
            try:
                metadata = envelope.open_metadata(keys[one.row.health_id], one.row)
            except DmpError:
                faults.append((_identity(one), _METADATA))
                continue
            if not self._columns_hold(one, metadata):
                faults.append((_identity(one), _COLUMN))
            elif one.row.status != document_pb2.DOCUMENT_STATUS_DELETED:
                sound.append((one, metadata))
        size = 0
        blobs = await self._contents.get_all([DocumentKey(one.row.health_id, one.content_id) for one, _ in sound])
        for (one, metadata), blob in zip(sound, blobs, strict=True):
            if blob is None:
                faults.append((_identity(one), _MISSING))
            elif await _opens(keys[one.row.health_id], metadata, blob):
                size += metadata.document.size
            else:
                faults.append((_identity(one), _CONTENT))
        return size

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


def _identity(one: StoredDocument) -> tuple[int, uuid.UUID]:
    return one.row.health_id, one.row.document_id


def _together(documents: Sequence[StoredDocument]) -> Iterator[list[StoredDocument]]:
    """The documents in their order, so many as may be looked at in one go."""
    some: list[StoredDocument] = []
    size = 0
    for one in documents:
        if some and (len(some) == _AT_ONCE or size + one.row.stored_size > _AT_ONCE_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += one.row.stored_size
    if some:
        yield some


async def _opens(key: DossierKey, metadata: OpenedMetadata, blob: bytes) -> bool:
    size = metadata.document.size
    try:
        await envelope.off_loop(size, envelope.open_content, key, metadata.content, size, blob)
    except DmpError:
        return False
    return True
