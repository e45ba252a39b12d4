"""The list by last document (TD0.4) over FHIR is what a look at every document of every dossier would give."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from tests.consent_callers import acting
from tests.consent_oracle import Who, answer
from tests.faults.campaign import amount
from tests.integration.test_platform_rights import MODES, PEOPLE, Dossier
from tests.platform_calls import outcome_reason
from tests.platform_fixture import Platform
from tests.platform_statements import statement

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Recent:
    """Several dossiers whose documents came in one order, and the list by last document that each caller should get."""

    def __init__(self, dossiers: Sequence[Dossier], ids: Sequence[str]) -> None:
        self._dossiers = dict(zip(ids, dossiers, strict=True))
        self._came: dict[str, int] = {}

    async def feed(self, dossier: Dossier) -> None:
        """One more document, the newest of all."""
        before = set(dossier.papers)
        await dossier.feed(1)
        (unique_id,) = set(dossier.papers) - before
        self._came[unique_id] = len(self._came)

    def expected(self, who: Who) -> list[str]:
        """By looking at every document of every dossier."""
        now = datetime.now(UTC)
        newest = {
            id_: [
                self._came[unique_id]
                for unique_id in dossier.papers
                if not answer(dossier.memory, who, "SEARCH_HELD", now, dossier.paper(unique_id, who)).reason
            ]
            for id_, dossier in self._dossiers.items()
        }
        return sorted((id_ for id_, came in newest.items() if came), key=lambda id_: -max(newest[id_]))

    async def told(self, platform: Platform, who: Who) -> list[str]:
        """By the gateway, page by page; of other tests' dossiers nothing is expected."""
        said, listed = statement(acting(who, 0)), []
        response = await platform.get("/Patient/$dossier-accessible", said, order="document", _count="2")
        while True:
            assert response.status_code == 200, response.text
            page = response.json()
            listed += [entry["resource"]["id"] for entry in page.get("entry", [])]
            following = [link["url"] for link in page["link"] if link["relation"] == "next"]
            if not following:
                return [id_ for id_ in listed if id_ in self._dossiers]
            response = await platform.get(following[0], said)


@pytest.mark.timeout(3600)
async def test_a_list_by_last_document_is_what_a_look_at_every_document_would_give(platform: Platform) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)
    dossiers, ids = [], []
    for _ in range(4):
        known = await platform.registered()
        await known.acts.open(known.health_id)
        dossiers.append(Dossier(platform, known, chance))
        dossiers[-1].memory.add(datetime.now(UTC), "open")
        await dossiers[-1].authorise(Who(*PEOPLE[0]), mt=chance.random() < 0.5)
        found = (await dossiers[-1].get("/Patient", Who(*PEOPLE[0]), identifier=known.identifier)).json()
        ids.append(found["entry"][0]["resource"]["id"])
    recent = Recent(dossiers, ids)
    for _ in range(amount(3, 60)):
        for _ in range(4):
            await recent.feed(chance.choice(dossiers))
            await chance.choice(dossiers).something()
        for person in PEOPLE:
            who = Who(*person, chance.choice(MODES))
            assert await recent.told(platform, who) == recent.expected(who), (seed, who)
    for shut_out in (Who("staff", structure=PEOPLE[0][2]), Who("certificate", *PEOPLE[0][1:])):
        said = statement(acting(shut_out, 0))
        response = await platform.get("/Patient/$dossier-accessible", said, order="document")
        assert (response.status_code, outcome_reason(response.json())) == (403, "RIGHT_DENIED"), shut_out
