"""The keys of a local stack that are not certificates: the gateway's token signing key with the key set that services
verify with, each service's keyring, and the keys of demo partners.

    tokens/<kid>.jwk          Ed25519, private; the gateway alone is given one
    tokens/current            kid of the one that signs
    tokens/signing.jwk        the same key, under one name: what the gateway is given, so that it can be rotated
    tokens/jwks.json          public keys, newest first; read by every service
    keyring/<service>/        see services/runtime/keyring.py
    log-keys/<log id>.skey    Ed25519, of each audit log and of the local witness (witness.skey), as text
    clients/<id>/private.jwk  ES256, for `private_key_jwt`
    clients/<id>/jwks.json    its public half, to register

A `kid` is the RFC 7638 thumbprint. What exists is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from joserfc.jwk import ECKey, Key, KeySet, OKPKey

from ops.local.state import ServiceName, State, checked_name, write_private, write_whole


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """What signs platform tokens (private JWK with its `kid`), and what verifies them (JWK set)."""

    kid: str
    signing_key: Path
    key_set: Path


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The key of an OAuth client: private JWK, and the JWK set to register at the gateway."""

    client_id: str
    kid: str
    private_key: Path
    key_set: Path


def ensure_token_keys(state: State) -> TokenKeys:
    """The current signing key, made at first use."""
    current = state.tokens / "current"
    if not current.exists():
        return rotate_token_key(state)
    kid = current.read_text(encoding="ascii").strip()
    signing = state.tokens / "signing.jwk"
    if not signing.exists():
        write_private(signing, (state.tokens / f"{kid}.jwk").read_bytes())
    return TokenKeys(kid, signing, state.tokens / "jwks.json")


def rotate_token_key(state: State) -> TokenKeys:
    """Adds a signing key and makes it the current one. Older ones stay in the set until `retire_token_key`.

    The set is written before the pointer: no token is signed with a key that services cannot yet find.
    """
    # Without "alg": the algorithm of an Ed25519 key has two names, EdDSA and (RFC 9864) Ed25519.
    key = OKPKey.generate_key("Ed25519", {"use": "sig"}, private=True, auto_kid=True)
    kid = key.thumbprint()
    private, key_set = state.tokens / f"{kid}.jwk", state.tokens / "jwks.json"
    write_private(private, _private_json(key))
    known = list(KeySet.import_key_set(json.loads(key_set.read_bytes())).keys) if key_set.exists() else []
    _write_key_set(key_set, [key, *known])
    write_private(state.tokens / "current", kid)
    signing = state.tokens / "signing.jwk"
    write_private(signing, private.read_bytes())
    return TokenKeys(kid, signing, key_set)


def retire_token_key(state: State, kid: str) -> None:
    """Takes a key out of the set, so that its tokens are refused from now on.

    Errors: ValueError for the current one.
    """
    if ensure_token_keys(state).kid == kid:
        raise ValueError("the current signing key cannot be retired; rotate first")
    key_set = state.tokens / "jwks.json"
    known = KeySet.import_key_set(json.loads(key_set.read_bytes())).keys
    _write_key_set(key_set, [key for key in known if key.kid != kid])
    (state.tokens / f"{kid}.jwk").unlink(missing_ok=True)


def ensure_keyring(state: State, service: ServiceName) -> Path:
    """The keyring directory of a service, with one generation to begin with."""
    from services.runtime.keyring import Keyring

    directory = state.keyring(service)
    if not (directory / "current").exists():
        Keyring.create(directory)
    return directory


def ensure_log_keys(state: State, origin: str, count: int = 1) -> Path:
    """The directory with a key for each audit log; the origin of log `n` is `<origin>/<n>`."""
    from services.runtime.tlog.note import Signer

    directory = state.root / "log-keys"
    for number in range(count):
        file = directory / f"{number}.skey"
        if not file.exists():
            write_private(file, Signer.generate(f"{origin}/{number}").text() + "\n")
    return directory


def ensure_client_key(state: State, client_id: str) -> ClientKey:
    """The key of a demo partner."""
    directory = state.clients / checked_name(client_id)
    private, key_set = directory / "private.jwk", directory / "jwks.json"
    if not (private.exists() and key_set.exists()):
        fresh = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True, auto_kid=True)
        write_private(private, _private_json(fresh))
        _write_key_set(key_set, [fresh])
    key = ECKey.import_key(json.loads(private.read_bytes()))
    return ClientKey(client_id, key.thumbprint(), private, key_set)


def _private_json(key: Key) -> str:
    return json.dumps(key.as_dict(private=True), indent=2, sort_keys=True)


def _write_key_set(path: Path, keys: list[Key]) -> None:
    public = {"keys": [key.as_dict(private=False) for key in keys]}
    write_whole(path, json.dumps(public, indent=2, sort_keys=True), mode=0o644)
