"""Producers' identifiers: one spelling for what is the same identifier, and the digests by which they are found.

XDS writes the uniqueId of a CDA as `root^extension`, or the root alone (IHE PCC TF-2 §4.1.1); FHIR puts `urn:oid:` or
`urn:uuid:` before it. The French implementation guides also show `root.extension`: that is another OID, which nothing
tells from a root, so it is accepted as a second spelling of a CDA's own id (`spellings`) and never stored.
"""

from __future__ import annotations

import re
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

    def of_set_version(self, set_version: str) -> bytes:
        """The digest of a CDA's setId and versionNumber (`cda_metadata.set_version`)."""
        return self._keyring.digest("document-set-version", set_version.encode())
