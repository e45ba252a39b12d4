"""The process of the local provider: its key, its port, its certificate."""

from __future__ import annotations

import asyncio
import json
import logging
import signal

from granian.constants import Interfaces
from granian.server.embed import Server
from joserfc.jwk import ECKey, KeySet, RSAKey

from ops.local.pki import CertificateAuthority
from ops.local.providers import ACR, CLIENT_ID, PATIENTS, PROFESSIONALS, client_key, client_secret
from ops.local.state import OPENID, State, write_private
from ops.openid.people import is_health_id, professionals
from ops.openid.provider import Client, Realm, application


def realms(state: State, address: str) -> list[Realm]:
    """The two realms at `address` (host:port)."""
    key = signing_key(state)
    public = ECKey.import_key(json.loads(client_key(state).read_bytes())).as_dict(private=False)
    by_secret = Client(CLIENT_ID, secret=client_secret(state).read_text("ascii").strip())
    by_key = Client(CLIENT_ID, keys=KeySet.import_key_set({"keys": [public]}))
    people = professionals()
    return [
        Realm(PROFESSIONALS, f"https://{address}", key, by_secret, ACR, people.get, lambda: list(people)),
        Realm(PATIENTS, f"https://{address}", key, by_key, "", _patient, list),
    ]


def signing_key(state: State) -> RSAKey:
    """The provider's RS256 key, made at first use."""
    path = state.openid / "signing.jwk"
    if not path.exists():
        made = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, private=True, auto_kid=True)
        write_private(path, json.dumps(made.as_dict(private=True), sort_keys=True))
    return RSAKey.import_key(json.loads(path.read_bytes()))


async def serve(state: State) -> None:
    """Serve at the port that the state has for it, until SIGTERM or SIGINT."""
    address = state.recorded_ports().address(OPENID)
    identity = CertificateAuthority(state).provider("openid")
    host, _, port = address.rpartition(":")
    logging.getLogger("granian").setLevel(logging.WARNING)
    server = Server(
        application(realms(state, address)),
        address=host,
        port=int(port),
        interface=Interfaces.ASGI,
        websockets=False,
        log_enabled=False,
        ssl_cert=identity.certificate,
        ssl_key=identity.key,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve()


def _patient(sub: str) -> dict[str, object] | None:
    return {"sub": sub} if is_health_id(sub) else None
