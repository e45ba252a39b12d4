"""Readers hammer one dossier while an authorisation comes and goes: who was served when he must not be.

Times are of one clock in one process: a read begins just before its request leaves, and a revocation is acknowledged
once its answer is here, so a read that begins later began after the platform had said so.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from ops.demo.cda_document import DocumentKind, cda_document
from services.runtime.access import MethodAccess
from services.runtime.errors import DmpError
from tests.faults.clients import Clients, Dossier, Way, professional, ways
from tests.faults.fleet import REPLICAS
from tests.faults.load import submission
from tests.platform_fixture import method, until_acknowledged

_GET, _READ, _SEARCH = method("GetDocument"), method("ReadDocument"), method("SearchDocuments")
DIRECTLY: Final = tuple(Way("document", number) for number in range(REPLICAS))
RELAYED: Final = tuple(Way("gateway", number) for number in range(REPLICAS))
_ROUND_SECONDS: Final = 20.0
_REFUSALS: Final = frozenset(
    {
        reasons.ERROR_REASON_AUTHORIZATION_MISSING,
        reasons.ERROR_REASON_RIGHT_DENIED,
        reasons.ERROR_REASON_BLOCKED,
    }
)


@dataclass(slots=True)
class Siege:
    """The readers of one dossier and the rounds of revocation. `leaks` says what must not have been."""

    clients: Clients
    dossier: Dossier
    document: str
    chance: random.Random
    leaks: list[str] = field(default_factory=list)
    served: int = 0
    refused: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    _revoked_at: float = float("inf")
    """When the present revocation was acknowledged; not yet, or no longer: never."""
    through: Way | None = None
    """Where every change of consent goes, if not anywhere; the patient, who has no direct way, then changes nothing."""
    reading: Sequence[Way] = DIRECTLY
    """Where it is read."""
    served_by: Counter[Way] = field(default_factory=Counter)
    _readers: int = 0
    _served_in_round: asyncio.Event = field(default_factory=asyncio.Event)
    _refused_readers: set[int] = field(default_factory=set)
    _all_refused: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def lay(
        cls, clients: Clients, chance: random.Random, through: Way | None = None, reading: Sequence[Way] = DIRECTLY
    ) -> Siege:
        """A new dossier with one document."""
        dossier = await clients.new_dossier()
        known, structure = dossier.author
        content = cda_document(dossier.person, known, structure, DocumentKind.CONSULTATION, 1)
        answer = await clients.ask(
            Way("document", 0),
            method("SubmitDocuments"),
            submission(dossier, content, f"siege-{uuid.uuid4().hex}"),
            document_pb2.SubmitDocumentsResponse,
            professional(dossier.author),
            timeout=10,
        )
        return cls(clients, dossier, answer.documents[0].name, chance, through=through, reading=reading)

    async def run(self, rounds: int, readers: int, seconds: float) -> None:
        """So many rounds of grant and revocation under so many readers, or as many as fit into the time."""
        deadline = time.monotonic() + seconds
        self._readers = readers
        reading = [asyncio.ensure_future(self._read_on(number)) for number in range(readers)]
        try:
            for _ in range(rounds):
                if time.monotonic() > deadline:
                    break
                async with asyncio.timeout(_ROUND_SECONDS):
                    await self._round()
                self.rounds += 1
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _round(self) -> None:
        self._served_in_round.clear()
        self._revoked_at = float("inf")
        colleague = professional(self.dossier.colleague)
        grant = consent_pb2.GrantAuthorizationRequest(parent=self.dossier.name, patient_consented=True)
        await self._change("GrantAuthorization", grant, consent_pb2.GrantAuthorizationResponse, colleague)
        await self._served_in_round.wait()  # or there would be nothing to leak
        await asyncio.sleep(self.chance.uniform(0.0, 0.01))
        by_block = self.through is None and self.chance.random() < 0.3
        if by_block:
            await self._block(consent_pb2.BlockProfessionalRequest, "BlockProfessional")
        else:
            by_patient = self.through is None and self.chance.random() < 0.5
            actor = self.dossier.patient if by_patient else colleague
            revoke = consent_pb2.RevokeAuthorizationRequest(parent=self.dossier.name, grantee=self._grantee)
            await self._change("RevokeAuthorization", revoke, consent_pb2.RevokeAuthorizationResponse, actor)
        self._refused_readers.clear()
        self._all_refused.clear()
        self._revoked_at = time.monotonic()
        await self._all_refused.wait()  # each has asked, and been told, at least once
        if by_block:
            await self._block(consent_pb2.UnblockProfessionalRequest, "UnblockProfessional")

    @property
    def _grantee(self) -> consent_pb2.Grantee:
        return consent_pb2.Grantee(
            kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=self.dossier.colleague.professional.idnps
        )

    async def _block(self, request: Any, name: str) -> None:
        response = method(name).response
        await self._change(
            name, request(parent=self.dossier.name, grantee=self._grantee), response, self.dossier.patient
        )

    async def _change(self, name: str, request: Any, response: Any, actor: ActingContext) -> None:
        """One change of consent; the patient's go through the gateway, as they must."""
        access = method(name)
        request.request_id = f"siege-{uuid.uuid4().hex}"
        relayed = bool(actor.patient_health_id) or self.chance.random() < 0.3
        way = self.through or self.chance.choice(ways(access, relayed=relayed))
        # Replicas that were restarted for the siege are found again by and by.
        await until_acknowledged(lambda: self.clients.ask(way, access, request, response, actor, timeout=10))

    async def _read_on(self, number: int) -> None:
        """Read without a pause, each time in one of three ways, anywhere."""
        colleague = professional(self.dossier.colleague)
        while True:
            way = self.chance.choice(self.reading)
            access, request = self._request()
            begun = time.monotonic()
            try:
                if access.server_streaming:
                    await self.clients.stream(way, access, request, access.response, colleague, timeout=10)
                else:
                    await self.clients.ask(way, access, request, access.response, colleague, timeout=10)
            except DmpError as error:
                self._told_no(number, begun, error)
            else:
                self._told_yes(way, access, begun)

    def _request(self) -> tuple[MethodAccess, Any]:
        kind = self.chance.random()
        if kind < 0.6:
            return _GET, document_pb2.GetDocumentRequest(name=self.document)
        if kind < 0.8:
            return _READ, document_pb2.ReadDocumentRequest(name=self.document)
        return _SEARCH, document_pb2.SearchDocumentsRequest(parent=self.dossier.name, page_size=10)

    def _told_no(self, number: int, begun: float, error: DmpError) -> None:
        self.refused += 1
        self.ends[error.reason_name] += 1
        if begun > self._revoked_at and error.reason in _REFUSALS:
            self._refused_readers.add(number)
            if len(self._refused_readers) == self._readers:
                self._all_refused.set()

    def _told_yes(self, way: Way, access: MethodAccess, begun: float) -> None:
        self.served += 1
        self.served_by[way] += 1
        self._served_in_round.set()
        if begun > self._revoked_at:
            self.leaks.append(
                f"round {self.rounds}: {access.audit_action} served by {way.entry} {way.number}, begun"
                f" {(begun - self._revoked_at) * 1000:.1f} ms after the acknowledgement"
            )
