"""Producers' identifiers: one spelling for what is the same identifier, and the digests by which they are found.

XDS writes the uniqueId of a CDA as `root^extension`, or the root alone (IHE PCC TF-2 §4.1.1); FHIR puts `urn:oid:` or
`urn:uuid:` before it. The French implementation guides also show `root.extension`: that is another OID, which nothing
tells from a root, so it is accepted as a second spelling of a CDA's own id (`spellings`) and never stored.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from services.document.cda import InstanceId
from services.runtime.keyring import Keyring

_PREFIX: Final = re.compile(r"urn:(?:oid|uuid):", re.IGNORECASE)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def canonical(unique_id: str) -> str:
    """The identifier without URN prefix, a UUID as root in small letters."""
    prefix = _PREFIX.match(unique_id)
    bare = unique_id[prefix.end() :] if prefix else unique_id
    root, caret, extension = bare.partition("^")
    return f"{root.lower()}{caret}{extension}" if _UUID.fullmatch(root) else bare


def spellings(identifier: InstanceId) -> frozenset[str]:
    """The canonical forms in which a CDA's id may be given in metadata."""
    if identifier.extension is None:
        return frozenset({canonical(identifier.root)})
    root, extension = canonical(identifier.root), identifier.extension
    return frozenset({f"{root}^{extension}", f"{root}.{extension}"})


def entry_uuid(identifier: str) -> uuid.UUID | None:
    """The UUID that an identifier is. An entryUUID, which the record gives, is one too: a search by identifier finds by
    either."""
    bare = canonical(identifier)
    return uuid.UUID(bare) if _UUID.fullmatch(bare) else None


class UniqueIds:
    """Keyed digests of identifiers, under the oldest live generation, which decides uniqueness (design §8)."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def digest(self, unique_id: str) -> bytes:
        """The digest of a document's uniqueId, whatever its spelling."""
        return self._keyring.digest("document-unique-id", canonical(unique_id).encode())

    def of_set(self, unique_id: str) -> bytes:
        """The digest of a submission set's uniqueId."""
        return self._keyring.digest("submission-set-unique-id", canonical(unique_id).encode())

    def of_folder(self, unique_id: str) -> bytes:
        """The digest of a folder's uniqueId."""
        return self._keyring.digest("folder-unique-id", canonical(unique_id).encode())

    def of_cda_set(self, set_id: str) -> bytes:
        """The digest of a CDA's setId."""
        return self._keyring.digest("document-set-id", canonical(set_id).encode())

    def of_reference(self, system: str, value: str) -> bytes:
        """The digest of a reference id."""
        return self._keyring.digest("document-reference-id", f"{system}|{value}".encode())

    def of_content(self, health_id: int, sha256: bytes) -> uuid.UUID:
        """The id of a content: the same bytes in the same dossier have the same one, and nobody else can tell."""
        made = bytearray(self._keyring.digest("content-id", health_id.to_bytes(8, "big") + sha256)[:16])
        made[6], made[8] = made[6] & 0x0F | 0x80, made[8] & 0x3F | 0x80
        return uuid.UUID(bytes=bytes(made))

    def title_key(self, health_id: int) -> bytes:
        """The key of the digests of a dossier's titles."""
        return self._keyring.digest("document-title", health_id.to_bytes(8, "big"))

    def author_name_key(self, health_id: int) -> bytes:
        """The key of the digests of the names of a dossier's authors."""
        return self._keyring.digest("document-author-name", health_id.to_bytes(8, "big"))
