"""How people are found without their civil identity: keyed digests (HMAC) of identifiers, traits and requests.

The labels and the bytes digested are frozen: they are in the database. Fields are joined by a zero byte, which no
field contains.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.identity.blocking import Block
from services.identity.civil_identity import PatientIdentifier, Traits, strict_traits
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

    def traits_all(self, traits: Traits) -> tuple[bytes, ...]:
        """As `traits`, of each live generation: those on which registrations of one person meet."""
        return self._keyring.digests(_TRAITS, _joined(map(str, strict_traits(traits))))

    def blocks(self, blocks: Iterable[Block]) -> list[int]:
        """By which blocks are sought: the first 64 bits of each digest, signed, of the oldest live generation."""
        return [_number(self._keyring.digest(*_labelled(block))) for block in blocks]

    def blocks_all(self, blocks: Iterable[Block]) -> list[int]:
        """As `blocks`, of each live generation: those to write."""
        return [_number(digest) for block in blocks for digest in self._keyring.digests(*_labelled(block))]

    def blocks_of(self, generation: int, blocks: Iterable[Block]) -> list[int]:
        """As `blocks`, of one generation still in the keyring; for rotation."""
        return [_number(self._keyring.digest_under(generation, *_labelled(block))) for block in blocks]

    def identifier_of(self, generation: int, identifier: PatientIdentifier) -> bytes:
        """As `identifier`, of one generation still in the keyring; for rotation."""
        return self._keyring.digest_under(generation, _IDENTIFIER, _joined((identifier.system, identifier.value)))

    def request(self, body: bytes) -> bytes:
        """Of a request's body; keyed, since a plain digest of civil identity could be guessed. Under the oldest key
        that is held: answers remembered outlive a rotation."""
        return self._keyring.digest_under(self._keyring.generations[0], _REQUEST, body)

    def route(self, client: str, request_id: str) -> int:
        """The routing number, 63 bits, under which the answer to a registration is remembered: of the request, not
        of the person, so that a request_id used again with another person is noticed."""
        oldest = self._keyring.generations[0]
        return int.from_bytes(self._keyring.digest_under(oldest, _ROUTE, _joined((client, request_id)))[:8], "big") >> 1


def _labelled(block: Block) -> tuple[str, bytes]:
    kind, *fields = block
    if kind == "exact":
        return _TRAITS, _joined(fields)
    if kind == "name":
        return _BLOCKING, _joined(fields)
    return f"{_BLOCKING}/{kind}", _joined(fields)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)


def _joined(fields: Iterable[str]) -> bytes:
    return "\0".join(fields).encode()
