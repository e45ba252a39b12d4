"""What mutual TLS promises: nobody without a certificate of ours, rotation without a restart, no mix of identities."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from ops.local.pki import CertificateAuthority, Identity
from ops.local.state import State
from services.runtime.settings import SettingsError
from services.runtime.tls import (
    CertificateError,
    Certificates,
    PeerIdentity,
    TlsFiles,
    TlsMaterial,
    channel_credentials,
    parse_identity,
    peer_identity,
    server_credentials,
)

HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
HTTP2_SETTINGS_TAKEN = b"\0\0\0\4\1\0\0\0\0"


def files(identity: Identity) -> TlsFiles:
    return TlsFiles(identity.certificate, identity.key, identity.authority)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(State.open(tmp_path / "state"))


async def who(_request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """An RPC that answers who calls it."""
    return repr(peer_identity(context)).encode()


@dataclass
class Server:
    """A real server with mutual TLS on a free port."""

    port: int

    async def ask(self, material: TlsMaterial | None, ca: Path) -> str:
        """Who we are to the server, over a connection of its own."""
        if material is None:
            credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        else:
            credentials = channel_credentials(material)
        own = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options=own) as channel:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Who/Ask")
            return (await ask(b"", timeout=5)).decode()

    async def certificate(self, client: Identity) -> int:
        """Serial number of the certificate that a new connection is shown.

        The connection goes on until the server has settled it: grpcio 1.78 may crash when a server stops while a
        connection has ended its TLS handshake and not yet sent its HTTP/2 settings.
        """
        context = ssl.create_default_context(cafile=str(client.authority))
        context.load_cert_chain(client.certificate, client.key)
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="localhost")
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS)
        async with asyncio.timeout(5):
            await reader.readuntil(HTTP2_SETTINGS_TAKEN)
        writer.close()
        return x509.load_der_x509_certificate(shown).serial_number


@asynccontextmanager
async def serving(identity: Identity) -> AsyncIterator[Server]:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Ask": handler}),))
    credentials = server_credentials(identity.certificate, identity.key, identity.authority)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield Server(port)
    finally:
        await server.stop(0)


def serial(identity: Identity) -> int:
    return x509.load_pem_x509_certificate(identity.certificate.read_bytes()).serial_number


async def refused(asking: Callable[[], Awaitable[str]]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asking()
    return failed.value.code()


async def test_a_rotated_certificate_is_shown_to_new_connections_without_a_restart(
    authority: CertificateAuthority,
) -> None:
    mine, client = authority.service("document"), authority.service("consent")
    async with serving(mine) as server:
        before = serial(mine)
        assert await server.certificate(client) == before
        authority.renew("service", "document")
        assert serial(mine) != before
        assert await server.certificate(client) == serial(mine)
        assert await server.ask(TlsMaterial.read(files(client)), client.authority)


async def test_a_certificate_caught_halfway_through_its_rotation_changes_nothing(
    authority: CertificateAuthority,
) -> None:
    mine, client = authority.service("document"), authority.service("consent")
    async with serving(mine) as server:
        before = serial(mine)
        key = mine.key.read_bytes()
        mine.key.write_bytes(client.key.read_bytes())
        assert await server.certificate(client) == before
        mine.key.unlink()
        assert await server.certificate(client) == before
        mine.key.write_bytes(key)
        authority.renew("service", "document")
        assert await server.certificate(client) == serial(mine) != before


async def test_each_connection_has_the_identity_of_its_own_certificate(authority: CertificateAuthority) -> None:
    clients = [authority.service("consent"), authority.internal("admissions"), authority.operator("alice")]
    expected = [PeerIdentity("service", "consent"), PeerIdentity("internal", "admissions")]
    expected.append(PeerIdentity("operator", "alice"))
    async with serving(authority.service("document")) as server:
        materials = [TlsMaterial.read(files(client)) for client in clients]
        answers = await asyncio.gather(*(server.ask(m, clients[0].authority) for m in materials * 4))
    assert answers == [repr(identity) for identity in expected] * 4


async def test_nobody_gets_in_without_a_certificate_or_with_another_authoritys(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    stranger = CertificateAuthority(State.open(tmp_path / "elsewhere")).service("consent")
    mine = authority.service("document")
    async with serving(mine) as server:
        theirs = TlsMaterial.read(files(stranger))
        forged = TlsMaterial(theirs.cert, theirs.key, mine.authority.read_bytes(), theirs.expires_at)
        assert await refused(lambda: server.ask(None, mine.authority)) is grpc.StatusCode.UNAVAILABLE
        assert await refused(lambda: server.ask(forged, mine.authority)) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        (b"spiffe://dmp.local/service/document", PeerIdentity("service", "document")),
        (b"spiffe://dmp.local/gateway/gateway", PeerIdentity("gateway", "gateway")),
        (b"spiffe://dmp.local/internal/his-lyon.2", PeerIdentity("internal", "his-lyon.2")),
        (b"spiffe://dmp.local/operator/alice", PeerIdentity("operator", "alice")),
        (b"spiffe://dmp.local/patient/alice", None),
        (b"spiffe://dmp.local/service/", None),
        (b"spiffe://dmp.local/service/a/b", None),
        (b"spiffe://dmp.local/service/a\n", None),
        (b"spiffe://dmpxlocal/service/document", None),
        (b"spiffe://dmp.local.evil/service/document", None),
        (b"https://dmp.local/service/document", None),
    ],
)
def test_only_an_id_of_this_platform_is_an_identity(uri: bytes, identity: PeerIdentity | None) -> None:
    assert parse_identity(uri) == identity


class Connection:
    """The authentication context of a connection, as gRPC tells it."""

    def __init__(self, properties: dict[str, list[bytes]]) -> None:
        self._properties = properties

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._properties


def test_a_connection_without_exactly_one_spiffe_id_is_nobodys() -> None:
    uri = b"spiffe://dmp.local/service/document"
    assert peer_identity(Connection({"peer_spiffe_id": [uri]})) == PeerIdentity("service", "document")
    assert peer_identity(Connection({})) is None
    assert peer_identity(Connection({"peer_spiffe_id": [uri, uri]})) is None
    assert peer_identity(Connection({"x509_subject_alternative_name": [uri], "peer_dns": [uri]})) is None


def test_files_that_cannot_be_used_are_named_at_the_start(authority: CertificateAuthority, tmp_path: Path) -> None:
    mine, other = files(authority.service("document")), files(authority.service("consent"))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for wrong, message in (
        (TlsFiles(mine.cert, other.key, mine.ca), "not the key of"),
        (TlsFiles(tmp_path / "absent", mine.key, mine.ca), "cannot be read"),
        (TlsFiles(rubbish, mine.key, mine.ca), "no PEM certificate"),
        (TlsFiles(mine.cert, rubbish, mine.ca), "private key"),
        (TlsFiles(mine.cert, mine.key, rubbish), "no PEM certificate"),
    ):
        with pytest.raises(CertificateError, match=message) as failed:
            Certificates(wrong)
        assert isinstance(failed.value, SettingsError), "a service refuses to start with one clear message"


def test_an_unchanged_certificate_is_not_read_again(authority: CertificateAuthority) -> None:
    readings: list[bool] = []
    certificates = Certificates(files(authority.service("document")), readings.append)
    first = certificates.material()
    assert certificates.material() is first
    authority.renew("service", "document")
    assert certificates.material() is not first
    assert readings == [True]


def test_a_private_key_is_not_shown(authority: CertificateAuthority) -> None:
    assert "PRIVATE" not in repr(TlsMaterial.read(files(authority.service("document"))))
