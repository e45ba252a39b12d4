"""`python -m bench.gateway`: FHIR read, search (20 of 700) and ITI-65 feed per second, beside the same through gRPC
and beside a bare Granian and Starlette reply of the same run; then latencies at half of each rate; then how far apart
refused and absent answers lie.

Exit status 1 when a ratio is below what is asked for, or the medians of refused and absent differ by more than 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import ssl
import statistics
import sys
import time
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import grpc
import orjson
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import load, page
from bench.figures import Measurement, percentile
from bench.ground import free_address, fresh_state
from bench.http import Http, request
from bench.load import Workload
from bench.machine import load_before
from bench.population import SEED, SOURCE, Extent, Population, another, populate, submission
from bench.workloads import GET, SUBMIT
from dmp.document.v1 import document_pb2
from gateway.external_ids import ExternalIds
from ops.acts import Acts
from ops.demo.cda_document import DocumentKind, cda_document
from ops.endpoints import publish
from ops.local.readiness import accepts_tcp
from ops.local.stack import ROOT, Stack
from ops.local.supervisor import ProcessSpec, Supervisor
from ops.migrations import migrate
from ops.session import Session, Statement
from services.runtime.identifiers import dossier_name, uuid7
from services.runtime.keyring import Keyring

SEARCH: Final = "/dmp.document.v1.DocumentService/SearchDocuments"
Kind = Literal["read", "search", "feed"]
LEAST: Final[dict[tuple[Kind, str], float]] = {("read", "gRPC"): 0.5, ("search", "gRPC"): 0.3, ("feed", "gRPC"): 0.4}
"""The FHIR rate as a part of the same through gRPC, below which a run fails."""
_IN_FLIGHT: Final = 32
_APART: Final = 0.10
_CODES: Final = "https://mos.esante.gouv.fr/NOS"


@dataclass(frozen=True, slots=True)
class Line:
    """One workload by one way."""

    kind: str
    way: str
    peak: float
    half: tuple[float, float, float]
    """p50, p95 and p99 at half the peak, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is called: a big dossier, its documents by FHIR id and by name, a stranger's, and who reads."""

    reader: Statement
    token: str
    identifier: str
    ids: Sequence[str]
    names: Sequence[str]
    health_id: int
    refused: str
    absent: str
    model: bytes


async def _scene(session: Session, population: Population, documents: int) -> Scene:
    """A dossier with so many documents, and two documents of a dossier whose patient did not authorise the reader:
    one that is there and one that is not."""
    dossier = population.dossiers[0]
    physician = population.physicians[dossier.physician]
    stranger = next(each for each in population.dossiers if each.physician != dossier.physician)
    patient, author, place, model = dossier.patient, physician.person, physician.structure, b""
    for start in range(0, documents, 32):
        contents = [
            cda_document(patient, author, place, DocumentKind.CONSULTATION, SEED + start + index) for index in range(32)
        ]
        model = contents[0]
        await session.call(
            "document",
            "SubmitDocuments",
            submission(dossier.health_id, [another(each) for each in contents]),
            document_pb2.SubmitDocumentsResponse,
            physician.direct,
        )
    token = await session.token(physician.partner)
    identifier = f"urn:oid:{patient.nir_oid}|{patient.nir}"
    found = await _search(session, token, identifier)
    other = population.physicians[stranger.physician]
    hidden = await _search(
        session, await session.token(other.partner), f"urn:oid:{stranger.patient.nir_oid}|{stranger.patient.nir}"
    )
    ids = [entry["resource"]["id"] for entry in found["entry"]]
    names = [document.name for document in (await Acts(session, physician.direct).search(dossier.health_id)).documents]
    refused = hidden["entry"][0]["resource"]["id"]
    absent = ExternalIds(Keyring.from_directory(session.state.keyring("gateway"))).write(
        "DocumentReference", stranger.health_id, uuid7()
    )
    return Scene(physician.partner, token, identifier, ids, names, dossier.health_id, refused, absent, model)


async def _search(session: Session, token: str, identifier: str) -> Any:
    response = await session.http.get(
        "/DocumentReference",
        params={"patient.identifier": identifier, "_count": "200"},
        headers={"authorization": f"Bearer {token}"},
    )
    response.raise_for_status()
    return response.json()


def _bundle(scene: Scene) -> bytes:
    """An ITI-65 of one new document."""
    content = another(scene.model)
    digest = b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
    subject = {"identifier": dict(zip(("system", "value"), scene.identifier.split("|"), strict=True))}
    urls = [f"urn:uuid:{uuid.uuid4()}" for _ in range(3)]
    mhd = "https://profiles.ihe.net/ITI/MHD"
    activity = {"coding": [{"system": "urn:oid:1.2.250.1.213.2.2", "code": "04"}]}
    source = {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{SOURCE}"}
    set_: dict[str, Any] = {
        "resourceType": "List",
        "extension": [
            {"url": f"{mhd}/StructureDefinition/ihe-designationType", "valueCodeableConcept": activity},
            {"url": f"{mhd}/StructureDefinition/ihe-sourceId", "valueIdentifier": source},
        ],
        "status": "current",
        "mode": "working",
        "code": {"coding": [{"system": f"{mhd}/CodeSystem/MHDlistTypes", "code": "submissionset"}]},
        "subject": subject,
        "date": "2026-11-25T10:00:00Z",
        "entry": [{"item": {"reference": urls[1]}}],
    }
    attachment = {"contentType": "text/xml", "language": "fr-FR", "url": urls[2], "size": len(content), "hash": digest}
    reference = _reference(subject, attachment, content)
    binary = {"resourceType": "Binary", "contentType": "text/xml", "data": b64encode(content).decode()}
    resources: tuple[dict[str, Any], ...] = (set_, reference, binary)
    entries = [
        {"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}
        for url, resource in zip(urls, resources, strict=True)
    ]
    profile = f"{mhd}/StructureDefinition/IHE.MHD.Comprehensive.ProvideBundle"
    bundle = {"resourceType": "Bundle", "meta": {"profile": [profile]}, "type": "transaction", "entry": entries}
    return orjson.dumps(bundle)


def _reference(subject: Any, attachment: Any, content: bytes) -> dict[str, Any]:
    unique_id = content.partition(b'<id root="')[2].partition(b'"')[0].decode()
    return {
        "resourceType": "DocumentReference",
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{unique_id}"},
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11488-4"}]},
        "subject": subject,
        "author": [{"display": "Bench"}],
        "securityLabel": [{"coding": [{"system": "urn:oid:2.16.840.1.113883.5.25", "code": "N"}]}],
        "content": [
            {
                "attachment": attachment,
                "format": {
                    "system": "http://ihe.net/fhir/ihe.formatcode.fhir/CodeSystem/formatcode",
                    "code": "urn:ihe:iti:xds:2017:mimeTypeSufficient",
                },
            }
        ],
        "context": {
            "facilityType": {"coding": [{"system": "urn:oid:1.2.250.1.71.4.2.4", "code": "SA07"}]},
            "practiceSetting": {"coding": [{"system": "urn:oid:1.2.250.1.213.1.1.4.9", "code": "AMBULATOIRE"}]},
        },
    }


def _turns(items: Sequence[bytes]) -> Callable[[], bytes]:
    turn = 0

    def pick() -> bytes:
        nonlocal turn
        turn += 1
        return items[turn % len(items)]

    return pick


@contextlib.asynccontextmanager
async def _bare(stack: Stack) -> AsyncIterator[str]:
    address, identity = free_address(), stack.authority.service("gateway")
    supervisor = Supervisor(stack.state)
    argv = (sys.executable, "-m", "bench.bare", address, str(identity.certificate), str(identity.key))
    spec = ProcessSpec(
        name="bare", argv=argv, environ=stack.env("gateway"), cwd=ROOT, ready=partial(accepts_tcp, address)
    )
    try:
        await supervisor.start(spec)
        yield f"https://{address}"
    finally:
        await supervisor.stop_all()


async def _paced(work: Workload, rate: float, seconds: float) -> tuple[float, float, float]:
    """p50, p95, p99 in milliseconds of calls started at a fixed pace, whatever the answers take."""
    latencies: list[float] = []

    async def one() -> None:
        began = time.perf_counter()
        await work.send(0)
        latencies.append(time.perf_counter() - began)

    begun, count = time.perf_counter(), max(20, int(rate * seconds))
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            group.create_task(one())
    ordered = sorted(latencies)
    p50, p95, p99 = (round(percentile(ordered, part) * 1000, 2) for part in (0.50, 0.95, 0.99))
    return p50, p95, p99


async def _line(kind: str, way: str, work: Workload, seconds: float) -> Line:
    peak: Measurement = await load.measure(work, _IN_FLIGHT, warm_up=seconds / 4, seconds=seconds)
    return Line(kind, way, peak.rate, await _paced(work, max(1.0, peak.rate / 2), seconds))


async def _measure(stack: Stack, session: Session, scene: Scene, seconds: float) -> list[Line]:
    trust = ssl.create_default_context(cafile=str(stack.state.pki / "ca.pem"))
    base, token = session.endpoints.http, scene.token
    metadata = (("authorization", f"Bearer {token}"),)
    trusted = grpc.ssl_channel_credentials((stack.state.pki / "ca.pem").read_bytes())
    channels = load.connect(session.endpoints.relay, trusted)
    search = document_pb2.SearchDocumentsRequest(parent=dossier_name(scene.health_id), page_size=20)
    grpc_search = search.SerializeToString()
    gets = [document_pb2.GetDocumentRequest(name=name).SerializeToString() for name in scene.names]
    get = _turns(gets)
    query = f"/DocumentReference?patient.identifier={scene.identifier.replace('|', '%7C')}&_count=20"
    reads = [request("GET", f"/DocumentReference/{id_}", token) for id_ in scene.ids]
    lines = []
    async with _bare(stack) as bare:
        plans: list[tuple[str, str, Workload]] = [
            ("reply", "bare", Http(bare, trust, _turns([request("GET", "/x", token)]))),
            ("read", "FHIR", Http(base, trust, _turns(reads))),
            ("read", "gRPC", load.Unary(channels, GET, lambda: (get(), metadata), at_least=200)),
            ("search", "FHIR", Http(base, trust, _turns([request("GET", query, token)]))),
            ("search", "gRPC", load.Unary(channels, SEARCH, lambda: (grpc_search, metadata), at_least=2_000)),
            ("feed", "FHIR", Http(base, trust, lambda: request("POST", "/", token, _bundle(scene)))),
            ("feed", "gRPC", load.Unary(channels, SUBMIT, lambda: (_submit(scene), metadata), at_least=1)),
        ]
        for kind, way, work in plans:
            lines.append(await _line(kind, way, work, seconds))
            if isinstance(work, Http):
                await work.close()
    for channel in channels:
        await channel.close()
    return lines


def _submit(scene: Scene) -> bytes:
    return submission(scene.health_id, [another(scene.model)]).SerializeToString()


async def _apart(session: Session, scene: Scene, pairs: int) -> tuple[float, float]:
    """The median times in milliseconds of a refused read and of an absent one, asked for in turn."""
    taken: dict[str, list[float]] = {scene.refused: [], scene.absent: []}
    headers = {"authorization": f"Bearer {await session.token(scene.reader)}"}
    for number in range(pairs):
        order = (scene.refused, scene.absent) if number % 2 else (scene.absent, scene.refused)
        for id_ in order:
            began = time.perf_counter()
            await session.http.get(f"/DocumentReference/{id_}", headers=headers)
            taken[id_].append(time.perf_counter() - began)
    refused, absent = (statistics.median(taken[id_]) * 1000 for id_ in (scene.refused, scene.absent))
    return refused, absent


async def run(*, quick: bool) -> tuple[list[Line], tuple[float, float]]:
    """One run on a platform of its own."""
    extent = Extent(dossiers=16, large=0, documents_each=2) if quick else Extent(dossiers=64, large=0)
    async with (
        fresh_state() as state,
        Stack(state, migrate=migrate) as stack,
        Session(state, publish(stack)) as session,
    ):
        population = await populate(session, extent)
        scene = await _scene(session, population, 64 if quick else 700)
        lines = await _measure(stack, session, scene, 3.0 if quick else 8.0)
        return lines, await _apart(session, scene, 50 if quick else 2_000)


def main() -> int:
    """Run, print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway")
    parser.add_argument("--quick", action="store_true", help="a short look on a small population")
    quick = parser.parse_args().quick
    out, busy = Console(highlight=False), load_before()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines, (refused, absent) = runner.run(run(quick=quick))
    rates = {(line.kind, line.way): line.peak for line in lines}
    shown = Table("", "by", "per second", "of gRPC", "of bare", "p50 ms", "p95 ms", "p99 ms", box=SIMPLE_HEAD)
    for line in lines:
        of_grpc = f"{line.peak / rates[line.kind, 'gRPC']:.2f}" if (line.kind, "gRPC") in rates else ""
        of_bare = f"{line.peak / rates['reply', 'bare']:.3f}"
        shown.add_row(
            line.kind, line.way, f"{line.peak:,.0f}", of_grpc, of_bare, *(f"{each:.1f}" for each in line.half)
        )
    out.print(shown)
    apart = abs(refused - absent) / max(refused, absent)
    note = f"medians of a refused read {refused:.2f} ms, of an absent one {absent:.2f} ms: {apart:.1%} apart"
    out.print(note)
    if not quick:
        page.publish("gateway", "FHIR at the gateway", shown, note, "latencies: at half of each rate", busy=busy)
    low = [(kind, way) for (kind, way), least in LEAST.items() if rates[kind, "FHIR"] < least * rates[kind, way]]
    for kind, way in low:
        out.print(f"{kind}: FHIR is below {LEAST[kind, way]} of {way}", style="red")
    return 1 if low or apart > _APART else 0


if __name__ == "__main__":
    raise SystemExit(main())
