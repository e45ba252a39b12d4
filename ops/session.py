"""A client of the platform: tokens from the gateway, calls through it or, for internal systems, directly.

Used by the `dmp` command, the tests and the benchmarks. It knows no store and no rule; every act is an RPC.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import httpx
from google.protobuf.message import Message
from joserfc import jwt
from joserfc.jwk import ECKey

from ops.endpoints import Endpoints
from ops.local.keys import ensure_client_key
from ops.local.pki import CertificateAuthority, Identity
from ops.local.registrations import INTERNAL, OPERATOR, PARTNER, PORTAL
from ops.local.state import LOOPBACK, State
from services.runtime.errors import DmpError, from_rpc_error
from services.runtime.identifiers import format_health_id

Response = TypeVar("Response", bound=Message)
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_MESSAGE_BYTES = 64 << 20
_RENEW_BEFORE = 30.0


class TokenRefused(Exception):
    """The gateway gave no token; the message is its own."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Who acts: the fields of `extensions.dmp` in a client assertion that are not at their defaults."""

    client_id: str
    fields: tuple[tuple[str, Any], ...]

    @classmethod
    def professional(cls, subject: str, profession: str = "10", *, client_id: str = PARTNER, **more: Any) -> Statement:
        """A professional known by an IDNPS."""
        return cls.of(client_id, actor="professional", subject=subject, profession=profession, **more)

    @classmethod
    def patient(cls, health_id: int) -> Statement:
        """The patient of a dossier, at the portal."""
        return cls.of(PORTAL, actor="patient", subject=format_health_id(health_id), patient_health_id=health_id)

    @classmethod
    def of(cls, client_id: str, **fields: Any) -> Statement:
        """Any statement."""
        return cls(client_id, tuple(sorted(fields.items())))


@dataclass
class Session:
    """Channels and tokens; use as an async context manager."""

    state: State
    endpoints: Endpoints
    _tokens: dict[tuple[Statement, str], tuple[str, float]] = field(default_factory=dict)
    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    _http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        authority = CertificateAuthority(self.state)
        import ssl

        trust = ssl.create_default_context(cafile=str(authority.certificate_path))
        self._http = httpx.AsyncClient(base_url=self.endpoints.http, verify=trust, timeout=30)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            await channel.close()
        if self._http is not None:
            await self._http.aclose()

    @property
    def http(self) -> httpx.AsyncClient:
        """The HTTPS client, base URL set."""
        if self._http is None:
            raise RuntimeError("the session is not entered")
        return self._http

    async def token(self, statement: Statement, scope: str = "") -> str:
        """A platform token for `statement`, kept until shortly before it expires. TokenRefused if there is none."""
        known = self._tokens.get((statement, scope))
        if known is not None and known[1] > time.monotonic():
            return known[0]
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion(statement),
            "scope": scope,
        }
        response = await self.http.post("/token", data=form)
        body = response.json()
        if response.status_code != 200:
            raise TokenRefused(f"{body.get('error')}: {body.get('error_description')}")
        self._tokens[statement, scope] = (body["access_token"], time.monotonic() + body["expires_in"] - _RENEW_BEFORE)
        token: str = body["access_token"]
        return token

    def assertion(self, statement: Statement) -> str:
        """A signed client assertion (RFC 7523) that carries the statement."""
        key = ensure_client_key(self.state, statement.client_id)
        now = int(time.time())
        claims = {
            "iss": statement.client_id,
            "sub": statement.client_id,
            "aud": f"{self.endpoints.http}/token",
            "iat": now,
            "exp": now + 120,
            "jti": str(uuid.uuid4()),
            "extensions": {"dmp": dict(statement.fields)},
        }
        private = ECKey.import_key(json.loads(key.private_key.read_bytes()))
        return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, private)

    def channel(self, name: str, client_id: str = INTERNAL) -> grpc.aio.Channel:
        """A channel to the relay (`name` "relay") or, with the client's own certificate, directly to a service."""
        label = name if name == "relay" else f"{name} as {client_id}"
        if label not in self._channels:
            self._channels[label] = self._open(name, client_id)
        return self._channels[label]

    def _open(self, name: str, client_id: str) -> grpc.aio.Channel:
        authority = CertificateAuthority(self.state)
        if name == "relay":
            credentials = grpc.ssl_channel_credentials(authority.certificate_path.read_bytes())
        else:
            identity = authority.operator(client_id) if client_id == OPERATOR else authority.internal(client_id)
            credentials = client_credentials(identity)
        target: str = getattr(self.endpoints, name)
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        if target.startswith("ipv4:"):  # several replicas, all on this machine
            options.append(("grpc.ssl_target_name_override", LOOPBACK))
        return grpc.aio.secure_channel(target, credentials, options)

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[Response],
        statement: Statement,
        *,
        timeout: float = 20.0,
        request_id: str | None = None,
    ) -> Response:
        """One unary call, e.g. `call("consent", "OpenDossier", …)`. DmpError as the platform refused it.

        A method of a service that is not named for its package is given with it: `"ClinicalService/GetPathway"`.

        A partner's or a patient's call goes through the relay, an internal system's directly.
        """
        named = method if "/" in method else f"{service.capitalize()}Service/{method}"
        invoke: Any = self._channel_of(service, statement).unary_unary(f"/dmp.{service}.v1.{named}")
        try:
            data = await invoke(
                request.SerializeToString(), metadata=await self._metadata(statement, request_id), timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None
        return response.FromString(data)

    async def stream(
        self, service: str, method: str, request: Message, response: type[Response], statement: Statement
    ) -> AsyncIterator[Response]:
        """One server-streaming call."""
        path = f"/dmp.{service}.v1.{service.capitalize()}Service/{method}"
        invoke: Any = self._channel_of(service, statement).unary_stream(path)
        try:
            async for data in invoke(
                request.SerializeToString(), metadata=await self._metadata(statement, None), timeout=60
            ):
                yield response.FromString(data)
        except grpc.aio.AioRpcError as error:
            raise refusal(error) from None

    def _channel_of(self, service: str, statement: Statement) -> grpc.aio.Channel:
        if statement.client_id in (PARTNER, PORTAL):
            return self.channel("relay")
        return self.channel(service, statement.client_id)

    async def _metadata(self, statement: Statement, request_id: str | None) -> tuple[tuple[str, str], ...]:
        bearer = ("authorization", f"Bearer {await self.token(statement)}")
        return (bearer,) if request_id is None else (bearer, ("x-request-id", request_id))


def client_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """Mutual TLS with a client's own certificate."""
    return grpc.ssl_channel_credentials(
        identity.authority.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )


def refusal(error: grpc.aio.AioRpcError) -> DmpError:
    """The platform's own error behind a failed call."""
    return from_rpc_error(error)
