"""Platform tokens: signed by the gateway, verified by every service without asking anyone.

A token is a JWT (RFC 7519, 9068) signed with Ed25519:

    header   alg "EdDSA", typ "at+jwt", kid
    claims   iss, aud, iat, nbf, exp, jti, scope (names separated by spaces)
             dmp: base64url of a serialised dmp.common.v1.ActingContext, which is all that is believed about who acts
             sub, client_id, extensions (`ihe_iua`): the same for those who read tokens as IHE IUA writes them

It lives five minutes at most. Here live issuing and verifying; which caller and scope a method asks for is the method's
access option (`access`, `authentication`).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog
from google.protobuf.message import DecodeError
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from services.runtime.errors import DmpError
from services.runtime.settings import SettingsError

MAX_LIFETIME: Final = 300
"""Seconds that a token may live (design §8: minutes; a suspension takes effect at the latest at its end)."""
SKEW: Final = 5
"""Seconds by which the clocks of issuer and verifier may differ."""
MAX_TOKEN_CHARS: Final = 8192
SETTLED: Final = 3.0
"""Seconds that a signing key is published before it signs: verifiers look at the key set once a second."""

_ALGORITHM: Final = "EdDSA"
_TYPE: Final = "at+jwt"
_RELOAD_EVERY: Final = 1.0

_log = structlog.get_logger("tokens")


class KeySetError(SettingsError):
    """The key set or signing key cannot be used. Names the file and the rule, never a key."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a valid token says. `claims` is shared by all calls with the same token and must not be modified."""

    claims: ActingContext
    expires_at: float
    """Unix seconds."""
    client_id: str
    scopes: frozenset[str]
    caller: access_pb2.CallerKind.ValueType
    jti: str


@dataclass(frozen=True, slots=True)
class _Remembered:
    token: VerifiedToken
    key: OKPKey


class _EdDSA(JWSRegistry):
    """Knows one algorithm, whatever a header says: no `none`, no HMAC with a public key, no other curve's."""

    def get_alg(self, name: str) -> Any:
        if name != _ALGORITHM:
            _refuse()
        return self.algorithms[_ALGORITHM]


_REGISTRY: Final = _EdDSA()


class TokenVerifier:
    """Verifies tokens, each once: a valid one is remembered by its SHA-256 until it expires.

    Refused ones are not remembered. The key set file is looked at once a second; a token whose key is no longer in it
    is refused from then on, remembered or not.
    """

    def __init__(
        self,
        jwks_file: Path,
        audience: str,
        issuer: str,
        *,
        remember: int = 50_000,
        outcome: Callable[[str], None] | None = None,
    ) -> None:
        """Reads the key set at once; KeySetError if it cannot be used.

        `remember` bounds the remembered tokens; `outcome` is told `ok`, `remembered` or `refused` of each.
        """
        self._file = jwks_file
        self._audience = audience
        self._issuer = issuer
        self._capacity = remember
        self._outcome = outcome
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._seen = _fingerprint(jwks_file)
        self._keys = read_key_set(jwks_file)
        self._look_again = 0.0

    def verify(self, token: str, now: float) -> VerifiedToken:
        """What the token says, if it is valid at `now` (Unix seconds).

        Raises DmpError: TOKEN_MISSING when empty, TOKEN_INVALID, TOKEN_EXPIRED (ended, or not begun), TOKEN_AUDIENCE.
        """
        if now >= self._look_again or now < self._look_again - _RELOAD_EVERY:
            self._reload(now)
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(digest)
        if known is not None:
            if now < known.token.expires_at + SKEW:
                self._remembered.move_to_end(digest)
                self._note("remembered")
                return known.token
            del self._remembered[digest]
        try:
            verified = self._verify(token, now)
        except DmpError:
            self._note("refused")
            raise
        self._remembered[digest] = verified
        if len(self._remembered) > self._capacity:
            self._remembered.popitem(last=False)
        self._note("ok")
        return verified.token

    def _note(self, outcome: str) -> None:
        if self._outcome is not None:
            self._outcome(outcome)

    def _verify(self, token: str, now: float) -> _Remembered:
        if not token:
            raise DmpError(reasons.ERROR_REASON_TOKEN_MISSING)
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            _refuse()
        key, payload = self._signed(token)
        try:
            claims = json.loads(payload)
        except (ValueError, RecursionError):
            _refuse()
        if not isinstance(claims, dict) or claims.get("iss") != self._issuer:
            _refuse()
        expires_at = _check_times(claims, now)
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise DmpError(reasons.ERROR_REASON_TOKEN_AUDIENCE)
        jti, scope = claims.get("jti"), claims.get("scope")
        if not isinstance(jti, str) or not jti or not isinstance(scope, str):
            _refuse()
        actor = _acting_context(claims.get("dmp"))
        scopes = frozenset(scope.split())
        return _Remembered(VerifiedToken(actor, expires_at, actor.client_id, scopes, actor.caller, jti), key)

    def _signed(self, token: str) -> tuple[OKPKey, bytes]:
        """The key that signed the token, by its `kid`, and what it signed."""
        try:
            parts = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
            header = parts.headers()
            kid = header.get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None or header.get("typ") != _TYPE:
                _refuse()
            if not jws.validate_compact(parts, key, registry=_REGISTRY):
                _refuse()
        except (JoseError, ValueError, KeyError, TypeError, RecursionError):
            # the library's errors, and what a header of the wrong shape makes it raise
            _refuse()
        return key, parts.payload

    def _reload(self, now: float) -> None:
        self._look_again = now + _RELOAD_EVERY
        seen = _fingerprint(self._file)
        if seen == self._seen:
            return
        try:
            keys = read_key_set(self._file)
        except KeySetError as error:
            _log.warning("key_set_not_reloaded", path=str(self._file), error=error.problems[0])
            return
        live = {kid: self._keys[kid] if _same(self._keys.get(kid), key) else key for kid, key in keys.items()}
        usable = {id(key) for key in live.values()}
        for digest in [digest for digest, known in self._remembered.items() if id(known.key) not in usable]:
            del self._remembered[digest]
        self._keys, self._seen = live, seen
        _log.info("key_set_reloaded", path=str(self._file), count=len(live))


class TokenIssuer:
    """Signs platform tokens. Only the gateway has the key.

    With `published` (the key set that services verify with), a key that replaces the one in the file is taken up once
    the set has had it for SETTLED seconds, by when every verifier that reads the same set knows it: rotation needs no
    restart and no token is refused on its account.
    """

    def __init__(self, key_file: Path, kid: str | None, issuer: str, published: Path | None = None) -> None:
        """`key_file` holds a private Ed25519 key as JWK or PEM; `kid` may be None where a JWK names itself.

        Raises KeySetError when the file cannot be used.
        """
        self._file = key_file
        self._given_kid = kid
        self._published = published
        self._seen = _fingerprint(key_file)
        self._key = _private_key(key_file)
        self.kid = _kid_of(self._key, kid, key_file)
        self._issuer = issuer
        self._look_again = 0.0
        self._next: tuple[OKPKey, str, object, float] | None = None

    def issue(
        self,
        claims: ActingContext,
        audience: str,
        lifetime: int,
        *,
        scopes: Iterable[str] = (),
        now: float | None = None,
        jti: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """A token that states `claims` for `lifetime` seconds (1 to 300) from `now` (Unix seconds; by default, now).

        `claims` names client_id and caller. ValueError otherwise: the issuer is at fault, not its client. `more` are
        claims for other readers, which no verifier of ours believes.
        """
        if not 1 <= lifetime <= MAX_LIFETIME:
            raise ValueError(f"a platform token lives 1 to {MAX_LIFETIME} seconds")
        if not _complete(claims):
            raise ValueError("a platform token names the actor, the client and the kind of caller")
        moment = time.time() if now is None else now
        if self._published is not None and moment >= self._look_again:
            self._rotate(moment, self._published)
        begins = int(moment)
        payload = {
            **(more or {}),
            "iss": self._issuer,
            "aud": audience,
            "iat": begins,
            "nbf": begins,
            "exp": begins + lifetime,
            "jti": jti or str(uuid.uuid4()),
            "scope": " ".join(sorted(scopes)),
            "dmp": base64.urlsafe_b64encode(claims.SerializeToString()).decode().rstrip("="),
        }
        header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": self.kid}
        return jws.serialize_compact(header, json.dumps(payload, separators=(",", ":")), self._key, registry=_REGISTRY)

    def _rotate(self, now: float, published: Path) -> None:
        """Look at the file once a second; take up a new key when its time has come."""
        self._look_again = now + _RELOAD_EVERY
        seen = _fingerprint(self._file)
        if seen == self._seen:
            self._next = None
            return
        try:
            if self._next is None or self._next[2] != seen:
                key = _private_key(self._file)
                kid = _kid_of(key, self._given_kid, self._file)
                if kid in read_key_set(published):
                    self._next = (key, kid, seen, now + SETTLED)
                else:
                    _log.warning("signing_key_not_published", kid=kid)
                return
        except KeySetError as error:
            _log.warning("signing_key_not_reloaded", path=str(self._file), error=error.problems[0])
            return
        key, kid, _, when = self._next
        if now >= when:
            self._key, self.kid, self._seen, self._next = key, kid, seen, None
            _log.info("signing_key_changed", kid=kid)


def _kid_of(key: OKPKey, given: str | None, file: Path) -> str:
    kid = key.kid if given is None else given
    if not kid:
        raise KeySetError(f"{file}: the key has no kid")
    return str(kid)


def read_key_set(file: Path) -> dict[str, OKPKey]:
    """The public Ed25519 keys of a JWK set, by `kid`. KeySetError if one is of another kind, private, or unnamed."""
    try:
        entries = json.loads(file.read_bytes())["keys"]
        keys = [OKPKey.import_key(entry) for entry in entries]
    except OSError as error:
        raise KeySetError(f"{file}: cannot be read ({type(error).__name__})") from None
    except (JoseError, ValueError, KeyError, TypeError):
        raise KeySetError(f"{file}: not a JWK set of Ed25519 keys") from None
    if not keys or any(key.curve_name != "Ed25519" or not key.kid for key in keys):
        raise KeySetError(f"{file}: needs at least one key, each Ed25519 and with a kid")
    if any(key.is_private for key in keys):
        raise KeySetError(f"{file}: holds a private key")
    found = {str(key.kid): key for key in keys}
    if len(found) != len(keys):
        raise KeySetError(f"{file}: two keys have one kid")
    return found


def _private_key(file: Path) -> OKPKey:
    try:
        content = file.read_bytes()
        key = OKPKey.import_key(json.loads(content) if content.lstrip().startswith(b"{") else content)
    except OSError as error:
        raise KeySetError(f"{file}: cannot be read ({type(error).__name__})") from None
    except (JoseError, ValueError, KeyError, TypeError):
        raise KeySetError(f"{file}: not an Ed25519 key in JWK or PEM") from None
    if not key.is_private or key.curve_name != "Ed25519":
        raise KeySetError(f"{file}: not a private Ed25519 key")
    return key


def _refuse() -> NoReturn:
    raise DmpError(reasons.ERROR_REASON_TOKEN_INVALID) from None


def _check_times(claims: dict[str, Any], now: float) -> float:
    """`exp`, once all three times are numbers, the life is not too long, and `now` lies within it."""
    issued, begins, ends = (_time(claims.get(name)) for name in ("iat", "nbf", "exp"))
    if ends - min(issued, begins) > MAX_LIFETIME or ends <= begins:
        _refuse()
    if now >= ends + SKEW or now < max(issued, begins) - SKEW:
        raise DmpError(reasons.ERROR_REASON_TOKEN_EXPIRED)
    return ends


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53 or math.isnan(value):
        _refuse()
    return float(value)


def _acting_context(text: object) -> ActingContext:
    if not isinstance(text, str):
        _refuse()
    try:
        actor = ActingContext.FromString(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, DecodeError):
        _refuse()
    if not _complete(actor):
        _refuse()
    return actor


def _complete(actor: ActingContext) -> bool:
    kinds = access_pb2.CallerKind.values()
    known = actor.caller in kinds and actor.caller != access_pb2.CALLER_KIND_UNSPECIFIED
    return bool(known and actor.actor_kind and actor.subject and actor.client_id)


def _same(one: OKPKey | None, other: OKPKey) -> bool:
    return one is not None and one.as_dict(private=False) == other.as_dict(private=False)


def _fingerprint(file: Path) -> object:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
