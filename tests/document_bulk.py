"""Many documents at once, as the service would have stored them: sealed under their dossiers' keys, in binary COPY.

A submitted document is the model; every other has an identifier, a content and a place of its own.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from dmp.document.v1 import document_pb2
from services.document import author_names, envelope, titles
from services.document.envelope import ContentPointer
from services.document.store import keeping, writing
from services.document.store.rows import DocumentRow
from services.document.times import timestamp
from services.document.unique_ids import UniqueIds
from services.runtime.dossier_keys import DossierKeys
from services.runtime.identifiers import new_health_id, uuid7
from services.runtime.keyring import Keyring
from services.runtime.postgres import transaction
from services.runtime.sealing import DossierKey
from tests.document_world import World
from tests.documents import new_oid

_COLUMNS: Final = re.findall(r"\w+", writing.PUT_DOCUMENT.split("(", 1)[1].split(")", 1)[0])
_SET_COLUMNS: Final = re.findall(r"\w+", writing.PUT_SET.split("(", 1)[1].split(")", 1)[0])
_CONTENT_COLUMNS: Final = ("health_id", "content_id", "sealed", "stored_size")
_CLOCK_COLUMNS: Final = ("health_id", "sequence", "changed_at")
_NO_HURRY: Final = "SET LOCAL statement_timeout = 0"
_AT_ONCE: Final = 200
"""Dossiers in one transaction of COPY."""


async def fill(world: World, keyring: Keyring, sizes: Sequence[int]) -> list[int]:
    """A new dossier for each of `sizes`, with so many documents; gives the dossiers."""
    await world.add()
    (model,) = await keeping.documents(world.pool, (world.dossier - 1, uuid.UUID(int=2**128 - 1)), world.dossier, 10)
    keys, unique_ids = DossierKeys(keyring, "document"), UniqueIds(keyring)
    async with world.pool.acquire() as conn:
        own = (await keys.for_read(conn, [world.dossier]))[world.dossier]
    metadata = envelope.open_metadata(own, model.row).document
    dossiers: list[int] = [new_health_id() for _ in sizes]
    for start in range(0, len(dossiers), _AT_ONCE):
        part = list(zip(dossiers, sizes, strict=True))[start : start + _AT_ONCE]
        async with transaction(world.pool) as conn:
            made = await keys.for_write(conn, [health_id for health_id, _ in part])
        # Sealed outside of a transaction: the database ends one that is idle for ten seconds.
        rows: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        for health_id, count in part:
            _dossier(rows, made[health_id], count, model, metadata, unique_ids)
        clocks = [(health_id, count, model.row.submitted_at + timedelta(days=1)) for health_id, count in part]
        async with transaction(world.pool) as conn:
            await conn.execute(_NO_HURRY)
            await conn.copy_records_to_table("submission_set", records=rows[0], columns=_SET_COLUMNS)
            await conn.copy_records_to_table("document", records=rows[1], columns=_COLUMNS)
            await conn.copy_records_to_table("content", records=rows[2], columns=_CONTENT_COLUMNS)
            await conn.copy_records_to_table("dossier_clock", records=clocks, columns=_CLOCK_COLUMNS)
    async with transaction(world.pool) as conn:
        await conn.execute(_NO_HURRY)
        await conn.execute("ANALYZE submission_set, document, content, dossier_clock, dossier_key")
    return dossiers


def _dossier(
    rows: tuple[list[Any], list[Any], list[Any]],
    key: DossierKey,
    count: int,
    model: keeping.StoredDocument,
    metadata: document_pb2.Document,
    unique_ids: UniqueIds,
) -> None:
    health_id, set_id, moment = key.health_id, uuid7(), model.row.submitted_at
    handed_in = document_pb2.SubmissionSet(unique_id=new_oid(), source_id="1.2.3", submit_time=timestamp(moment))
    sealed_set = envelope.seal_submission_set(key, set_id, handed_in)
    digest = unique_ids.of_set(handed_in.unique_id)
    rows[0].append((health_id, set_id, digest, 1, moment, sealed_set, handed_in.source_id, "", [], [], []))
    title_digests = titles.digests_of(unique_ids.title_key(health_id), metadata.title)
    name_digests = author_names.digests_of(unique_ids.author_name_key(health_id), metadata.authors)
    document = document_pb2.Document()
    document.CopyFrom(metadata)
    for place in range(count):
        document_id, document.unique_id = uuid7(), new_oid()
        content = b"%%PDF-1.7 of %d, %d" % (health_id, place)
        packed = envelope.pack(content)
        document.hash, document.size = packed.sha1, packed.size
        content_id = unique_ids.of_content(health_id, packed.sha256)
        at = moment + timedelta(seconds=place)
        row: DocumentRow = model.row._replace(
            health_id=health_id,
            document_id=document_id,
            logical_id=document_id,
            entry_id=document_id,
            submission_set_id=set_id,
            submitted_at=at,
            changed_at=at,
            stored_size=len(packed.frame),
        )
        sealed = envelope.seal_metadata(key, row, ContentPointer(content_id, packed.sha256), document)
        searched = model._replace(
            unique_id_digest=unique_ids.digest(document.unique_id),
            content_id=content_id,
            title_digests=title_digests,
            author_name_digests=name_digests,
        )
        rows[1].append((*row._replace(sealed=sealed), *searched[:-1]))
        blob = envelope.seal_content(key, content_id, packed)
        rows[2].append((health_id, content_id, blob, len(blob)))
