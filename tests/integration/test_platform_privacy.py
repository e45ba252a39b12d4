"""The NIR stays at home (design §1, promise 6): after everything else has run, nothing that the run has left behind
tells who a person is. Last of all tests; it stops the services, so that they hand over all that they have measured.

Looked through: every column of every database, identity's included (sealed or digested there), every log, every span
and metric exported, and Redis.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
import redis.asyncio
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dmp.common.v1 import error_reason_pb2 as reasons
from ops.demo.cda_document import DocumentKind
from ops.local.state import SERVICES
from services.document.cda import read_header
from services.runtime.errors import DmpError
from services.runtime.names import LOG_KEYS, METRICS
from tests.platform_fixture import Platform, lines_of
from tests.platform_people import Needle, birth_date_needles, needles

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES: Final = Path(__file__).resolve().parents[3] / "shared" / "data" / "cda"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
_COLUMNS: Final = """
SELECT format('%I.%I', table_schema, table_name) AS name, string_agg(format('%I', column_name), ', ') AS columns
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'
GROUP BY 1
"""
_SHORTEST: Final = 8
"""Of what is looked for: less is everywhere."""
_DIGITS: Final = b"0123456789"
_LONGEST_TIME: Final = 14
"""Digits of a time in HL7's form. The eight digits of a day stand in random health ids by chance, so they are looked
for where a time may be: in no longer run of digits."""
_NEVER_BY_CHANCE: Final = 12
"""Digits that no random number has by chance: of this length and more they are looked for everywhere."""
_STANDARD_SPAN_KEYS: Final = frozenset({"rpc.system", "rpc.service", "rpc.method", "exception.type"})


class Haystack:
    """Finds needles, in any case and in base64."""

    def __init__(self, wanted: Iterable[Needle]) -> None:
        texts: dict[bytes, str] = {}
        for needle in wanted:
            plain = needle.text.encode()
            texts[plain.lower()] = needle.what
            for shift in range(3):  # what base64 makes of it at each alignment, without its blurred ends
                encoded = base64.b64encode(b"\0" * shift + plain)
                texts[encoded[4 if shift else 0 : len(plain) // 3 * 4 - 4].lower()] = f"{needle.what}, base64"
        self._by_start: defaultdict[bytes, list[tuple[bytes, str]]] = defaultdict(list)
        for text, what in texts.items():
            if len(text) >= _SHORTEST:
                self._by_start[text[:_SHORTEST]].append((text, what))

    def finds(self, content: bytes) -> set[str]:
        """What is found (never the text itself, which a failing test would show)."""
        content = content.lower()
        by_start = self._by_start
        return {
            what
            for at in range(len(content) - _SHORTEST + 1)
            if (start := content[at : at + _SHORTEST]) in by_start
            for text, what in by_start[start]
            if content.startswith(text, at) and not _by_chance(content, at, text)
        }


def _by_chance(content: bytes, at: int, text: bytes) -> bool:
    """Whether a few digits stand in a longer run of digits than they would as what they mean."""
    if not text.isdigit() or len(text) >= _NEVER_BY_CHANCE:
        return False
    end = at + len(text)
    before, after = content[max(0, at - _LONGEST_TIME) : at], content[end : end + _LONGEST_TIME]
    around = len(before) - len(before.rstrip(_DIGITS)) + len(after) - len(after.lstrip(_DIGITS))
    return len(text) + around > _LONGEST_TIME


def everyone(platform: Platform) -> list[Needle]:
    """The people whom tests have made, and those of the published examples."""
    wanted = [needle for person in platform.people for needle in needles(person)]
    for file in EXAMPLES.glob("*.xml"):
        patient = read_header(file.read_bytes()).patient
        for identifier in patient.identifiers:
            if identifier.extension and len(identifier.extension) >= 13:
                wanted += [Needle("NIR", identifier.extension[:13])]
        if isinstance(patient.birth_date, date):
            wanted += birth_date_needles(patient.birth_date)
        family = patient.birth_family or ""
        wanted += [Needle("name", family)] if len(family) >= 8 else []
    return wanted


async def small_tour(platform: Platform) -> None:
    """Every way in which a person is named: so that this test means something when it runs alone."""
    patient, document = await platform.patient_with_document()
    await patient.acts.read(document.name)
    await platform.trail(patient.health_id, "document.read")
    who, identifier = patient.caregiver.statement(), patient.identifier
    assert (await platform.get("/Patient", who, identifier=identifier)).json()["total"] == 1
    found = await platform.get("/DocumentReference", who, **{"patient.identifier": identifier, "_count": "1"})
    await platform.get(found.json()["entry"][0]["resource"]["content"][0]["attachment"]["url"], who)
    stranger = await platform.patient()
    with pytest.raises(DmpError) as mismatch:
        await platform.acts(who).submit(patient.health_id, stranger.cda(DocumentKind.CONSULTATION), "other.xml")
    assert mismatch.value.reason == reasons.ERROR_REASON_PATIENT_MISMATCH
    for path in (f"/Patient/{patient.person.nir}", f"/{patient.person.birth_family}"):
        assert (await platform.get(path, who)).status_code == 404
    for name in ("patient.identifier", "status", "_page", "unknown"):
        await platform.get("/DocumentReference", who, **{name: patient.person.nir})
    unknown = platform.person()
    await platform.get("/Patient", who, identifier=f"urn:oid:{unknown.nir_oid}|{unknown.nir}")
    headers = {"x-request-id": unknown.nir, "authorization": f"Bearer {unknown.nir}"}
    await platform.session.http.get("/DocumentReference", params={"patient": unknown.nir}, headers=headers)


async def cells(connection: asyncpg.Connection[asyncpg.Record]) -> Iterator[tuple[str, bytes]]:
    """Every value of every table, as bytes, with the column's name."""
    values: list[tuple[str, bytes]] = []
    for table in await connection.fetch(_COLUMNS):
        for row in await connection.fetch(f"SELECT {table['columns']} FROM {table['name']}"):  # noqa: S608 (its own names)
            values += [(f"{table['name']}.{column}", as_bytes(value)) for column, value in row.items()]
    return iter(values)


def as_bytes(value: Any) -> bytes:
    if isinstance(value, list):
        return b"\n".join(as_bytes(item) for item in value)
    return value if isinstance(value, bytes) else str(value).encode()


async def test_nothing_that_is_left_behind_tells_who_a_person_is(platform: Platform) -> None:
    await small_tour(platform)
    haystack = Haystack(everyone(platform))
    assert haystack.finds(b"x" + platform.people[0].birth_family.lower().encode()) == {"name"}
    day = f"{platform.people[0].birth_date:%Y%m%d}".encode()
    assert haystack.finds(b"at " + day + b"120000+0100") == {"birth date, HL7"}
    assert haystack.finds(b"dossiers/71" + day + b"00000000000") == set(), "digits that stand there by chance"
    client = redis.asyncio.from_url(platform.stack.redis_url)
    async with client:
        kept = [key async for key in client.scan_iter()]
    assert [haystack.finds(key) for key in kept if haystack.finds(key)] == []
    for service in reversed(SERVICES):
        await platform.stack.stop(service)

    seen = 0
    for service in SERVICES:
        async with platform.database(service) as connection:
            found = [(where, what) for where, value in await cells(connection) if (what := haystack.finds(value))]
            assert found == [], service
            unsealed = {where for where, value in await cells(connection) if value.startswith(ZSTD)}
            assert unsealed == set(), f"{service}: compressed, not sealed"
            seen += len(list(await cells(connection)))
    assert seen > 100

    lines = list(lines_of(platform.state))
    assert {name for name, _ in lines} >= {f"{service}.log" for service in (*SERVICES, "postgres")}
    assert [(name, haystack.finds(line)) for name, line in lines if haystack.finds(line)] == []

    collected = platform.collector
    assert collected.spans
    assert collected.metrics
    for exported in (*collected.spans, *collected.metrics):
        assert haystack.finds(exported) == set()


async def test_spans_and_metrics_have_registered_names_only(platform: Platform) -> None:
    for service in reversed(SERVICES):
        await platform.stack.stop(service)
    keys = set()
    for exported in platform.collector.spans:
        for resource in ExportTraceServiceRequest.FromString(exported).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    keys |= {attribute.key for attribute in span.attributes}
                    keys |= {attribute.key for event in span.events for attribute in event.attributes}
    assert keys <= LOG_KEYS | _STANDARD_SPAN_KEYS
    names = set()
    for exported in platform.collector.metrics:
        for resources in ExportMetricsServiceRequest.FromString(exported).resource_metrics:
            names |= {metric.name for scope in resources.scope_metrics for metric in scope.metrics}
    assert names
    assert names <= set(METRICS)
