"""An entry by break-glass on the running platform: who is written to, and what the mails and the notices say."""

from __future__ import annotations

from typing import Final

import pytest

from dmp.audit.v1 import notice_pb2
from dmp.identity.v1 import directory_pb2
from ops.demo_platform import person_message
from ops.local.registrations import OPERATOR
from ops.session import Statement
from services.runtime.identifiers import dossier_name
from tests.platform_fixture import Platform, eventually, lines_of
from tests.platform_people import Caregiver, needles

pytestmark = pytest.mark.asyncio(loop_scope="session")

REASON: Final = "retrouvé inconscient sur la voie publique"


async def enter_directory(platform: Platform, addresses: dict[Caregiver, str]) -> None:
    rows = [
        directory_pb2.DirectoryRow(
            row=number,
            practitioner=directory_pb2.Practitioner(
                idnps=physician.idnps,
                family_name=physician.family,
                given_name=physician.given,
                profession=physician.profession_code,
                active=True,
                email=address,
            ),
        )
        for number, ((physician, _), address) in enumerate(addresses.items(), 1)
    ]
    who = Statement.of(OPERATOR, actor="operator", subject="operator-1")
    request = directory_pb2.ImportDirectoryRequest(
        import_id="break-glass-notices", request_id=platform.request_id(), rows=rows
    )
    answer = await platform.session.call(
        "identity", "ImportDirectory", request, directory_pb2.ImportDirectoryResponse, who
    )
    assert not answer.findings


async def test_break_glass_is_told_by_mail_to_the_patient_and_to_the_attending_physicians_who_may_enter(
    platform: Platform,
) -> None:
    person, attending, second, shut_out, stranger = platform.person(), *(platform.caregiver() for _ in range(4))
    addresses = {attending: "mt-a@mssante.test", second: "mt-b@mssante.test", shut_out: "mt-c@mssante.test"}
    await enter_directory(platform, addresses)
    message = person_message(person)
    message.contact.email = "notices@patient.test"
    acts = platform.acts(attending.statement())
    health_id = await acts.register(message)
    await acts.open(health_id)
    for physician in addresses:
        await platform.acts(physician.statement()).authorise(health_id, attending_physician=True)
    await platform.block(health_id, shut_out)
    glass = platform.acts(stranger.statement(access_mode="break_glass", break_glass_reason=REASON))
    for _ in range(3):
        await glass.search(health_id)

    told = {"notices@patient.test", "mt-a@mssante.test", "mt-b@mssante.test"}

    async def recipients() -> list[str]:
        return [to for to in platform.mailbox.recipients if to in told or to in addresses.values()]

    assert await eventually(recipients, lambda seen: set(seen) == told, seconds=20) == sorted(told)
    mails = platform.mailbox.mails()
    secrets = [needle.text.casefold() for needle in needles(person)]
    secrets += [stranger.professional.family.casefold(), stranger.structure.name.casefold(), REASON.casefold()]
    for to in told:
        text = f"{mails[to]['Subject']} {mails[to].get_content()}".casefold()
        assert "un avis" in text
        assert ("médecin traitant" in text) == (to != "notices@patient.test")
        assert [secret for secret in secrets if secret in text] == []

    request = notice_pb2.ListNoticesRequest(parent=dossier_name(health_id))
    listed = await platform.session.call(
        "audit", "ListNotices", request, notice_pb2.ListNoticesResponse, Statement.patient(health_id)
    )
    (notice,) = listed.notices
    assert REASON in notice.text
    assert stranger.professional.family in notice.text
    assert len(notice.events) == 3, "one episode is one notice"
    told_in_clear = [line for _, line in lines_of(platform.state) if any(each.encode() in line for each in told)]
    assert told_in_clear == [], "no log holds an address"
