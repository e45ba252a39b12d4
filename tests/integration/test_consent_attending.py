"""Who the attending physicians (MT) of a dossier are, for the service that has a notice for them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dmp.common.v1 import access_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.runtime.errors import DmpError
from tests.consent_service import YEAR, Consent, grantee_of, professional

OTHER = "899700000020"


async def attending(consent: Consent, *dossiers: int, peer: str = "audit") -> list[list[str]]:
    request = pb.BatchListAttendingPhysiciansRequest(health_ids=dossiers)
    call = consent.call("BatchListAttendingPhysicians", ActingContext(), 0)
    call = call._replace(peer=peer, caller=access_pb2.CALLER_KIND_SERVICE)
    answer = await consent.servicer.BatchListAttendingPhysicians(request, call)
    return [list(each.idnps) for each in answer.results]


async def test_those_whose_role_is_valid_and_whom_the_patient_has_not_shut_out_are_named(consent: Consent) -> None:
    first, second, nobody = [await consent.open() for _ in range(3)]
    await consent.grant(first, professional(), attending=True)
    await consent.grant(first, professional(subject=OTHER), attending=True)
    await consent.grant(second, professional())
    mine = professional().subject
    assert await attending(consent, first, second, nobody) == [[OTHER, mine] if mine > OTHER else [mine, OTHER], [], []]
    await consent.block(first, grantee_of(OTHER))
    assert await attending(consent, nobody, first) == [[], [mine]]
    consent.now[0] += YEAR + timedelta(hours=1)
    assert await attending(consent, first) == [[]]


@pytest.mark.parametrize("peer", ["document", "identity", "gateway"])
async def test_nobody_else_may_ask(consent: Consent, peer: str) -> None:
    with pytest.raises(DmpError) as refused:
        await attending(consent, await consent.open(), peer=peer)
    assert refused.value.reason == reasons.ERROR_REASON_CALLER_NOT_ALLOWED
