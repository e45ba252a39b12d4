"""How people are found without their civil identity: keyed digests (HMAC) of identifiers, traits and requests.

The labels and the bytes digested are frozen: they are in the database. Fields are joined by a zero byte, which no
field contains.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.identity.civil_identity import PatientIdentifier, Traits, name_prefixes, strict_traits
from services.runtime.keyring import Keyring

_IDENTIFIER = "identity/identifier/v1"
_TRAITS = "identity/traits/v1"
_BLOCKING = "identity/blocking/v1"
_REQUEST = "identity/request/v1"
_ROUTE = "identity/request-route/v1"


class Digests:
    """The digests of one keyring. `…_all` are of each live generation, oldest first: those to write."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def identifier(self, identifier: PatientIdentifier) -> bytes:
        """By which an identifier is found, and is unique."""
        return self._keyring.digest(_IDENTIFIER, _joined((identifier.system, identifier.value)))

    def identifier_all(self, identifier: PatientIdentifier) -> tuple[bytes, ...]:
        """As `identifier`, of each live generation."""
        return self._keyring.digests(_IDENTIFIER, _joined((identifier.system, identifier.value)))

    def traits(self, traits: Traits) -> bytes:
        """By which people of the very same strict traits are found."""
        return self._keyring.digest(_TRAITS, _joined(map(str, strict_traits(traits))))

    def match_keys_all(self, traits: Traits) -> tuple[bytes, ...]:
        """All by which a person of these traits may be found: the strict traits; birth date and name prefix."""
        exact = self._keyring.digests(_TRAITS, _joined(map(str, strict_traits(traits))))
        blocking = (
            digest
            for prefix in sorted(name_prefixes(traits))
            for digest in self._keyring.digests(_BLOCKING, _joined((traits.birth_date, prefix)))
        )
        return (*exact, *blocking)

    def request(self, body: bytes) -> bytes:
        """Of a request's body; keyed, since a plain digest of civil identity could be guessed."""
        return self._keyring.digest(_REQUEST, body)

    def route(self, client: str, request_id: str) -> int:
        """The routing number, 63 bits, under which the answer to a registration is remembered: of the request, not
        of the person, so that a request_id used again with another person is noticed."""
        return int.from_bytes(self._keyring.digest(_ROUTE, _joined((client, request_id)))[:8], "big") >> 1


def _joined(fields: Iterable[str]) -> bytes:
    return "\0".join(fields).encode()
