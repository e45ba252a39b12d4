"""Consent as a resource (PCF ITI-108): search, read, versions, create and update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.consent.v1.consent_pb2 import (
    BlockProfessionalRequest,
    GetDossierRequest,
    GrantAuthorizationRequest,
    GranteeStanding,
    ListAuthorizationsRequest,
    ListConsentEventsRequest,
    RevokeAuthorizationRequest,
    UnblockProfessionalRequest,
    UpdatePreferencesRequest,
)
from gateway.fhir import consents, negotiation
from gateway.fhir.consents import ConsentId, ConsentIn
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.identifiers import read_patient
from gateway.fhir.node import JsonObject
from gateway.fhir.parameters import Parameters
from gateway.fhir.refusals import ProtocolRefusal, invalid
from gateway.fhir.search import read_identifiers, read_page, read_patient_parameter, searchset
from gateway.fhir.tables import consents as table
from gateway.fhir.tables.dossiers import GET_DOSSIER
from gateway.fhir.versions import etag
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name

_LARGEST_PAGE: Final = 200
_MOST_PAGES: Final = 50
_PREFERENCE_SCOPE: Final = "TD1.3"


class Consents(Endpoints):
    """The endpoints of Consents."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "consent-search": self.search,
            "consent-read": self.read,
            "consent-history": self.history,
            "consent-vread": self.vread,
            "consent-create": self.create,
            "consent-update": self.update,
        }

    async def search(self, exchange: Exchange) -> Answer:
        """TD1.6: a page of authorisations and blocks; what was decided about emergencies on the first."""
        parameters = await exchange.parameters(consents.NAMES)
        page = read_page(parameters, _LARGEST_PAGE)
        link = read_patient_parameter(parameters, self._links.base_url)
        health_id = await self._health_id(exchange, link)
        request = ListAuthorizationsRequest(parent=dossier_name(health_id), page_size=page.size, page_token=page.token)
        response = await self._or_nobody(self._backend.call(exchange.caller, table.LIST, request), link.field)
        found = [consents.write_standing(each, health_id, self._ids) for each in response.standings]
        if not page.token and "TD0.2" in exchange.caller.scopes:
            dossier_request = GetDossierRequest(name=dossier_name(health_id))
            dossier = (await self._backend.call(exchange.caller, GET_DOSSIER, dossier_request)).dossier
            found += consents.write_preferences(dossier, health_id, self._ids)
        kept = [] if page.only_total else [each for each in found if _matches(each, parameters)]
        token = "" if page.only_total else response.next_page_token
        whole = not response.next_page_token and not page.token
        total = sum(_matches(each, parameters) for each in found) if whole else None
        return Answer(
            searchset(
                kept, parameters.pairs, self._links, kind="Consent", health_id=health_id, token=token, total=total
            )
        )

    async def read(self, exchange: Exchange) -> Answer:
        """One Consent as it stands."""
        health_id, found, standing = await self._found(exchange)
        return Answer(await self._written(exchange, health_id, found, standing))

    async def history(self, exchange: Exchange) -> Answer:
        """What became of it."""
        versions = await self._versions(exchange)
        entries = [
            {
                "fullUrl": self._links.url("Consent", each["id"]),
                "resource": each,
                "request": {"method": "PUT", "url": f"Consent/{each['id']}"},
                "response": {"status": "200", "etag": etag(int(each["meta"]["versionId"]))},
            }
            for each in versions
        ]
        bundle: JsonObject = {"resourceType": "Bundle", "type": "history", "total": len(entries)}
        return Answer({**bundle, "entry": entries} if entries else bundle)

    async def vread(self, exchange: Exchange) -> Answer:
        """One version of it."""
        wanted = exchange.request.path_params["vid"]
        for version in await self._versions(exchange):
            if version["meta"]["versionId"] == wanted:
                return Answer(version, headers={"ETag": etag(int(wanted))})
        raise _none()

    async def create(self, exchange: Exchange) -> Answer:
        """TD0.3 and TD1.3: the act that the Consent states."""
        resource = await exchange.resource("Consent")
        asked = consents.read_consent(resource)
        link = read_patient(resource.child("patient"), self._links.base_url)
        if not asked.active:
            raise invalid("Consent.status", "code", "a new Consent is active")
        health_id = await self._health_id(exchange, link)
        written = await self._act(exchange, health_id, asked)
        return Answer(written, 201, {"Location": self._links.url("Consent", written["id"])})

    async def update(self, exchange: Exchange) -> Answer:
        """The same by its id: inactive ends it."""
        resource = await exchange.resource("Consent")
        asked = consents.read_consent(resource)
        health_id, entity = await self._read_id(exchange, "Consent")
        named = ConsentId(asked.kind, asked.grantee.id if asked.grantee is not None else "")
        if named.entity != entity:
            raise invalid("Consent.provision", "identity", "the kind and the actor of a Consent do not change")
        return Answer(await self._act(exchange, health_id, asked))

    async def _act(self, exchange: Exchange, health_id: int, asked: ConsentIn) -> JsonObject:
        key = negotiation.idempotency_key(exchange.request.headers)
        parent = dossier_name(health_id)
        if asked.grantee is None:
            await self._require(exchange, _PREFERENCE_SCOPE, table.PREFERENCES)
            request = UpdatePreferencesRequest(name=parent, patient_consented=asked.verified, request_id=key)
            name = dict(zip(consents.PREFERENCES, _FIELDS, strict=True))[asked.kind]
            setattr(request, name, asked.active)
            answer = await self._or_nobody(
                self._backend.call(exchange.caller, table.PREFERENCES, request), "Consent.patient"
            )
            return consents.write_preference(
                asked.kind, health_id, self._ids, active=asked.active, epoch=answer.dossier.epoch
            )
        await self._require(exchange, "TD0.3", table.GRANT)
        epoch, standing = await self._act_on_grantee(exchange, parent, asked, key)
        found = ConsentId(asked.kind, asked.grantee.id)
        written = consents.write_standing(standing, health_id, self._ids, epoch)
        written["id"] = self._ids.write("Consent", health_id, found.entity)
        written["status"] = "active" if asked.active else "inactive"
        if not asked.active:
            written["provision"]["type"] = "deny" if asked.kind == "block" else "permit"
            written["category"] = [{"coding": [{"system": consents.CATEGORIES, "code": asked.kind}]}]
        return written

    async def _act_on_grantee(
        self, exchange: Exchange, parent: str, asked: ConsentIn, key: str
    ) -> tuple[int, GranteeStanding]:
        grantee, call, caller = asked.grantee, self._backend.call, exchange.caller
        standing = GranteeStanding(grantee=grantee)
        own = grantee if _names_another(exchange, asked) else None
        if asked.kind == "block":
            standing.state = consent_pb2.AUTHORIZATION_STATE_FORBIDDEN
            if asked.active:
                blocking = BlockProfessionalRequest(parent=parent, grantee=grantee, request_id=key)
                return (await self._or_nobody(call(caller, table.BLOCK, blocking), "Consent.patient")).epoch, standing
            lifting = UnblockProfessionalRequest(parent=parent, grantee=grantee, request_id=key)
            return (await self._or_nobody(call(caller, table.UNBLOCK, lifting), "Consent.patient")).epoch, standing
        if not asked.active:
            revoking = RevokeAuthorizationRequest(parent=parent, grantee=own, request_id=key)
            return (await self._or_nobody(call(caller, table.REVOKE, revoking), "Consent.patient")).epoch, standing
        granting = GrantAuthorizationRequest(
            parent=parent,
            grantee=own,
            attending_physician=asked.attending_physician,
            care_team=asked.care_team,
            patient_consented=asked.verified,
            request_id=key,
        )
        granted = await self._or_nobody(call(caller, table.GRANT, granting), "Consent.patient")
        standing.authorization.CopyFrom(granted.authorization)
        standing.state = consent_pb2.AUTHORIZATION_STATE_VALID
        return granted.epoch, standing

    async def _found(self, exchange: Exchange) -> tuple[int, ConsentId, GranteeStanding | None]:
        """Which Consent of which dossier an id names, and its standing if it is a grantee's."""
        health_id, entity = await self._read_id(exchange, "Consent")
        for kind in consents.PREFERENCES:
            if ConsentId(kind).entity == entity:
                return health_id, ConsentId(kind), None
        token = ""
        for _ in range(_MOST_PAGES):
            request = ListAuthorizationsRequest(parent=dossier_name(health_id), page_size=200, page_token=token)
            response = await self._or_nobody(self._backend.call(exchange.caller, table.LIST, request), "id")
            for standing in response.standings:
                for kind in ("authorization", "block"):
                    found = ConsentId(kind, standing.grantee.id)
                    if found.entity == entity:
                        return health_id, found, standing
            token = response.next_page_token
            if not token:
                break
        raise _none()

    async def _written(
        self, exchange: Exchange, health_id: int, found: ConsentId, standing: GranteeStanding | None
    ) -> JsonObject:
        if standing is not None:
            written = consents.write_standing(standing, health_id, self._ids)
            if written["category"][0]["coding"][0]["code"] != found.kind:
                raise _none()
            return written
        request = GetDossierRequest(name=dossier_name(health_id))
        dossier = (await self._or_nobody(self._backend.call(exchange.caller, GET_DOSSIER, request), "id")).dossier
        written_all = consents.write_preferences(dossier, health_id, self._ids)
        return next(each for each in written_all if each["category"][0]["coding"][0]["code"] == found.kind)

    async def _versions(self, exchange: Exchange) -> list[JsonObject]:
        """Those of a Consent that has ended too, which no list names any more: the events say whose it was."""
        health_id, entity = await self._read_id(exchange, "Consent")
        versions, token = [], ""
        for _ in range(_MOST_PAGES):
            request = ListConsentEventsRequest(parent=dossier_name(health_id), page_size=200, page_token=token)
            response = await self._or_nobody(self._backend.call(exchange.caller, table.EVENTS, request), "id")
            for event in response.events:
                found = consents.consent_of(event, entity)
                if found is not None:
                    versions.append(consents.write_event(event, found, health_id, self._ids))
            token = response.next_page_token
            if not token:
                break
        if not versions and entity not in {ConsentId(kind).entity for kind in consents.PREFERENCES}:
            raise _none()
        return versions


_FIELDS: Final = ("break_glass_opposed", "regulation_opposed", "masked_shown_in_emergency")


def _matches(resource: JsonObject, parameters: Parameters) -> bool:
    """Whether a Consent meets _id, status, category and actor."""
    ids = parameters.alternatives("_id")
    statuses = [text.rpartition("|")[2] for text in parameters.alternatives("status")]
    categories = [text.rpartition("|")[2] for text in parameters.alternatives("category")]
    actors = {each.value for each in read_identifiers(parameters, "actor.identifier", "actor")}
    provision = resource["provision"]
    named = {each["reference"]["identifier"]["value"] for each in provision.get("actor", ())}
    return (
        (not ids or resource["id"] in ids)
        and (not statuses or resource["status"] in statuses)
        and (not categories or resource["category"][0]["coding"][0]["code"] in categories)
        and (not actors or bool(actors & named))
    )


def _names_another(exchange: Exchange, asked: ConsentIn) -> bool:
    """Whether the Consent names somebody else than the caller, who alone may be left out of the request."""
    actor = exchange.caller.actor
    return asked.grantee is not None and asked.grantee.id not in (actor.subject, actor.structure)


def _none() -> DmpError:
    return ProtocolRefusal(404, "id", "no such Consent", reason=reasons.ERROR_REASON_METHOD_NOT_FOUND)
