"""The local certificate authority and what it certifies: services, internal systems, operators. Keys of other kinds
(token signing, sealing, partners) are in `keys.py`.

    pki/ca.pem  pki/ca.key                    EC P-256, ten years
    pki/service/<name>/{tls.pem,tls.key}      spiffe://dmp.local/service/<name>, server and client
    pki/internal/<name>/…                     spiffe://dmp.local/internal/<name>, client
    pki/operator/<name>/…                     spiffe://dmp.local/operator/<name>, client
    pki/provider/<name>/…                     spiffe://dmp.local/provider/<name>, server; no service believes it

What exists is kept, unless it is about to expire. Renewing replaces the key, then the certificate, each in one step: a
reader that finds a pair that does not match reads again.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ops.local.state import LOOPBACK, ServiceName, State, checked_name, write_private, write_whole

Kind = Literal["service", "internal", "operator", "provider"]

TRUST_DOMAIN: Final = "dmp.local"
CA_LIFETIME: Final = timedelta(days=3652)
LEAF_LIFETIME: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=30)
_BACKDATE: Final = timedelta(minutes=5)
"""For clocks of containers that lag a little."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The files that one party shows and trusts in mutual TLS (PEM), and the SPIFFE id in its certificate."""

    spiffe_id: str
    certificate: Path
    key: Path
    authority: Path


def spiffe_id(kind: Kind, name: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/{kind}/{checked_name(name)}"


class CertificateAuthority:
    """The authority of one state. Opening it makes it if there is none."""

    def __init__(self, state: State, now: datetime | None = None) -> None:
        self._directory = state.pki
        self.certificate_path: Final = self._directory / "ca.pem"
        self._key_path = self._directory / "ca.key"
        if not (self._key_path.exists() and self.certificate_path.exists()):
            self._create(now or datetime.now(UTC))
        key = serialization.load_pem_private_key(self._key_path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._key_path} is not an EC key")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())

    def service(self, name: ServiceName) -> Identity:
        """Certificate of a service, for both sides of a connection; for `localhost` and 127.0.0.1."""
        return self._ensure("service", name)

    def internal(self, name: str) -> Identity:
        """Client certificate of an internal system."""
        return self._ensure("internal", name)

    def operator(self, name: str) -> Identity:
        """Client certificate of an operator."""
        return self._ensure("operator", name)

    def provider(self, name: str) -> Identity:
        """Server certificate of a local OpenID provider; for `localhost` and 127.0.0.1."""
        return self._ensure("provider", name)

    def renew(self, kind: Kind, name: str, *, now: datetime | None = None) -> Identity:
        """Replaces key and certificate in place, as a rotation would; running processes are to notice by themselves."""
        identity = self._identity(kind, name)
        moment = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(key, kind, name, moment)
        write_private(identity.key, _private_pem(key))
        write_whole(identity.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return identity

    def _identity(self, kind: Kind, name: str) -> Identity:
        directory = self._directory / kind / checked_name(name)
        return Identity(spiffe_id(kind, name), directory / "tls.pem", directory / "tls.key", self.certificate_path)

    def _ensure(self, kind: Kind, name: str) -> Identity:
        identity = self._identity(kind, name)
        if identity.certificate.exists() and identity.key.exists():
            certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
            if certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE:
                return identity
        return self.renew(kind, name)

    def _create(self, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"DMP local authority {key.public_key().public_numbers().x % 0x10000:04x}")
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self._key_path, _private_pem(key))
        write_whole(self.certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _certify(self, key: ec.EllipticCurvePrivateKey, kind: Kind, name: str, now: datetime) -> x509.Certificate:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(kind, name))]
        purposes = [] if kind == "provider" else [ExtendedKeyUsageOID.CLIENT_AUTH]
        if kind in ("service", "provider"):
            names += [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(
                self._certificate.subject, _name(name), key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + LEAF_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "DMP local stack"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
