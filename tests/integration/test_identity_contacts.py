"""Contacts stay in identity, but for one question of one service."""

from __future__ import annotations

import pytest

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import directory_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.errors import DmpError
from tests.identity_service import People, health_id_of, traits


async def test_contacts_are_told_to_the_service_that_sends_notices_and_to_no_other(people: People) -> None:
    written = pb.Contact(email="claire@example.test", phone="+33 1 23 45 67 89", city="Lyon")
    made = people.call("CreatePerson")
    request_to_register = pb.CreatePersonRequest(
        person=pb.Person(traits=traits(), contact=written), request_id=made.request_id
    )
    health_id = health_id_of((await people.servicer.CreatePerson(request_to_register, made)).person)
    silent = await people.register(traits(birth_name="AUTRE"))
    request = pb.BatchReadContactsRequest(health_ids=[silent, health_id, health_id ^ 1])
    for peer in ("document", "consent", "gateway"):
        call = people.call("BatchReadContacts", caller=access_pb2.CALLER_KIND_SERVICE)._replace(peer=peer)
        with pytest.raises(DmpError) as refused:
            await people.servicer.BatchReadContacts(request, call)
        assert refused.value.reason == reasons.ERROR_REASON_CALLER_NOT_ALLOWED
    call = people.call("BatchReadContacts", caller=access_pb2.CALLER_KIND_SERVICE)._replace(peer="audit")
    answer = await people.servicer.BatchReadContacts(request, call)
    assert list(answer.emails) == ["", "claire@example.test", ""], "the address alone"


async def test_professionals_are_written_to_where_the_directory_says(people: People) -> None:
    rows = [
        (practitioner("899700000013", email="claire.martin@medecin.mssante.test"), ""),
        (practitioner("899700000021", email="luc@medecin.mssante.test", active=False), ""),
        (practitioner("899700000039"), ""),
        (practitioner("899700000047", email="not an address"), "email.form"),
    ]
    imported = await people.ask(
        "ImportDirectory",
        directory_pb2.ImportDirectoryRequest(
            import_id="with-mail",
            request_id="import-with-mail",
            rows=[directory_pb2.DirectoryRow(row=number, practitioner=one) for number, (one, _) in enumerate(rows, 1)],
        ),
    )
    refused = {found.row: found.rule for found in imported.findings if found.refused}
    assert refused == {number: rule for number, (_, rule) in enumerate(rows, 1) if rule}
    asked = ["899700000047", "899700000013", "899700000021", "899700000039", "899799999992"]
    call = people.call("BatchReadContacts", caller=access_pb2.CALLER_KIND_SERVICE)._replace(peer="audit")
    answer = await people.servicer.BatchReadContacts(pb.BatchReadContactsRequest(idnps=asked), call)
    assert list(answer.professional_emails) == ["", "claire.martin@medecin.mssante.test", "", "", ""]
    assert list(answer.emails) == []
    told = await people.ask("BatchGetDirectoryEntries", directory_pb2.BatchGetDirectoryEntriesRequest(idnps=asked))
    assert len(told.practitioners) == 3
    assert "mssante" not in str(told), "no other answer holds it"


def practitioner(idnps: str, *, email: str = "", active: bool = True) -> directory_pb2.Practitioner:
    return directory_pb2.Practitioner(
        idnps=idnps, family_name="MARTIN", given_name="Claire", profession="10", active=active, email=email
    )
