"""A well-formed request of each method of the register beside those in `hostile_messages`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from dmp.common.v1.coding_pb2 import Coding, Identifier
from dmp.identity.v1 import directory_pb2, keys_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.identifiers import format_health_id, person_name

_LOCAL = Identifier(system="1.2.250.1.999.1", value="IPP-77")


def well_formed(health_id: int, person: pb.Person) -> Mapping[str, Message]:
    """By the method's name, about this person. Those that would merge or split name somebody who is not there."""
    name, nobody = person_name(health_id), person_name(7)
    again = pb.CreatePersonRequest(person=person, request_id="rubbish-batch")
    update = pb.UpdatePersonRequest(
        name=name, traits=person.traits, homonym=True, reason="rubbish", request_id="rubbish-update"
    )
    update.contact.postcode, update.contact.city = "75001", "Paris"
    update.contact.lines.append("1 rue de la Paix")
    search = pb.SearchPeopleRequest(birth_date="1951-02-03", family_name="RUBBISH", page_size=5)
    match = pb.MatchPersonRequest(traits=person.traits, identifiers=[_LOCAL], count=3)
    match.contact.postcode = "75001"
    as_of = pb.GetPersonAsOfRequest(name=name)
    as_of.read_time.seconds = 4_000_000_000
    domain = pb.SetIdentifierDomainRequest(request_id="rubbish-domain")
    domain.domain.system, domain.domain.display_name = "1.2.250.1.999.77", "Rubbish"
    domain.domain.client_id = "nobody"
    pair = f"duplicates/{format_health_id(7)}.{format_health_id(8)}"
    return {
        "BatchCreatePeople": pb.BatchCreatePeopleRequest(requests=[again]),
        "GetPerson": pb.GetPersonRequest(name=name),
        "UpdatePerson": update,
        "SearchPeople": search,
        "FindPatient": pb.FindPatientRequest(family_name="RUBBISH", birth_date="1951-02-03"),
        "MatchPerson": match,
        "ListPersonHistory": pb.ListPersonHistoryRequest(name=name, page_size=3),
        "GetPersonAsOf": as_of,
        "AddIdentifier": pb.AddIdentifierRequest(
            name=name, identifier=_LOCAL, reason="rubbish", request_id="rubbish-add"
        ),
        "RetireIdentifier": pb.RetireIdentifierRequest(
            name=name, identifier=_LOCAL, reason="rubbish", request_id="rubbish-retire"
        ),
        "CrossReference": pb.CrossReferenceRequest(source=_LOCAL, target_systems=["1.2.250.1.999.2"]),
        "SetIdentifierDomain": domain,
        "ListIdentifierDomains": pb.ListIdentifierDomainsRequest(),
        "ListPossibleDuplicates": pb.ListPossibleDuplicatesRequest(page_size=3),
        "DecidePossibleDuplicate": pb.DecidePossibleDuplicateRequest(
            name=pair, state=pb.DUPLICATE_STATE_DISTINCT, reason="rubbish", request_id="rubbish-decide"
        ),
        "LinkPeople": pb.LinkPeopleRequest(name=name, merged=nobody, reason="rubbish", request_id="rubbish-link"),
        "UnlinkPeople": pb.UnlinkPeopleRequest(name=name, reason="rubbish", request_id="rubbish-unlink"),
        "SplitPerson": pb.SplitPersonRequest(
            name=name, traits=person.traits, identifiers=[_LOCAL], reason="rubbish", request_id="rubbish-split"
        ),
        "RetrieveIns": pb.RetrieveInsRequest(name=name, request_id="rubbish-retrieve"),
        "VerifyIns": pb.VerifyInsRequest(name=name, request_id="rubbish-verify"),
        **_directory(),
        "AdvanceKeyRotation": keys_pb2.AdvanceKeyRotationRequest(max_people=1, request_id="rubbish-rotate"),
        "GetKeyRotation": keys_pb2.GetKeyRotationRequest(),
    }


def _directory() -> Mapping[str, Message]:
    practitioner = directory_pb2.Practitioner(
        idnps="899700000012",
        family_name="RUBBISH",
        profession="10",
        specialties=[Coding(system="1.2.250.1.213.1.1.4.5", code="G15_10/SM54")],
    )
    return {
        "BatchGetDirectoryEntries": directory_pb2.BatchGetDirectoryEntriesRequest(idnps=["899700000012"]),
        "SearchPractitioners": directory_pb2.SearchPractitionersRequest(family_name="RUBBISH", page_size=3),
        "SearchStructures": directory_pb2.SearchStructuresRequest(display_name="RUBBISH", page_size=3),
        "SearchPractitionerRoles": directory_pb2.SearchPractitionerRolesRequest(idnps="899700000012", page_size=3),
        "ImportDirectory": directory_pb2.ImportDirectoryRequest(
            import_id="rubbish-import",
            rows=[directory_pb2.DirectoryRow(row=1, practitioner=practitioner)],
            request_id="rubbish-directory",
        ),
        "GetDirectoryImport": directory_pb2.GetDirectoryImportRequest(import_id="rubbish-import"),
    }
