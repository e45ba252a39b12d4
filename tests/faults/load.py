"""Mixed load: each client keeps one dossier busy, retries what it may retry, and knows what it must be told.

A client acts on its dossier alone and one act after the other, so it knows at each moment whether the colleague is
authorised: what the colleague then gets is either right or a violation, which goes into the history at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from dmp.common.v1 import coding_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from ops.acts import DEMO_SOURCE
from ops.demo.cda_document import DocumentKind, cda_document
from services.runtime.access import MethodAccess
from services.runtime.errors import DmpError
from tests.faults.clients import ANY, Clients, Dossier, Way, professional, ways
from tests.faults.history import Act, Asked, End, History
from tests.platform_fixture import method

UNDECIDED: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""After these a client may try again."""
_FORMAT: Final = coding_pb2.Coding(system="1.3.6.1.4.1.19376.1.2.3", code="urn:ihe:iti:xds:2017:mimeTypeSufficient")
_SUBMIT, _GET, _READ = method("SubmitDocuments"), method("GetDocument"), method("ReadDocument")
_GRANT, _REVOKE = method("GrantAuthorization"), method("RevokeAuthorization")
_KINDS: Final = tuple(DocumentKind)


@dataclass(frozen=True, slots=True)
class Manner:
    """How clients behave when they are not answered. `tries`: how often they ask at most, after which the failure is
    a violation, and then only UNAVAILABLE is worth another try (0: they insist). `patience`: how many seconds a try may
    take. `round_robin`: through one channel to all replicas; else they pick one."""

    tries: int = 0
    patience: float = 3.0
    round_robin: bool = False


INSISTENT: Final = Manner()
ONE_RETRY: Final = Manner(tries=2, patience=10.0, round_robin=True)
_PAUSE: Final = (0.05, 0.15)
"""Seconds between two tries."""


class Busy:
    """One client and its dossier."""

    def __init__(
        self,
        clients: Clients,
        history: History,
        dossier: Dossier,
        chance: random.Random,
        manner: Manner = INSISTENT,
    ) -> None:
        self.dossier = dossier
        self._manner = manner
        self._clients = clients
        self._history = history
        self._chance = chance
        self._author, self._colleague = professional(dossier.author), professional(dossier.colleague)
        self._authorised = False
        self._documents: list[tuple[str, bytes]] = []
        self._seeds = itertools.count(1)

    async def run(self, stop: asyncio.Event) -> None:
        """Act until `stop`, and then until the last change is acknowledged."""
        await self._submit(give_up=False)
        while self._documents and not stop.is_set():
            act = self._chance.random()
            if act < 0.25:
                await self._submit(give_up=self._chance.random() < 0.2)
            elif act < 0.5:
                await self._change()
            elif act < 0.75:
                await self._look(self._author, permitted=True)
            else:
                await self._look(self._colleague, permitted=self._authorised)

    async def _submit(self, *, give_up: bool) -> None:
        """Feed a document; `give_up` at the first failure, so that some outcomes stay unknown."""
        content = self._content()
        asked = self._history.ask(Act.SUBMIT, self.dossier.health_id)
        request = submission(self.dossier, content, asked.request_id)
        answer = await self._mutate(
            asked, _SUBMIT, request, document_pb2.SubmitDocumentsResponse, self._author, give_up=give_up
        )
        if answer is not None:
            self._documents.append((answer.documents[0].name, content))

    async def _change(self) -> None:
        """Authorise the colleague, or take the authorisation away; insists until it is acknowledged."""
        act = Act.REVOKE if self._authorised else Act.GRANT
        asked = self._history.ask(act, self.dossier.health_id)
        request, access, response = self._change_of(act, asked.request_id)
        if await self._mutate(asked, access, request, response, self._colleague, give_up=False) is not None:
            self._authorised = not self._authorised

    def _change_of(self, act: Act, request_id: str) -> tuple[Any, MethodAccess, Any]:
        if act is Act.GRANT:
            grant = consent_pb2.GrantAuthorizationRequest(
                parent=self.dossier.name, patient_consented=True, request_id=request_id
            )
            return grant, _GRANT, consent_pb2.GrantAuthorizationResponse
        revoke = consent_pb2.RevokeAuthorizationRequest(parent=self.dossier.name, request_id=request_id)
        return revoke, _REVOKE, consent_pb2.RevokeAuthorizationResponse

    async def _mutate(
        self, asked: Asked, access: MethodAccess, request: Any, response: Any, actor: ActingContext, *, give_up: bool
    ) -> Any:
        """The answer, after as many tries as it takes; None when given up. Now and then asks twice at once, or again
        after the acknowledgement: the answers must be one."""
        client = self._ways(access)  # a retry comes from the same client
        while not asked.acknowledged:
            hedged = 2 if len(client) > 1 and self._chance.random() < 0.1 else 1
            picked = self._chance.sample(client, hedged)
            await asyncio.gather(*(self._try(asked, way, access, request, response, actor) for way in picked))
            if not asked.acknowledged:
                if give_up or asked.end is End.REFUSED or self._has_failed(asked):
                    return None
                await asyncio.sleep(self._chance.uniform(*_PAUSE))
        if self._chance.random() < 0.2:
            await self._try(asked, self._chance.choice(client), access, request, response, actor)
        return asked.answer

    async def _try(
        self, asked: Asked, way: Way, access: MethodAccess, request: Any, response: Any, actor: ActingContext
    ) -> None:
        asked.sent += 1
        try:
            answer = await self._clients.ask(way, access, request, response, actor, timeout=self._manner.patience)
        except DmpError as error:
            if not self._worth_another_try(error):
                self._history.refused(asked)
                self._history.violation(asked, f"refused with {error.reason_name}")
        else:
            self._history.served(asked, answer)

    def _worth_another_try(self, error: DmpError) -> bool:
        return error.code is grpc.StatusCode.UNAVAILABLE or (not self._manner.tries and error.code in UNDECIDED)

    def _has_failed(self, asked: Asked) -> bool:
        failed = 0 < self._manner.tries <= asked.sent
        if failed:
            self._history.violation(asked, f"failed {asked.sent} times")
        return failed

    def _ways(self, access: MethodAccess) -> Sequence[Way]:
        relayed = self._chance.random() < 0.5
        found = ways(access, relayed=relayed)
        return [Way(found[0].entry, ANY)] if self._manner.round_robin else found

    async def _look(self, actor: ActingContext, *, permitted: bool) -> None:
        """Read a document, metadata or content, until there is an answer (at most a few times)."""
        name, content = self._chance.choice(self._documents)
        whole = self._chance.random() < 0.3
        tries = self._manner.tries or 8
        for number in range(1, tries + 1):
            asked = self._history.ask(Act.READ if whole else Act.GET, self.dossier.health_id)
            asked.sent = number
            try:
                given = await (self._read if whole else self._get)(asked, name, actor)
            except DmpError as error:
                if self._worth_another_try(error):
                    self._has_failed(asked)
                    await asyncio.sleep(self._chance.uniform(*_PAUSE))
                    continue
                self._told_no(asked, error, permitted=permitted)
                return
            self._history.served(asked, None)
            if not permitted:
                self._history.violation(asked, "served after the revocation had been acknowledged")
            if whole and given != content:
                self._history.violation(asked, "the content is not what was submitted")
            return

    def _told_no(self, asked: Asked, error: DmpError, *, permitted: bool) -> None:
        self._history.refused(asked)
        if permitted:
            self._history.violation(asked, f"refused with {error.reason_name} while authorised")
        elif error.reason not in (reasons.ERROR_REASON_AUTHORIZATION_MISSING, reasons.ERROR_REASON_RIGHT_DENIED):
            self._history.violation(asked, f"refused with {error.reason_name}")

    async def _get(self, asked: Asked, name: str, actor: ActingContext) -> bytes:
        way = self._chance.choice(self._ways(_GET))
        request = document_pb2.GetDocumentRequest(name=name)
        await self._clients.ask(
            way,
            _GET,
            request,
            document_pb2.GetDocumentResponse,
            actor,
            request_id=asked.request_id,
            timeout=self._manner.patience,
        )
        return b""

    async def _read(self, asked: Asked, name: str, actor: ActingContext) -> bytes:
        way = self._chance.choice(self._ways(_READ))
        request = document_pb2.ReadDocumentRequest(name=name)
        parts = await self._clients.stream(
            way,
            _READ,
            request,
            document_pb2.ReadDocumentResponse,
            actor,
            request_id=asked.request_id,
            timeout=self._manner.patience,
        )
        return b"".join(part.chunk for part in parts)

    def _content(self) -> bytes:
        known, structure = self.dossier.author
        kind = self._chance.choice(_KINDS)
        return cda_document(self.dossier.person, known, structure, kind, next(self._seeds))


def submission(dossier: Dossier, content: bytes, request_id: str) -> document_pb2.SubmitDocumentsRequest:
    """A submission of one CDA."""
    document = document_pb2.Document(
        mime_type="text/xml",
        hash=hashlib.sha1(content, usedforsecurity=False).digest(),
        size=len(content),
        format_code=_FORMAT,
    )
    return document_pb2.SubmitDocumentsRequest(
        parent=dossier.name,
        submission_set=document_pb2.SubmissionSet(unique_id=f"2.25.{uuid.uuid4().int}", source_id=DEMO_SOURCE),
        documents=[document_pb2.SubmittedDocument(document=document, content=content)],
        request_id=request_id,
    )
