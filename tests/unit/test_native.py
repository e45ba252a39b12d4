"""The native transport believes a terminator on its own socket, strictly, and nobody else can open that socket."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.document.v1 import document_pb2
from services.runtime.native import NativeServer
from services.runtime.settings import ServiceSettings, SettingsError, load
from services.runtime.terminator import forwarded_id
from tests.platform_calls import attempt
from tests.transports import METHODS, served

HASH: Final = "0123456789abcdef" * 4
OURS: Final = "spiffe://dmp.local/service/document"
CLIENT: Final = "spiffe://dmp.local/internal/his"
GET: Final = METHODS["/dmp.document.v1.DocumentService/GetDocument"]


@pytest.mark.parametrize("header", [f"By={OURS};Hash={HASH};URI={CLIENT}", f"Hash={HASH};URI={CLIENT}"])
def test_what_envoy_says_of_a_certificate_with_one_uri_is_believed(header: str) -> None:
    assert forwarded_id(header) == CLIENT.encode()


@pytest.mark.parametrize(
    "header",
    [
        "",
        CLIENT,
        f"URI={CLIENT}",
        f"By={OURS};Hash={HASH};URI=",
        f"By={OURS};Hash={HASH}",
        f"By={OURS};Hash={HASH};URI={CLIENT};URI={OURS}",
        f"By={OURS};Hash={HASH};URI={CLIENT},By={OURS};Hash={HASH};URI={OURS}",
        f"By={OURS};Hash={HASH};URI={CLIENT};DNS=his.example",
        f'By={OURS};Hash={HASH};Subject="CN=his";URI={CLIENT}',
        f'By={OURS};Hash={HASH};URI="{CLIENT}"',
        f"By={OURS};Hash={HASH[:-1]};URI={CLIENT}",
        f"By={OURS};Hash={HASH.upper()};URI={CLIENT}",
        f"by={OURS};hash={HASH};uri={CLIENT}",
        f"By={OURS};Hash={HASH};URI={CLIENT} ",
        f"By={OURS};Hash={HASH};URI={CLIENT}\n",
    ],
)
def test_any_other_header_names_nobody(header: str) -> None:
    assert forwarded_id(header) is None


async def test_only_its_own_user_may_open_the_socket(tmp_path: Path) -> None:
    server = NativeServer(str(tmp_path / "grpc.sock"), {}, max_message_bytes=1)
    assert stat.S_IMODE((tmp_path / "grpc.sock").stat().st_mode) == 0o600
    await server.start()
    await server.stop(0)
    assert not (tmp_path / "grpc.sock").exists()


@pytest.mark.parametrize(
    "stated",
    [
        [],
        [f"Hash={HASH};URI={CLIENT}", f"Hash={HASH};URI={CLIENT}"],
        [f"Hash={HASH};URI=spiffe://elsewhere/internal/his"],
    ],
)
async def test_a_call_without_exactly_one_good_header_is_nobodys(stated: list[str]) -> None:
    async with served("native") as service:
        assert service.terminator is not None
        headers = [("x-forwarded-client-cert", header) for header in stated]
        request = document_pb2.GetDocumentRequest(name="dossiers/1/documents/1")
        async with grpc.aio.insecure_channel(f"unix:{service.terminator.socket}") as channel:
            refusal = await attempt(channel, GET, request, [*service.bearer(), *headers])
        assert refusal is not None
        assert refusal.reason == reasons.ERROR_REASON_CLIENT_CERTIFICATE


@pytest.mark.parametrize(
    "wrong",
    [
        {"DMP_TRANSPORT": "native", "DMP_LISTEN": "127.0.0.1:8443"},
        {"DMP_LISTEN": "unix:/run/dmp/grpc.sock"},
        {"DMP_TRANSPORT": "native", "DMP_LISTEN": "unix:grpc.sock"},
        {"DMP_TRANSPORT": "native", "DMP_LISTEN": f"unix:/{'x' * 100}"},
    ],
)
def test_native_listens_on_a_unix_socket_and_only_native_does(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="DMP_LISTEN"):
        load(ServiceSettings, wrong)
    right = load(ServiceSettings, {"DMP_TRANSPORT": "native", "DMP_LISTEN": "unix:/run/dmp/grpc.sock"})
    assert right.transport == "native"


def test_only_native_has_a_door_of_its_own_for_peers() -> None:
    peers = {"DMP_PEER_LISTEN": "127.0.0.1:8447"}
    with pytest.raises(SettingsError, match="DMP_PEER_LISTEN"):
        load(ServiceSettings, {"DMP_LISTEN": "127.0.0.1:8443"} | peers)
    native = {"DMP_TRANSPORT": "native", "DMP_LISTEN": "unix:/run/dmp/grpc.sock"}
    assert load(ServiceSettings, native | peers).peer_listen == "127.0.0.1:8447"
