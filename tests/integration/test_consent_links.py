"""Dossiers of one person: what shuts out of one shuts out of all, authorisations hold where they were given."""

from __future__ import annotations

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.links_pb2 import LinkedSet
from services.runtime.links import apply_links
from services.runtime.postgres import transaction
from tests.consent_service import Consent, grantee_of


async def told(consent: Consent, revision: int, *sets: tuple[int, ...]) -> None:
    async with transaction(consent.pool) as conn:
        await apply_links(conn, [LinkedSet(health_ids=members, revision=revision) for members in sets])


async def reason(consent: Consent, health_id: int) -> int:
    return int((await consent.check(health_id)).reason)


async def test_a_block_on_one_dossier_of_a_person_holds_on_all_while_they_are_linked(consent: Consent) -> None:
    one, other = await consent.open(), await consent.open()
    for dossier in (one, other):
        await consent.grant(dossier)
    await consent.block(other, grantee_of())
    assert (await consent.check(one)).permitted
    await told(consent, 1, (one, other))
    assert await reason(consent, one) == reasons.ERROR_REASON_BLOCKED
    assert await reason(consent, other) == reasons.ERROR_REASON_BLOCKED
    await told(consent, 2, (one,), (other,))
    assert (await consent.check(one)).permitted
    await told(consent, 1, (one, other))  # late, and older than what is known
    assert (await consent.check(one)).permitted


async def test_an_authorisation_holds_on_the_dossier_that_it_was_given_for(consent: Consent) -> None:
    one, other = await consent.open(), await consent.open()
    await consent.grant(other)
    await told(consent, 1, (one, other))
    assert (await consent.check(other)).permitted
    assert await reason(consent, one) == reasons.ERROR_REASON_AUTHORIZATION_MISSING
