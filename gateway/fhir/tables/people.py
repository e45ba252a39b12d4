"""People: ITI-78, ITI-119, ITI-83 and ITI-104; and TD0.2, which shares the path of ITI-78."""

from __future__ import annotations

from typing import Final

from dmp.identity.v1 import identity_pb2 as identity
from gateway.fhir import dossier, people_search
from gateway.fhir.interaction import Interaction, search_by_get_and_post
from gateway.fhir.parameters import SearchParameter
from gateway.fhir.rpcs import IDENTITY, Rpc
from gateway.fhir.tables.dossiers import GET_DOSSIER

SEARCH: Final = Rpc(f"{IDENTITY}/SearchPeople", identity.SearchPeopleRequest, identity.SearchPeopleResponse)
GET: Final = Rpc(f"{IDENTITY}/GetPerson", identity.GetPersonRequest, identity.GetPersonResponse)
MATCH: Final = Rpc(f"{IDENTITY}/MatchPerson", identity.MatchPersonRequest, identity.MatchPersonResponse)
CROSS_REFERENCE: Final = Rpc(
    f"{IDENTITY}/CrossReference", identity.CrossReferenceRequest, identity.CrossReferenceResponse
)
CREATE: Final = Rpc(f"{IDENTITY}/CreatePerson", identity.CreatePersonRequest, identity.CreatePersonResponse)
UPDATE: Final = Rpc(f"{IDENTITY}/UpdatePerson", identity.UpdatePersonRequest, identity.UpdatePersonResponse)
ADD_IDENTIFIER: Final = Rpc(f"{IDENTITY}/AddIdentifier", identity.AddIdentifierRequest, identity.AddIdentifierResponse)
LINK: Final = Rpc(f"{IDENTITY}/LinkPeople", identity.LinkPeopleRequest, identity.LinkPeopleResponse)

_IDENTIFIER: Final = (SearchParameter("identifier", "token", "system|value of the person in the source's own domain"),)

TABLE: Final = (
    *search_by_get_and_post(
        "patient-search", "Patient", "TD0.2", GET_DOSSIER,
        "TD0.2 with an identifier alone: does the person have a dossier, is it open, may the caller read it. ITI-78"
        " with any other parameter, or _profile of PDQm: who is it.",
        (*people_search.PARAMETERS, *(each for each in dossier.PARAMETERS if each.name != "identifier")),
        also=(("ITI-78", SEARCH),),
    ),
    Interaction(
        "patient-read", "GET", "/Patient/{id}", "Patient", "read", "TD0.2", GET_DOSSIER,
        "TD0.2 by our own id; the person of ITI-78 for a token with that scope.", also=(("ITI-78", GET),),
    ),
    Interaction(
        "patient-feed", "PUT", "/Patient", "Patient", "update", "ITI-104", UPDATE,
        "ITI-104: register or update the person of an identifier; active=false with a replaced-by link merges.",
        _IDENTIFIER, body="resource", accepts=("Patient",), conditional=True,
    ),
    Interaction(
        "patient-match", "POST", "/Patient/$match", "Patient", "operation", "ITI-119", MATCH,
        "ITI-119: who may this be; parameters resource, onlyCertainMatches, count.", body="resource",
        accepts=("Parameters",),
    ),
    Interaction(
        "patient-pix", "GET", "/Patient/$ihe-pix", "Patient", "operation", "ITI-83", CROSS_REFERENCE,
        "ITI-83: the identifiers of one person in other domains.", people_search.PIX_PARAMETERS,
    ),
    Interaction(
        "patient-pix", "POST", "/Patient/$ihe-pix", "Patient", "operation", "ITI-83", CROSS_REFERENCE,
        "ITI-83.", body="resource", accepts=("Parameters",),
    ),
)  # fmt: skip
