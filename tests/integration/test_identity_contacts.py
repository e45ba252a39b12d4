"""Contacts stay in identity, but for one question of one service."""

from __future__ import annotations

import pytest

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import directory_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.errors import DmpError
from services.runtime.identifiers import person_name
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


async def test_a_merged_person_is_written_to_and_compared_as_one_and_damage_is_told_of_its_own_place(
    people: People,
) -> None:
    made = people.call("CreatePerson")
    person = pb.Person(traits=traits(birth_name="ALLARD"), contact=pb.Contact(email="claire@example.test"))
    asked = pb.CreatePersonRequest(person=person, request_id=made.request_id)
    merged = health_id_of((await people.servicer.CreatePerson(asked, made)).person)
    survivor = await people.register(traits(birth_name="DURAND"))
    other = await people.register(traits(birth_name="AUTRE"))
    link = pb.LinkPeopleRequest(name=person_name(survivor), merged=person_name(merged), reason="one person")
    await people.ask("LinkPeople", link)
    names = [(survivor, "Claire ALLARD"), (merged, "Claire Durand"), (other, "Claire AUTRE"), (other, "Claire DURAND")]
    compare = pb.BatchCompareNamesRequest(requests=[pb.CompareNameRequest(health_id=h, name=n) for h, n in names])
    service = people.call("BatchReadContacts", caller=access_pb2.CALLER_KIND_SERVICE)._replace(peer="audit")

    async def told() -> tuple[list[str], list[int], list[bool], list[int]]:
        contacts = pb.BatchReadContactsRequest(health_ids=[survivor, merged, other])
        read = await people.servicer.BatchReadContacts(contacts, service)
        same = await people.servicer.BatchCompareNames(compare, service)
        return list(read.emails), list(read.unreadable), list(same.same_family_names), list(same.unreadable)

    hers = ["claire@example.test"] * 2 + [""]
    assert await told() == (hers, [], [True, True, True, False], [])
    await people.pool.execute("UPDATE person SET sealed = '\\x00' WHERE health_id = ANY($1)", [other, survivor])
    assert await told() == (hers, [2], [True, False, False, False], [0, 1, 2, 3])
    await people.pool.execute("DELETE FROM dossier_key WHERE health_id = $1", merged)
    assert (await told())[:2] == (["", "", ""], [0, 1, 2])


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
