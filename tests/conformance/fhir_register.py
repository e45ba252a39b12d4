"""Identity, consent and the trail of the platform of our own: a register of people, standings, and a list of events.

Each keeps the part of its contract that the front relies on: idempotency by request id, domains that are or are not
registered, versions, and refusals by reason.
"""

from __future__ import annotations

from typing import Any

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.coding_pb2 import Identifier
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import directory_pb2, identity_pb2
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_of, event_name, new_health_id, person_name, uuid7
from services.runtime.validation import validate
from tests.conformance.fhir_samples import HEALTH_ID, INS, INS_OID

LOCAL_OID, FOREIGN_OID = "1.2.250.1.999.50", "1.2.250.1.999.60"
DOCTOR, HOSPITAL = "899700218896", "1990000001"


class FakeRegister:
    """Identity by dictionaries. `people` of the platform is shared with it."""

    people: dict[tuple[str, str], int]

    def __init__(self) -> None:
        traits = identity_pb2.Traits(
            birth_name="DUPONT",
            birth_given_names="Jeanne Marie",
            first_birth_given_name="Jeanne",
            sex=identity_pb2.SEX_FEMALE,
            birth_date="1980-01-17",
            birth_place="75056",
        )
        self.persons = {
            HEALTH_ID: identity_pb2.Person(
                name=person_name(HEALTH_ID),
                traits=traits,
                identifiers=[Identifier(system=INS_OID, value=INS)],
                status=identity_pb2.IDENTITY_STATUS_QUALIFIED,
                version=1,
                contact=identity_pb2.Contact(
                    lines=["1 rue Haute"], postcode="75001", city="Paris", phone="+33100000000"
                ),
            )
        }
        self.answers: dict[str, Any] = {}
        self.created = 0

    async def search_people(self, caller: Any, request: Any) -> identity_pb2.SearchPeopleResponse:
        validate(request)
        if request.HasField("identifier") and request.identifier.system not in (INS_OID, LOCAL_OID):
            raise DmpError(reasons.ERROR_REASON_UNKNOWN_DOMAIN)
        found = []
        for person in self.persons.values():
            pairs = [(each.system, each.value) for each in person.identifiers]
            wanted = (request.identifier.system, request.identifier.value)
            family = request.family_name.upper()
            if request.HasField("identifier") and wanted not in pairs:
                continue
            if family and not person.traits.birth_name.startswith(family):
                continue
            if request.exact and family != person.traits.birth_name:
                continue
            if request.birth_date and request.birth_date != person.traits.birth_date:
                continue
            found.append(person)
        return identity_pb2.SearchPeopleResponse(people=found)

    async def get_person(self, caller: Any, request: Any) -> identity_pb2.GetPersonResponse:
        linked = [each.name for each in self.persons.values() if each.merged_into == request.name]
        return identity_pb2.GetPersonResponse(person=self._person(request.name), linked=linked)

    async def match_person(self, caller: Any, request: Any) -> identity_pb2.MatchPersonResponse:
        validate(request)
        found = [each for each in self.persons.values() if each.traits.birth_name == request.traits.birth_name.upper()]
        if request.only_certain and len(found) != 1:
            found = []
        grade = identity_pb2.MATCH_GRADE_CERTAIN if len(found) == 1 else identity_pb2.MATCH_GRADE_POSSIBLE
        candidates = [identity_pb2.PersonCandidate(person=each, score=0.97, grade=grade) for each in found]
        return identity_pb2.MatchPersonResponse(candidates=candidates[: request.count or 10])

    async def cross_reference(self, caller: Any, request: Any) -> identity_pb2.CrossReferenceResponse:
        validate(request)
        if request.source.system not in (INS_OID, LOCAL_OID):
            raise DmpError(reasons.ERROR_REASON_UNKNOWN_DOMAIN)
        if set(request.target_systems) - {INS_OID, LOCAL_OID}:
            raise DmpError(reasons.ERROR_REASON_UNKNOWN_TARGET_DOMAIN)
        health_id = self.people.get((request.source.system, request.source.value))
        if health_id is None:
            raise DmpError(reasons.ERROR_REASON_UNKNOWN_PATIENT)
        person = self.persons[health_id]
        wanted = set(request.target_systems) or {INS_OID, LOCAL_OID}
        found = [each for each in person.identifiers if each.system in wanted]
        return identity_pb2.CrossReferenceResponse(name=person.name, identifiers=found)

    async def create_person(self, caller: Any, request: Any) -> identity_pb2.CreatePersonResponse:
        validate(request)
        if request.request_id in self.answers:
            return self.answers[request.request_id]  # type: ignore[no-any-return]
        self._own_domain(request.person.identifiers)
        health_id = new_health_id()
        person = identity_pb2.Person()
        person.CopyFrom(request.person)
        person.name, person.version = person_name(health_id), 1
        self.persons[health_id] = person
        for each in person.identifiers:
            self.people[each.system, each.value] = health_id
        self.created += 1
        self.answers[request.request_id] = identity_pb2.CreatePersonResponse(person=person)
        return self.answers[request.request_id]  # type: ignore[no-any-return]

    async def update_person(self, caller: Any, request: Any) -> identity_pb2.UpdatePersonResponse:
        validate(request)
        self._own_domain(request.added_identifiers)
        person = self._person(request.name)
        person.identifiers.extend(request.added_identifiers)
        if request.HasField("traits"):
            person.traits.CopyFrom(request.traits)
        if request.HasField("contact"):
            person.contact.CopyFrom(request.contact)
        person.version += 1
        return identity_pb2.UpdatePersonResponse(person=person)

    async def add_identifier(self, caller: Any, request: Any) -> identity_pb2.AddIdentifierResponse:
        validate(request)
        added = [request.identifier, *request.further_identifiers]
        self._own_domain(added)
        person = self._person(request.name)
        person.identifiers.extend(each for each in added if each not in person.identifiers)
        return identity_pb2.AddIdentifierResponse(person=person)

    async def link_people(self, caller: Any, request: Any) -> identity_pb2.LinkPeopleResponse:
        validate(request)
        self._person(request.merged).merged_into = request.name
        return identity_pb2.LinkPeopleResponse(person=self._person(request.name), linked=[request.merged])

    async def search_practitioners(self, caller: Any, request: Any) -> directory_pb2.SearchPractitionersResponse:
        validate(request)
        found = [doctor()] if request.idnps in ("", DOCTOR) else []
        return directory_pb2.SearchPractitionersResponse(practitioners=found)

    async def search_structures(self, caller: Any, request: Any) -> directory_pb2.SearchStructuresResponse:
        validate(request)
        return directory_pb2.SearchStructuresResponse(
            structures=[hospital()] if request.idnst in ("", HOSPITAL) else []
        )

    async def search_practitioner_roles(self, caller: Any, request: Any) -> Any:
        validate(request)
        role = directory_pb2.PractitionerRole(idnps=DOCTOR, idnst=HOSPITAL, profession="10", active=True)
        there = request.idnps in ("", DOCTOR) and request.idnst in ("", HOSPITAL)
        return directory_pb2.SearchPractitionerRolesResponse(
            roles=[role] if there else [], practitioners=[doctor()], structures=[hospital()]
        )

    async def batch_get_directory_entries(self, caller: Any, request: Any) -> Any:
        validate(request)
        return directory_pb2.BatchGetDirectoryEntriesResponse(
            practitioners=[doctor()] if DOCTOR in request.idnps else [],
            structures=[hospital()] if HOSPITAL in request.idnst else [],
        )

    def _person(self, name: str) -> identity_pb2.Person:
        person = self.persons.get(dossier_of(name, "name"))
        if person is None:
            raise DmpError(reasons.ERROR_REASON_PERSON_NOT_FOUND)
        return person

    @staticmethod
    def _own_domain(identifiers: Any) -> None:
        if any(each.system == FOREIGN_OID for each in identifiers):
            raise DmpError(reasons.ERROR_REASON_FOREIGN_DOMAIN)


def acting() -> ActingContext:
    return ActingContext(
        subject=DOCTOR,
        subject_name="Anne Martin",
        structure=HOSPITAL,
        actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL,
    )


def doctor() -> directory_pb2.Practitioner:
    return directory_pb2.Practitioner(
        idnps=DOCTOR, family_name="MARTIN", given_name="Anne", profession="10", active=True
    )


def hospital() -> directory_pb2.Structure:
    return directory_pb2.Structure(
        idnst=HOSPITAL, display_name="Centre hospitalier", postcode="75001", city="Paris", facility_type="SA01"
    )


class FakeConsents:
    """Standings of grantees, preferences, and the history that they leave. Dossiers are the platform's own."""

    dossiers: dict[int, consent_pb2.Dossier]

    def __init__(self) -> None:
        self.standings: dict[str, consent_pb2.GranteeStanding] = {}
        self.history: list[consent_pb2.ConsentEvent] = []
        self.acts: list[Any] = []

    async def open_dossier(self, caller: Any, request: Any) -> consent_pb2.OpenDossierResponse:
        validate(request)
        health_id = dossier_of(request.name, "name")
        if health_id in self.dossiers and self.dossiers[health_id].state == consent_pb2.DOSSIER_STATE_OPEN:
            raise DmpError(reasons.ERROR_REASON_DOSSIER_ALREADY_EXISTS)
        self.acts.append(request)
        made = consent_pb2.Dossier(name=request.name, state=consent_pb2.DOSSIER_STATE_OPEN)
        self.dossiers[health_id] = made
        return consent_pb2.OpenDossierResponse(dossier=made)

    async def reopen_dossier(self, caller: Any, request: Any) -> consent_pb2.ReopenDossierResponse:
        opened = await self.open_dossier(caller, request)
        return consent_pb2.ReopenDossierResponse(dossier=opened.dossier)

    async def close_dossier(self, caller: Any, request: Any) -> consent_pb2.CloseDossierResponse:
        validate(request)
        found = self._of(request.name)
        if found.state == consent_pb2.DOSSIER_STATE_CLOSED:
            raise DmpError(reasons.ERROR_REASON_DOSSIER_ALREADY_CLOSED)
        found.state, found.close_reason = consent_pb2.DOSSIER_STATE_CLOSED, request.reason
        found.close_time.FromSeconds(1_700_000_000)
        return consent_pb2.CloseDossierResponse(dossier=found)

    async def list_host_dossiers(self, caller: Any, request: Any) -> consent_pb2.ListHostDossiersResponse:
        validate(request)
        if not caller.actor.takes_over_host:
            raise DmpError(reasons.ERROR_REASON_RIGHT_DENIED)
        if request.page_token and not request.page_token.isdigit():
            raise DmpError(reasons.ERROR_REASON_INVALID_PAGE_TOKEN)
        start, size = int(request.page_token or 0), request.page_size or 50
        held = [each for _, each in sorted(self.dossiers.items()) if each.home_host == caller.actor.takes_over_host]
        page = [consent_pb2.HostDossier(dossier=each) for each in held[start : start + size]]
        token = str(start + size) if len(held) > start + size else ""
        return consent_pb2.ListHostDossiersResponse(dossiers=page, next_page_token=token)

    async def grant_authorization(self, caller: Any, request: Any) -> consent_pb2.GrantAuthorizationResponse:
        validate(request)
        self._of(request.parent)
        self.acts.append(request)
        grantee = consent_pb2.Grantee(kind=consent_pb2.GRANTEE_KIND_PROFESSIONAL, id=caller.actor.subject)
        if request.HasField("grantee"):
            grantee = request.grantee
        granted = consent_pb2.Authorization(
            grantee=grantee, attending_physician=request.attending_physician, care_team=request.care_team
        )
        granted.grant_time.FromSeconds(1_700_000_000)
        granted.expire_time.FromSeconds(1_731_536_000)
        self._stand(grantee, consent_pb2.AUTHORIZATION_STATE_VALID, granted)
        self._note("authorization.grant", grantee)
        return consent_pb2.GrantAuthorizationResponse(authorization=granted, epoch=len(self.history))

    async def revoke_authorization(self, caller: Any, request: Any) -> consent_pb2.RevokeAuthorizationResponse:
        validate(request)
        self._of(request.parent)
        id_ = request.grantee.id or caller.actor.subject
        if id_ not in self.standings:
            raise DmpError(reasons.ERROR_REASON_AUTHORIZATION_MISSING)
        grantee = self.standings.pop(id_).grantee
        self._note("authorization.revoke", grantee)
        return consent_pb2.RevokeAuthorizationResponse(epoch=len(self.history))

    async def remove_attending_physician(self, caller: Any, request: Any) -> Any:
        validate(request)
        return consent_pb2.RemoveAttendingPhysicianResponse(epoch=len(self.history))

    async def block_professional(self, caller: Any, request: Any) -> consent_pb2.BlockProfessionalResponse:
        validate(request)
        self._of(request.parent)
        self._stand(request.grantee, consent_pb2.AUTHORIZATION_STATE_FORBIDDEN)
        self._note("authorization.block", request.grantee)
        return consent_pb2.BlockProfessionalResponse(epoch=len(self.history))

    async def unblock_professional(self, caller: Any, request: Any) -> consent_pb2.UnblockProfessionalResponse:
        validate(request)
        self.standings.pop(request.grantee.id, None)
        self._note("authorization.unblock", request.grantee)
        return consent_pb2.UnblockProfessionalResponse(epoch=len(self.history))

    async def update_preferences(self, caller: Any, request: Any) -> consent_pb2.UpdatePreferencesResponse:
        validate(request)
        found = self._of(request.name)
        for name in ("break_glass_opposed", "regulation_opposed", "masked_shown_in_emergency"):
            if request.HasField(name):
                setattr(found, name, getattr(request, name))
        self._note("dossier.update_preferences", None)
        return consent_pb2.UpdatePreferencesResponse(dossier=found)

    async def list_authorizations(self, caller: Any, request: Any) -> consent_pb2.ListAuthorizationsResponse:
        validate(request)
        self._of(request.parent)
        return consent_pb2.ListAuthorizationsResponse(standings=list(self.standings.values()))

    async def list_accessible(self, caller: Any, request: Any) -> consent_pb2.ListAccessibleResponse:
        validate(request)
        found = [consent_pb2.AccessibleDossier(name=each.name) for each in self.dossiers.values()]
        return consent_pb2.ListAccessibleResponse(dossiers=found)

    async def list_recent_dossiers(self, caller: Any, request: Any) -> document_pb2.ListRecentDossiersResponse:
        validate(request)
        found = [document_pb2.RecentDossier(name=each.name) for each in self.dossiers.values()]
        return document_pb2.ListRecentDossiersResponse(dossiers=found[::-1], next_page_token="more")

    async def list_consent_events(self, caller: Any, request: Any) -> consent_pb2.ListConsentEventsResponse:
        validate(request)
        return consent_pb2.ListConsentEventsResponse(events=reversed(self.history))

    def _of(self, name: str) -> consent_pb2.Dossier:
        found = self.dossiers.get(dossier_of(name, "name"))
        if found is None:
            raise DmpError(reasons.ERROR_REASON_DOSSIER_NOT_FOUND)
        return found

    def _stand(self, grantee: Any, state: Any, authorization: Any = None) -> None:
        standing = consent_pb2.GranteeStanding(grantee=grantee, state=state, authorization=authorization)
        self.standings[grantee.id] = standing

    def _note(self, kind: str, grantee: Any) -> None:
        event = consent_pb2.ConsentEvent(epoch=len(self.history) + 1, kind=kind, grantee=grantee)
        event.event_time.FromSeconds(1_700_000_000 + len(self.history))
        self.history.append(event)


class FakeTrail:
    """A trail of events of the one dossier."""

    def __init__(self) -> None:
        self.events: list[audit_pb2.TrailEvent] = []
        self.listed: list[audit_pb2.ListEventsRequest] = []

    def happened(self, action: str, objects: tuple[str, ...] = (), **more: Any) -> None:
        event_id = uuid7()
        event = audit_pb2.AuditEvent(
            event_id=event_id.bytes,
            health_id=HEALTH_ID,
            action=action,
            actor=acting(),
            outcome=audit_pb2.OUTCOME_SUCCESS,
            objects=objects,
            request_id="request-1",
            producer="document",
            **more,
        )
        event.event_time.FromSeconds(1_760_000_000 + len(self.events))
        self.events.insert(0, audit_pb2.TrailEvent(name=event_name(HEALTH_ID, event_id), event=event))

    async def list_events(self, caller: Any, request: Any) -> audit_pb2.ListEventsResponse:
        validate(request)
        self.listed.append(request)
        found = [
            each for each in self.events if not request.filter.actions or each.event.action in request.filter.actions
        ]
        start, size = int(request.page_token or 0), request.page_size or 50
        more = start + size < len(found)
        return audit_pb2.ListEventsResponse(
            events=found[start : start + size], next_page_token=str(start + size) if more else ""
        )

    async def get_event(self, caller: Any, request: Any) -> audit_pb2.GetEventResponse:
        validate(request)
        for each in self.events:
            if each.name == request.name:
                return audit_pb2.GetEventResponse(event=each)
        raise DmpError(reasons.ERROR_REASON_DOCUMENT_NOT_FOUND)

    async def get_receipt(self, caller: Any, request: Any) -> audit_pb2.GetReceiptResponse:
        await self.get_event(caller, request)
        return audit_pb2.GetReceiptResponse(proof="c2sp.org/tlog-proof@v1\n", log_key="log+0+A", witness_keys=["w+0+A"])

    async def record_event(self, caller: Any, request: Any) -> audit_pb2.RecordEventResponse:
        validate(request)
        self.happened("event.report", tuple(request.objects), reported=request.reported)
        return audit_pb2.RecordEventResponse(event=self.events[0])
