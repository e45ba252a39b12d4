"""What is sealed of a projection, and the digests by which it is found.

    projection  the message; bound to: health id ‖ document id ‖ "projection" ‖ kind (8 bytes) ‖ place (8 bytes)

Digests are keyed, and bound to the dossier: the same code in two dossiers has nothing in common, so that a copy of the
tables tells neither what anybody has nor who has the same. Sixteen bytes are enough within one dossier.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from google.protobuf.message import DecodeError

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.document.clinical_store import NewProjection, ProjectionRow
from services.document.reading.model import MESSAGES, Kind, Message, Projection
from services.document.times import instant
from services.runtime.errors import DmpError
from services.runtime.keyring import Keyring
from services.runtime.sealing import DossierKey, SealBroken, content_aad, open_sealed, seal

_DIGEST_BYTES: Final = 16
_CODE, _SERIES, _LINK = "projection-code", "projection-series", "projection-link"


class Digests:
    """Digests under the keyring: all live generations are written, the oldest one is asked for."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def codes(self, health_id: int, codes: Iterable[str]) -> tuple[bytes, ...]:
        """Of codes, to store."""
        return self._all(_CODE, health_id, codes)

    def wanted(self, health_id: int, codes: Iterable[str]) -> list[bytes]:
        """Of codes, to look for."""
        return [self._one(_CODE, health_id, code) for code in codes]

    def series(self, health_id: int, series: str) -> bytes:
        """Of a result's code and unit; empty without one."""
        return self._one(_SERIES, health_id, series) if series else b""

    def links(self, health_id: int, links: Iterable[str]) -> tuple[bytes, ...]:
        """Of what joins a report and a reference, to store."""
        return self._all(_LINK, health_id, links)

    def _one(self, label: str, health_id: int, text: str) -> bytes:
        return self._keyring.digest(label, _value(health_id, text))[:_DIGEST_BYTES]

    def _all(self, label: str, health_id: int, texts: Iterable[str]) -> tuple[bytes, ...]:
        digests = self._keyring.digests
        found = [digest[:_DIGEST_BYTES] for text in texts for digest in digests(label, _value(health_id, text))]
        return tuple(dict.fromkeys(found))


def sealed(
    key: DossierKey,
    document_id: uuid.UUID,
    document: document_pb2.Document,
    projections: Sequence[Projection],
    digests: Digests,
) -> list[NewProjection]:
    """The rows to store of a document's projections."""
    stated = document.service_start_time if document.HasField("service_start_time") else document.create_time
    return [
        _sealed(key, document_id, -index, projection, instant(stated), digests)
        for index, projection in enumerate(projections)
    ]


def opened(key: DossierKey, row: ProjectionRow) -> Message | None:
    """The message of a row, None for an unread document. CONTENT_CORRUPTED when it was altered or is of another."""
    if not row.sealed:
        return None
    try:
        plain = open_sealed(key, row.sealed, _aad(key.health_id, row.document_id, row.kind, row.place))
        return MESSAGES[Kind(row.kind)].FromString(plain)
    except (SealBroken, DecodeError, ValueError) as error:
        raise DmpError(reasons.ERROR_REASON_CONTENT_CORRUPTED) from error


def _sealed(
    key: DossierKey, document_id: uuid.UUID, place: int, projection: Projection, stated: datetime, digests: Digests
) -> NewProjection:
    health_id, message = key.health_id, projection.message
    aad = _aad(health_id, document_id, projection.kind, place)
    return NewProjection(
        place=place,
        kind=projection.kind,
        subkind=projection.subkind,
        occurred_at=projection.occurred or stated,
        unread=projection.unread,
        series_digest=digests.series(health_id, projection.series),
        sealed=b"" if message is None else seal(key, message.SerializeToString(), aad),
        code_digests=digests.codes(health_id, projection.codes),
        link_digests=digests.links(health_id, projection.links),
    )


def _aad(health_id: int, document_id: uuid.UUID, kind: int, place: int) -> bytes:
    return b"".join(
        (
            content_aad(health_id, document_id),
            b"projection",
            kind.to_bytes(8, "big"),
            place.to_bytes(8, "big", signed=True),
        )
    )


def _value(health_id: int, text: str) -> bytes:
    return health_id.to_bytes(8, "big") + text.encode()
