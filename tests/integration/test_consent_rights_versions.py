"""Rights as data: read, compared, replaced, in force at once; and decisions of before made by the tables of then."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from dmp.consent.v1 import rights_pb2
from services.consent.__main__ import ConsentService
from services.runtime.errors import DmpError
from services.runtime.paging import PageTokens
from services.runtime.trail import Trail
from tests.consent_service import (
    KEYRING,
    NOW,
    NURSE,
    RIGHTS,
    Consent,
    check_request,
    operator,
    patient,
    professional,
)
from tests.integration.test_consent_reading import explain, party
from tests.refusals import refused

NO_READING = "TD3.2,read_not_masked,other_professional/normal,no,found"


async def get(consent: Consent, version: int | None = None) -> rights_pb2.GetRightsResponse:
    response: rights_pb2.GetRightsResponse = await consent.do(
        "GetRights", rights_pb2.GetRightsRequest(version=version), operator(), 0
    )
    return response


async def without_reading(consent: Consent) -> rights_pb2.RightsTables:
    """The tables in force, but that professionals who are no physicians read nothing."""
    tables = (await get(consent)).tables
    tables.functional_rights_csv = tables.functional_rights_csv.replace(NO_READING.replace(",no,", ",yes,"), NO_READING)
    return tables


async def replace(
    consent: Consent, tables: rights_pb2.RightsTables, base: int = 0, request_id: str = ""
) -> rights_pb2.RightsVersion:
    request = rights_pb2.ReplaceRightsRequest(
        tables=tables, base_version=base, comment="as decided", request_id=request_id
    )
    response: rights_pb2.ReplaceRightsResponse = await consent.do("ReplaceRights", request, operator(), 0)
    return response.version


async def test_the_tables_that_the_service_came_with_are_version_0(consent: Consent) -> None:
    answer = await get(consent)
    assert answer.version.version == 0
    assert answer.tables.functional_rights_csv == RIGHTS.text.functional_rights
    assert answer.version.digest == RIGHTS.text.digest


async def test_a_dry_run_names_the_cells_and_the_decisions_and_changes_nothing(consent: Consent) -> None:
    tables = await without_reading(consent)
    tables.document_type_denials_csv += "10,11488-4,read_denied,assumed\n"
    diff = await consent.do("DiffRights", rights_pb2.DiffRightsRequest(tables=tables), operator(), 0)
    assert {(cell.cell, cell.before, cell.after) for cell in diff.cells} == {
        ("TD3.2 read_not_masked other_professional/normal", "yes", "no"),
        ("10 11488-4", "", "read_denied"),
    }
    reading = [change for change in diff.decisions if change.action == "read"]
    assert {change.after for change in reading if change.who.startswith("other_professional/normal")} >= {
        "no: RIGHT_DENIED"
    }
    assert any(change.who == "physician/normal (10)" and "11488-4" in change.after for change in reading)
    assert not any(change.who.startswith("patient") for change in diff.decisions)
    assert (await get(consent)).version.version == 0


async def test_a_replacement_is_in_force_for_every_decision_that_begins_after_its_answer_on_every_replica(
    consent: Consent,
) -> None:
    dossier = await consent.open()
    nurse = professional(NURSE, "60")
    await consent.grant(dossier, nurse)
    replica = ConsentService(
        consent.pool,
        RIGHTS,
        PageTokens(KEYRING),
        Trail(consent.events.append),
        consent.terms,
        clock=lambda: NOW,
        kick=lambda: None,
    )
    batch = pb.BatchCheckAccessRequest(requests=[check_request(dossier, nurse)])
    call = consent.call("BatchCheckAccess", nurse, 0)

    async def decision() -> pb.Decision:
        return (await replica.servicer.BatchCheckAccess(batch, call)).results[0].decision

    assert (await decision()).permitted
    version = await replace(consent, await without_reading(consent))
    assert version.version == 1
    for decided in (await decision(), await consent.check(dossier, nurse)):
        assert (decided.reason, decided.rights_version) == (reasons.ERROR_REASON_RIGHT_DENIED, 1)
    await replica.close()


async def test_a_decision_of_before_is_made_again_by_the_tables_of_then(consent: Consent) -> None:
    dossier = await consent.open()
    nurse = professional(NURSE, "60")
    await consent.grant(dossier, nurse)
    then = await consent.check(dossier, nurse)
    consent.now[0] = NOW + timedelta(days=1)
    await replace(consent, await without_reading(consent))
    again = await explain(consent, dossier, patient(dossier), party=party(NURSE, "60"), as_of_epoch=then.epoch)
    assert again.decision == then
    assert not (await consent.check(dossier, nurse)).permitted


async def test_of_two_replacements_at_once_one_is_refused_and_a_repeated_one_is_the_same(consent: Consent) -> None:
    tables = await without_reading(consent)
    ends = await asyncio.gather(*(replace(consent, tables) for _ in range(4)), return_exceptions=True)
    assert [end.reason_name for end in ends if isinstance(end, DmpError)] == ["CONCURRENT_CHANGE"] * 3
    first = await replace(consent, tables, 1, "rights-request")
    assert await replace(consent, tables, 1, "rights-request") == first
    request = rights_pb2.ListRightsVersionsRequest(page_size=1)
    page = await consent.do("ListRightsVersions", request, operator(), 0)
    assert [version.version for version in page.versions] == [2]
    rest = rights_pb2.ListRightsVersionsRequest(page_token=page.next_page_token)
    assert [v.version for v in (await consent.do("ListRightsVersions", rest, operator(), 0)).versions] == [1, 0]
    assert (await get(consent, 1)).version.comment == "as decided"


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("TD3.2,read_not_masked,other_professional/normal,perhaps,found\n", "functional_rights.csv"),
        ("TD3.2,read_notmasked,other_professional/normal,yes,found\n", "functional_rights.csv"),
        ("TD3.2,read_not_masked,other_profesional/normal,yes,found\n", "functional_rights.csv"),
    ],
)
async def test_tables_that_are_not_understood_are_refused_with_their_line(
    consent: Consent, line: str, place: str
) -> None:
    tables = (await get(consent)).tables
    tables.functional_rights_csv += line
    with pytest.raises(DmpError) as caught:
        await replace(consent, tables)
    assert caught.value.reason == reasons.ERROR_REASON_RIGHTS_TABLE_INVALID
    assert place in caught.value.fields[0].description


async def test_only_an_operator_replaces_the_tables(consent: Consent) -> None:
    request = rights_pb2.ReplaceRightsRequest(tables=await without_reading(consent), comment="mine")
    with refused(reasons.ERROR_REASON_RIGHT_DENIED):
        await consent.do("ReplaceRights", request, professional(), 0)
