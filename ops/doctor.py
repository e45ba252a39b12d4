"""`dmp doctor`: what a person on call wants to know first, each as a line that says what to do when it is wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

import grpc.aio
import httpx
from cryptography import x509
from grpc_health.v1 import health_pb2
from rich.console import Console

from ops.demo_platform import demo_professional
from ops.endpoints import published
from ops.local.pki import CertificateAuthority
from ops.local.registrations import OPERATOR
from ops.local.state import SERVICES, State
from ops.session import Session, TokenRefused

_LEAST_DISK = 2 << 30
_LEAST_DAYS = 14


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    subject: str
    good: bool
    text: str


async def examine(state: State, out: Console) -> int:
    """Print each finding; the exit code is 0 when all are good."""
    endpoints = published(state)
    async with Session(state, endpoints) as session:
        looks: list[Callable[[], Awaitable[Finding]]] = [
            *(partial(_health, session, name) for name in SERVICES),
            lambda: _http(session),
            lambda: _token(session),
            lambda: _clock(session),
            lambda: _certificates(state),
            lambda: _disk(state),
        ]
        findings = [await look() for look in looks]
    for finding in findings:
        mark = "[green]good[/]" if finding.good else "[red]BAD [/]"
        out.print(f"{mark}  {finding.subject}: {finding.text}", highlight=False)
    return 0 if all(finding.good for finding in findings) else 1


async def _health(session: Session, name: str) -> Finding:
    channel = session.channel("relay" if name == "gateway" else name, OPERATOR)
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    started = time.perf_counter()
    try:
        answer = await check(health_pb2.HealthCheckRequest(), timeout=3)
    except grpc.aio.AioRpcError as error:
        return Finding(name, False, f"does not answer ({error.code().name}); see its log in the state directory")
    good = answer.status == health_pb2.HealthCheckResponse.SERVING
    elapsed = (time.perf_counter() - started) * 1000
    return Finding(name, good, f"serving, answered in {elapsed:.0f} ms" if good else "answers, but does not serve")


async def _http(session: Session) -> Finding:
    try:
        answer = await session.http.get("/metadata")
    except httpx.HTTPError as error:
        return Finding("FHIR", False, f"does not answer ({type(error).__name__})")
    return Finding("FHIR", answer.status_code == 200, f"/metadata answered {answer.status_code}")


async def _token(session: Session) -> Finding:
    try:
        await session.token(demo_professional())
    except (TokenRefused, httpx.HTTPError) as error:
        return Finding("tokens", False, f"none was issued ({type(error).__name__})")
    return Finding("tokens", True, "issued")


async def _clock(session: Session) -> Finding:
    answer = await session.http.get("/metadata")
    told = answer.headers.get("date")
    if told is None:
        return Finding("clock", True, "the gateway tells no time")
    then = parsedate_to_datetime(told)
    skew = abs((then - datetime.now(UTC)).total_seconds())
    return Finding("clock", skew < 5, f"{skew:.0f} s apart from the gateway's (tokens allow 5)")


async def _certificates(state: State) -> Finding:
    authority = CertificateAuthority(state)
    days = min(
        (
            x509.load_pem_x509_certificate(authority.service(name).certificate.read_bytes()).not_valid_after_utc
            - datetime.now(UTC)
        ).days
        for name in SERVICES
    )
    return Finding("certificates", days >= _LEAST_DAYS, f"the first expires in {days} days")


async def _disk(state: State) -> Finding:
    free = shutil.disk_usage(state.root).free
    return Finding("disk", free >= _LEAST_DISK, f"{free >> 30} GiB free for the state")
