"""Mutual TLS: certificates that rotate without a restart, and who is at the other end.

Here live the certificate files of a workload, the server's and client's gRPC credentials made from them, and the
identity of a peer from its certificate. What an identity may do is not decided here.

An identity is the one SPIFFE id among a certificate's URI names: `spiffe://dmp.local/<kind>/<name>`, kind being
service, gateway, internal or operator.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.runtime.settings import SettingsError

TRUST_DOMAIN: Final = "dmp.local"
IdentityKind = Literal["service", "gateway", "internal", "operator"]
_IDENTITY: Final = re.compile(
    rb"spiffe://" + re.escape(TRUST_DOMAIN.encode()) + rb"/(service|gateway|internal|operator)/([A-Za-z0-9._-]{1,128})"
)

_log = structlog.get_logger("tls")


class CertificateError(SettingsError):
    """Certificate, key or CA cannot be used. Names the file and the rule, never a key."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end of a connection, as the CA attests it."""

    kind: IdentityKind
    name: str


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a workload's certificate chain, private key and trusted CAs are (PEM)."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """One consistent reading of the files: the key is the certificate's, and the CA file holds certificates."""

    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes
    expires_at: datetime
    """When the certificate ends (aware, UTC)."""

    @classmethod
    def read(cls, files: TlsFiles) -> TlsMaterial:
        """Read and check the three files. Raises CertificateError."""
        cert, key, ca = (_bytes(file) for file in (files.cert, files.key, files.ca))
        try:
            leaf = x509.load_pem_x509_certificates(cert)[0]
        except ValueError:
            raise CertificateError(f"{files.cert}: holds no PEM certificate") from None
        try:
            public = load_pem_private_key(key, None).public_key()
        except (ValueError, TypeError):
            raise CertificateError(f"{files.key}: holds no unencrypted PEM private key") from None
        try:
            x509.load_pem_x509_certificates(ca)
        except ValueError:
            raise CertificateError(f"{files.ca}: holds no PEM certificate") from None
        if _spki(public) != _spki(leaf.public_key()):
            raise CertificateError(f"{files.key}: not the key of {files.cert}")
        return cls(cert, key, ca, leaf.not_valid_after_utc)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"{file}: cannot be read ({type(error).__name__})") from None


def _spki(public: Any) -> bytes:
    return cast(bytes, public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class Certificates:
    """A workload's certificate, read again when its files change. May be used from any thread.

    Files caught in the middle of a change (the key not yet that of the certificate) leave the last good reading in
    place, and are read again at the next look.
    """

    def __init__(self, files: TlsFiles, reloaded: Callable[[bool], None] | None = None) -> None:
        """Reads the files at once; raises CertificateError. `reloaded` is told of each new reading, good or not."""
        self._files = files
        self._reloaded = reloaded or _nobody
        self._lock = threading.Lock()
        self._seen = _fingerprint(files)
        self._refused: object = None
        self._material = TlsMaterial.read(files)

    def material(self) -> TlsMaterial:
        """The newest good reading. The same object as before when nothing changed (about 5 µs)."""
        with self._lock:
            seen = _fingerprint(self._files)
            if seen != self._seen:
                self._read(seen)
            return self._material

    def _read(self, seen: object) -> None:
        try:
            self._material = TlsMaterial.read(self._files)
        except CertificateError as error:
            if seen != self._refused:
                self._refused = seen
                _log.warning("certificate_not_reloaded", path=str(self._files.cert), error=error.problems[0])
                self._reloaded(False)
            return
        self._seen = seen
        _log.info("certificate_reloaded", path=str(self._files.cert))
        self._reloaded(True)


def _nobody(_good: bool) -> None:
    """Nobody counts the readings."""


def _fingerprint(files: TlsFiles) -> object:
    """What changes when a file does, whether rewritten, replaced or reached by another link. None for an absent one."""

    def of(file: Path) -> tuple[int, int, int] | None:
        try:
            status = file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    return of(files.cert), of(files.key), of(files.ca)


def server_credentials(cert: Path, key: Path, ca: Path, *, client_certificate: bool = True) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate, and show new connections the newest certificate of these files.

    gRPC asks before each handshake, from a thread of its own; connections that exist keep what they began with.
    Raises CertificateError when the files cannot be used to begin with. `client_certificate` is false only where
    callers are known by their token alone: at the gateway's relay.
    """
    certificates = Certificates(TlsFiles(cert, key, ca))
    given = certificates.material()

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        material = certificates.material()
        if material is given:
            return None
        given = material
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        newest,  # type: ignore[arg-type]  # the stubs forget that None means no change
        require_client_authentication=client_certificate,
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], root_certificates=material.ca)


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """A client's credentials, fixed: a channel is replaced when the material changes (see `channels`)."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)


class AuthenticatedContext(Protocol):
    """The part of a servicer's context that tells about the connection."""

    def auth_context(self) -> Any: ...


def peer_identity(context: AuthenticatedContext) -> PeerIdentity | None:
    """Who made the call, by the certificate of its connection; None without a SPIFFE id of ours.

    Asked of the connection at each call (about 4 µs): an address may be another client's a moment later, so nothing
    is remembered by address. gRPC gives `peer_spiffe_id` only for a certificate with exactly one URI name.
    """
    ids = context.auth_context().get("peer_spiffe_id")
    return None if not ids or len(ids) != 1 else parse_identity(ids[0])


@lru_cache(maxsize=4096)
def parse_identity(uri: bytes) -> PeerIdentity | None:
    """The identity that a SPIFFE id states; None if it is not one of this platform's."""
    match = _IDENTITY.fullmatch(uri)
    return None if match is None else PeerIdentity(cast(IdentityKind, match[1].decode()), match[2].decode())
