"""The RPCs about people: who calls, which use case, what is answered. Thin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmp.consent.v1 import consent_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.changes import NOBODY, Changes, told
from services.identity.duplicates import Duplicates
from services.identity.finding import Finding
from services.identity.history import History
from services.identity.insi import InsRetrieval
from services.identity.links import Links
from services.identity.nir import NATIONAL_OIDS
from services.identity.people import PersonChanges
from services.identity.recording import Recorded
from services.identity.registration_batch import require_token_allows
from services.identity.rights import Rights
from services.identity.store import people as store
from services.runtime.context import Call
from services.runtime.errors import invalid
from services.runtime.identifiers import dossier_of
from services.runtime.outbox import OutboxRow
from services.runtime.postgres import Connection
from services.runtime.trail import Trail
from services.runtime.validation import validate


@dataclass(frozen=True, slots=True)
class PeopleParts:
    """The use cases about people."""

    changes: Changes
    people: PersonChanges
    finding: Finding
    history: History
    links: Links
    duplicates: Duplicates
    insi: InsRetrieval


class PeopleRpcs(Recorded):
    """People: reading, changing, finding, linking."""

    def __init__(self, trail: Trail, parts: PeopleParts, rights: Rights) -> None:
        Recorded.__init__(self, trail)
        self._parts = parts
        self._rights = rights

    async def GetPerson(self, request: pb.GetPersonRequest, call: Call) -> pb.GetPersonResponse:
        """TD1.3."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_READ_ADMINISTRATIVE)
            response = await self._parts.finding.get(call.health_id)
            await self._read(call, [response.person])
            return response

    async def UpdatePerson(self, request: pb.UpdatePersonRequest, call: Call) -> pb.UpdatePersonResponse:
        """TD1.3."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            validate(request)
            return await self._parts.people.update(call, request)

    async def SearchPeople(self, request: pb.SearchPeopleRequest, call: Call) -> pb.SearchPeopleResponse:
        """ITI-78."""
        async with self._recording(call):
            self._rights.require_register(call)
            validate(request)
            response = await self._parts.finding.search(call, request)
            await self._read(call, response.people)
            return response

    async def FindPatient(self, request: pb.FindPatientRequest, call: Call) -> pb.FindPatientResponse:
        """TD0.5."""
        async with self._recording(call):
            await self._rights.require(call, 0, consent_pb2.ACTION_FIND_PATIENT)
            validate(request)
            response = await self._parts.finding.find(call, request)
            await self._read(call, (each.person for each in response.candidates))
            return response

    async def MatchPerson(self, request: pb.MatchPersonRequest, call: Call) -> pb.MatchPersonResponse:
        """ITI-119."""
        async with self._recording(call):
            self._rights.require_register(call)
            validate(request)
            response = await self._parts.finding.match(request)
            await self._read(call, (each.person for each in response.candidates))
            return response

    async def ListPersonHistory(self, request: pb.ListPersonHistoryRequest, call: Call) -> pb.ListPersonHistoryResponse:
        """Who changed what, and why."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_READ_ADMINISTRATIVE)
            validate(request)
            response = await self._parts.history.page(call, request)
            await self._read(call, [])
            return response

    async def GetPersonAsOf(self, request: pb.GetPersonAsOfRequest, call: Call) -> pb.GetPersonAsOfResponse:
        """A past state."""
        async with self._recording(call):
            validate(request)
            response = await self._parts.history.as_of(call, request)
            await self._read(call, [])
            return response

    async def AddIdentifier(self, request: pb.AddIdentifierRequest, call: Call) -> pb.AddIdentifierResponse:
        """ITI-104."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            validate(request)
            return await self._parts.people.add_identifier(call, request)

    async def RetireIdentifier(self, request: pb.RetireIdentifierRequest, call: Call) -> pb.RetireIdentifierResponse:
        """ITI-104."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            validate(request)
            return await self._parts.people.retire_identifier(call, request)

    async def CrossReference(self, request: pb.CrossReferenceRequest, call: Call) -> pb.CrossReferenceResponse:
        """ITI-83."""
        async with self._recording(call):
            self._rights.require_register(call)
            validate(request)
            response = await self._parts.finding.cross_reference(request)
            await self._read(call, [pb.Person(name=response.name)])
            return response

    async def SetIdentifierDomain(
        self, request: pb.SetIdentifierDomainRequest, call: Call
    ) -> pb.SetIdentifierDomainResponse:
        """Which client feeds which domain."""
        async with self._recording(call):
            validate(request)
            domain = request.domain
            if domain.system in NATIONAL_OIDS:
                raise invalid("domain.system", "domain.local", "a national number's system is nobody's domain")

            async def work(
                conn: Connection,
            ) -> tuple[int, pb.SetIdentifierDomainResponse, Sequence[OutboxRow]]:
                await store.set_domain(conn, store.Domain(domain.system, domain.display_name, domain.client_id))
                answer = pb.SetIdentifierDomainResponse(domain=domain)
                return NOBODY, answer, [told(call, NOBODY, ((f"domain {domain.system}", domain.client_id),))]

            return await self._parts.changes.make(call, request, pb.SetIdentifierDomainResponse, work)

    async def ListIdentifierDomains(
        self, request: pb.ListIdentifierDomainsRequest, call: Call
    ) -> pb.ListIdentifierDomainsResponse:
        """All of them; there are as many as there are sources."""
        async with self._recording(call):
            domains = await store.domains(self._parts.changes.pool)
            await self._read(call, [])
        return pb.ListIdentifierDomainsResponse(
            domains=[
                pb.IdentifierDomain(system=one.system, display_name=one.display_name, client_id=one.client_id)
                for one in domains.values()
            ]
        )

    async def ListPossibleDuplicates(
        self, request: pb.ListPossibleDuplicatesRequest, call: Call
    ) -> pb.ListPossibleDuplicatesResponse:
        """The work list."""
        async with self._recording(call):
            validate(request)
            response = await self._parts.duplicates.list(call, request)
            await self._read(call, (each for pair in response.duplicates for each in (pair.one, pair.other)))
            return response

    async def DecidePossibleDuplicate(
        self, request: pb.DecidePossibleDuplicateRequest, call: Call
    ) -> pb.DecidePossibleDuplicateResponse:
        """Two people, or one."""
        async with self._recording(call):
            validate(request)
            return await self._parts.duplicates.decide(call, request)

    async def LinkPeople(self, request: pb.LinkPeopleRequest, call: Call) -> pb.LinkPeopleResponse:
        """Merges."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            validate(request)
            merged = dossier_of(request.merged, "merged")
            require_token_allows(call, merged)
            await self._rights.require(call, merged, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            return await self._parts.links.link(call, request)

    async def UnlinkPeople(self, request: pb.UnlinkPeopleRequest, call: Call) -> pb.UnlinkPeopleResponse:
        """Undoes."""
        async with self._recording(call):
            self._rights.require_register(call)
            validate(request)
            return await self._parts.links.unlink(call, request)

    async def SplitPerson(self, request: pb.SplitPersonRequest, call: Call) -> pb.SplitPersonResponse:
        """Takes a second person out of a record."""
        async with self._recording(call):
            validate(request)
            return await self._parts.links.split(call, request)

    async def RetrieveIns(self, request: pb.RetrieveInsRequest, call: Call) -> pb.RetrieveInsResponse:
        """Asks the national service for the INS."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            validate(request)
            return await self._parts.insi.retrieve(call, request)

    async def VerifyIns(self, request: pb.VerifyInsRequest, call: Call) -> pb.VerifyInsResponse:
        """Asks the national service whether INS and traits belong together."""
        async with self._recording(call):
            await self._rights.require(call, call.health_id, consent_pb2.ACTION_CHANGE_ADMINISTRATIVE)
            validate(request)
            return await self._parts.insi.verify(call, request)
