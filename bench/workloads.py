"""What is called: the reads and the submission that are measured, on the documents of a `Population`.

A workload is made ready between measurements (tokens, contents to submit), so that the generator only sends.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import grpc.aio

from bench.load import Channel, Metadata, Stream, Unary, Workload
from bench.population import CONTENT_BYTES, SEED, Physician, Population, Stored, another, submission
from dmp.document.v1 import document_pb2
from ops.session import Session, Statement

_SERVICE: Final = "/dmp.document.v1.DocumentService"
GET: Final = f"{_SERVICE}/GetDocument"
READ: Final = f"{_SERVICE}/ReadDocument"
SUBMIT: Final = f"{_SERVICE}/SubmitDocuments"
MOST_SUBMISSIONS_A_SECOND: Final = 600
"""Contents made ready for a second of submitting: more than two cores can take."""


class Work(Protocol):
    """A workload that is made ready before each measurement."""

    load: Workload

    async def prepare(self, seconds: float) -> None:
        """Make ready for so many seconds."""
        ...


class Reads:
    """Reads of documents drawn at random; `sent` counts them by the number of their dossier."""

    def __init__(
        self,
        session: Session,
        channels: Sequence[Channel],
        population: Population,
        documents: Sequence[Stored],
        statements: Sequence[Statement],
        *,
        content: bool,
        at_least: int,
        stated: Callable[[Metadata], Metadata] | None = None,
    ) -> None:
        self._session = session
        self._statements = statements
        self._stated = stated
        self._headers: list[Metadata] = []
        self._random = random.Random(SEED)
        self._items = [
            (stored.dossier, population.dossiers[stored.dossier].physician, _named(stored, content=content))
            for stored in documents
        ]
        self.sent: Counter[int] = Counter()
        self.load: Workload = (
            Stream(channels, READ, self._pick, at_least=at_least)
            if content
            else Unary(channels, GET, self._pick, at_least=at_least)
        )

    async def prepare(self, seconds: float) -> None:
        """A token for each physician, valid for longer than any measurement."""
        headers = [await bearer(self._session, statement) for statement in self._statements]
        self._headers = headers if self._stated is None else [self._stated(each) for each in headers]

    def _pick(self) -> tuple[bytes, Metadata]:
        dossier, physician, request = self._items[int(self._random.random() * len(self._items))]
        self.sent[dossier] += 1
        return request, self._headers[physician]


class Submissions:
    """Submissions of one CDA of 100 kB each, no two alike, to the dossiers that have a model of one; `made` makes of
    that model what is submitted."""

    def __init__(
        self,
        session: Session,
        channels: Sequence[Channel],
        population: Population,
        made: Callable[[bytes], bytes] = lambda model: model,
    ) -> None:
        self._session = session
        self._physicians = population.physicians
        self._models = [
            (population.dossiers[stored.dossier].health_id, population.dossiers[stored.dossier].physician, made(model))
            for stored, model in zip(population.large, population.models, strict=True)
        ]
        self._turn = 0
        self._ready: deque[tuple[int, bytes]] = deque()
        self._headers: list[Metadata] = []
        self.load: Workload = Unary(channels, SUBMIT, self._pick, at_least=1)

    def again(self, channels: Sequence[Channel], count: int) -> Workload:
        """A few requests over and over, for a server that does not mind."""
        requests = itertools.cycle([self._make()[1] for _ in range(count)])
        return Unary(channels, SUBMIT, lambda: (next(requests), ()), at_least=1)

    async def prepare(self, seconds: float) -> None:
        """Tokens, and contents for so many seconds."""
        self._headers = [await bearer(self._session, physician.direct) for physician in self._physicians]
        while len(self._ready) < seconds * MOST_SUBMISSIONS_A_SECOND:
            self._ready.append(self._make())

    def _make(self) -> tuple[int, bytes]:
        health_id, physician, model = self._models[self._turn % len(self._models)]
        self._turn += 1
        return physician, submission(health_id, [another(model)]).SerializeToString()

    def _pick(self) -> tuple[bytes, Metadata]:
        physician, request = self._ready.popleft() if self._ready else self._make()
        return request, self._headers[physician]


def read_metadata(
    session: Session,
    channels: Sequence[Channel],
    population: Population,
    stated: Callable[[Metadata], Metadata] | None = None,
) -> Reads:
    """GetDocument, called directly as an internal system; `stated` adds to the headers what a terminator would."""
    statements = [physician.direct for physician in population.physicians]
    small = population.small
    return Reads(session, channels, population, small, statements, content=False, at_least=200, stated=stated)


def read_content(session: Session, channels: Sequence[Channel], population: Population) -> Reads:
    """ReadDocument of 100 kB, called directly."""
    statements = [physician.direct for physician in population.physicians]
    return Reads(session, channels, population, population.large, statements, content=True, at_least=CONTENT_BYTES)


def gateway_read_metadata(session: Session, channels: Sequence[Channel], population: Population) -> Reads:
    """GetDocument through the relay, called as a partner's software."""
    statements = [physician.partner for physician in population.physicians]
    return Reads(session, channels, population, population.small, statements, content=False, at_least=200)


async def exchanged_bytes(
    session: Session, channel: grpc.aio.Channel, stored: Stored, physician: Physician
) -> tuple[int, int]:
    """The sizes of a GetDocument's request and answer, from one such call."""
    request = _named(stored, content=False)
    headers = await bearer(session, physician.direct)
    get: Any = channel.unary_unary(GET)
    answer: bytes = await get(request, metadata=headers, timeout=30)
    return len(request), len(answer)


async def bearer(session: Session, statement: Statement) -> Metadata:
    """The metadata of a call with a token for `statement`."""
    return (("authorization", f"Bearer {await session.token(statement)}"),)


def _named(stored: Stored, *, content: bool) -> bytes:
    request = (
        document_pb2.ReadDocumentRequest(name=stored.name)
        if content
        else document_pb2.GetDocumentRequest(name=stored.name)
    )
    return request.SerializeToString()
