"""The directory: Practitioner, Organization, PractitionerRole (mCSD ITI-90)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_METHOD_NOT_FOUND
from dmp.identity.v1.directory_pb2 import BatchGetDirectoryEntriesRequest, SearchPractitionerRolesRequest
from gateway.fhir import directory
from gateway.fhir.endpoints.common import Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from gateway.fhir.field_paths import translate
from gateway.fhir.node import JsonObject
from gateway.fhir.search import searchset
from gateway.fhir.tables import directory as table
from services.runtime.errors import DmpError

_FIELDS: Final = {
    "idnps": "identifier",
    "idnst": "identifier",
    "family_name": "family",
    "given_name": "given",
    "display_name": "name",
    "postcode": "address-postalcode",
    "facility_type": "type",
    "profession": "qualification-code",
    "page_token": "_page",
}


class Directory(Endpoints):
    """The endpoints of the directory."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {
            "practitioner-search": self.practitioners,
            "practitioner-read": self.practitioner,
            "organization-search": self.organizations,
            "organization-read": self.organization,
            "role-search": self.roles,
            "role-read": self.role,
        }

    async def practitioners(self, exchange: Exchange) -> Answer:
        """Professionals that match."""
        parameters = await exchange.parameters(directory.PRACTITIONER_NAMES)
        request = directory.read_practitioners(parameters)
        response = await self._asked(exchange, table.PRACTITIONERS, request)
        found = [directory.write_practitioner(each) for each in response.practitioners]
        return self._page("Practitioner", found, parameters.pairs, response.next_page_token)

    async def organizations(self, exchange: Exchange) -> Answer:
        """Structures that match."""
        parameters = await exchange.parameters(directory.ORGANIZATION_NAMES)
        request = directory.read_structures(parameters)
        response = await self._asked(exchange, table.STRUCTURES, request)
        found = [directory.write_structure(each) for each in response.structures]
        return self._page("Organization", found, parameters.pairs, response.next_page_token)

    async def roles(self, exchange: Exchange) -> Answer:
        """Roles that match, with what they point to where that is asked for."""
        parameters = await exchange.parameters(directory.ROLE_NAMES)
        response = await self._asked(exchange, table.ROLES, directory.read_roles(parameters))
        found = [directory.write_role(each) for each in response.roles]
        wanted = parameters.values("_include")
        if directory.INCLUDES[0] in wanted:
            found += [directory.write_practitioner(each) for each in response.practitioners]
        if directory.INCLUDES[1] in wanted:
            found += [directory.write_structure(each) for each in response.structures]
        return self._page("PractitionerRole", found, parameters.pairs, response.next_page_token)

    async def practitioner(self, exchange: Exchange) -> Answer:
        """One professional."""
        request = BatchGetDirectoryEntriesRequest(idnps=[_id(exchange)])
        found = (await self._backend.call(exchange.caller, table.ENTRIES, request)).practitioners
        return _one([directory.write_practitioner(each) for each in found])

    async def organization(self, exchange: Exchange) -> Answer:
        """One structure."""
        request = BatchGetDirectoryEntriesRequest(idnst=[_id(exchange)])
        found = (await self._backend.call(exchange.caller, table.ENTRIES, request)).structures
        return _one([directory.write_structure(each) for each in found])

    async def role(self, exchange: Exchange) -> Answer:
        """One role."""
        idnps, _, idnst = exchange.request.path_params["id"].partition(".")
        request = SearchPractitionerRolesRequest(
            idnps=directory.text_of(idnps)[:32], idnst=directory.text_of(idnst)[:40], page_size=1
        )
        if not request.idnps or not request.idnst:
            raise _none()
        found = (await self._backend.call(exchange.caller, table.ROLES, request)).roles
        return _one([directory.write_role(each) for each in found])

    async def _asked(self, exchange: Exchange, rpc: Any, request: Any) -> Any:
        try:
            return await self._backend.call(exchange.caller, rpc, request)
        except DmpError as error:
            raise translate(error, _field) from None

    def _page(self, kind: str, found: list[JsonObject], pairs: Any, token: str) -> Answer:
        total = None if token or any(name == "_page" for name, _ in pairs) else _matches(kind, found)
        mode: Callable[[JsonObject], JsonObject] = lambda each: {  # noqa: E731 (a word for each entry)
            "mode": "match" if each["resourceType"] == kind else "include"
        }
        return Answer(searchset(found, pairs, self._links, kind=kind, token=token, total=total, mode=mode))


def _matches(kind: str, found: list[JsonObject]) -> int:
    return sum(1 for each in found if each["resourceType"] == kind)


def _id(exchange: Exchange) -> str:
    text: str = directory.text_of(exchange.request.path_params["id"])
    if len(text) > 32:
        raise _none()
    return text


def _one(found: list[JsonObject]) -> Answer:
    if not found:
        raise _none()
    return Answer(found[0])


def _none() -> DmpError:
    return DmpError(ERROR_REASON_METHOD_NOT_FOUND, "The directory has no such entry.")


def _field(field: str) -> str:
    return _FIELDS.get(field, field)
