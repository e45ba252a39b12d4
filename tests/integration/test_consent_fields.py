"""No field of a check is ignored: changing one, and only one, changes a decision, alone or beside the other in a batch.

The family of faults that published vulnerabilities of such engines come from: a cache or a batch whose key leaves
something out. Fields that a decision must not depend on are listed, with why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from dmp.common.v1 import context_pb2
from dmp.consent.v1 import consent_pb2 as pb
from services.runtime.identifiers import new_health_id
from tests.consent_service import (
    BREAK_GLASS,
    OTHER_STRUCTURE,
    STRUCTURE,
    Consent,
    certificate,
    check_request,
    operator,
    patient,
    professional,
    representative,
)
from tests.integration.test_consent_representatives import register

NEUTRAL = {
    "context.request_id": "names the call, for the trail",
    "context.timeout_ms": "bounds the wait, not the answer",
    "context.traceparent": "names the trace",
    "context.actor.subject_name": "a name is no identity",
    "context.actor.structure_name": "a name is no identity",
    "context.actor.specialty": "no rule of the tables asks for it",
    "context.actor.software.id": "software is approved at the gateway",
    "context.actor.software.name": "software is approved at the gateway",
    "context.actor.software.version": "software is approved at the gateway",
    "context.actor.software.approval_number": "software is approved at the gateway",
    "context.actor.client_id": "clients are bounded at the gateway",
    "context.actor.sandbox": "confined where calls come in",
    "context.actor.caller": "the method's option says which callers may call",
}
LOW = "11488-4"
_STRONG = context_pb2.AUTHENTICATION_MODE_INDIRECT

Change = tuple[pb.CheckAccessRequest, Any]


def paths(message: Descriptor, above: str = "") -> Iterator[str]:
    """Every leaf of a check."""
    for field in message.fields:
        path = f"{above}{field.name}"
        if field.message_type is None:
            yield path
        else:
            yield from paths(field.message_type, f"{path}.")


class Scene:
    """Dossiers on which each field makes a difference."""

    def __init__(self, mine: int, through_structure: int, foreign: int, mother: int) -> None:
        self.mine, self.through_structure, self.foreign, self.mother = mine, through_structure, foreign, mother

    @classmethod
    async def set(cls, consent: Consent) -> Scene:
        mine, through_structure, foreign = [await consent.open() for _ in range(3)]
        await consent.grant(mine)
        staff = context_pb2.ActingContext(
            actor_kind=context_pb2.ACTOR_KIND_STRUCTURE_STAFF, subject="staff", structure=STRUCTURE
        )
        await consent.grant(through_structure, staff)
        mother = new_health_id()
        await register(consent, mine, mother, operator())
        return cls(mine, through_structure, foreign, mother)

    def changes(self) -> dict[str, Change]:
        """For each field: a check, and the value that changes its decision."""
        mine = professional(structure="")
        work = professional("899700000777", structure=STRUCTURE)
        occupational = professional(structure="", occupational=True)
        bound = professional(structure="", patient=self.mine)
        own, mother = patient(self.mine), representative(self.mother, self.mine)
        broke = professional("899700000777", mode=BREAK_GLASS, structure="")
        read, search, delete = pb.ACTION_READ, pb.ACTION_SEARCH, pb.ACTION_DELETE
        actor = "context.actor."
        return {
            "health_id": (check_request(self.mine, mine), self.foreign),
            "action": (check_request(self.mine, occupational, search), read),
            f"{actor}actor_kind": (check_request(self.mine, mine), context_pb2.ACTOR_KIND_SYSTEM),
            f"{actor}subject": (check_request(self.mine, mine), "899700000777"),
            f"{actor}profession": (check_request(self.mine, mine), "21"),
            f"{actor}structure": (check_request(self.through_structure, work), OTHER_STRUCTURE),
            f"{actor}authentication_mode": (check_request(self.through_structure, work), _STRONG),
            f"{actor}access_mode": (check_request(self.mine, work), context_pb2.ACCESS_MODE_REGULATION),
            f"{actor}break_glass_reason": (check_request(self.mine, broke), ""),
            f"{actor}purpose_of_use": (check_request(self.mine, mine), "COVERAGE"),
            f"{actor}patient_health_id": (check_request(self.mine, bound), self.foreign),
            f"{actor}secret_connection": (check_request(self.mine, mine), True),
            f"{actor}occupational_physician": (check_request(self.mine, mine), True),
            f"{actor}takes_over_host": (check_request(self.mine, mine), "1.2.3.4.5"),
            "document.type_code": (self._about(mine, read), "ATTEST-RESID"),
            "document.masked": (self._about(mine, read), True),
            "document.invisible_to_patient": (self._about(own, read), True),
            "document.hidden_from_representatives": (self._about(mother, read), True),
            "document.authored_by_caller": (self._about(mine, delete), True),
            "document.authored_by_structure": (self._about(certificate(), delete), True),
            "document.archived": (self._about(occupational, search), True),
            "document.deprecated": (self._about(occupational, search), True),
            "document.deleted": (self._about(mine, read), True),
        }

    def _about(self, actor: context_pb2.ActingContext, action: pb.Action.ValueType) -> pb.CheckAccessRequest:
        request = check_request(self.mine, actor, action)
        request.document.type_code = LOW
        return request


def changed(request: pb.CheckAccessRequest, path: str, value: Any) -> pb.CheckAccessRequest:
    """The same check with another value in one field."""
    other = pb.CheckAccessRequest()
    other.CopyFrom(request)
    target: Any = other
    *above, name = path.split(".")
    for each in above:
        target = getattr(target, each)
    setattr(target, name, value)
    return other


FIELDS = sorted(set(paths(pb.CheckAccessRequest.DESCRIPTOR)) - set(NEUTRAL))


def test_every_field_is_tried_or_named_as_one_that_nothing_depends_on() -> None:
    nowhere = {path for path in NEUTRAL if path not in set(paths(pb.CheckAccessRequest.DESCRIPTOR))}
    assert nowhere == set()
    assert set(FIELDS) == set(Scene(1, 2, 3, 4).changes())


async def test_changing_one_field_changes_the_decision_alone_and_side_by_side(consent: Consent) -> None:
    changes = (await Scene.set(consent)).changes()
    pairs = [(request, changed(request, path, value)) for path, (request, value) in changes.items()]
    alone = [
        [(await consent.batch([each])).results[0].SerializeToString(deterministic=True) for each in pair]
        for pair in pairs
    ]
    for path, (first, second) in zip(changes, alone, strict=True):
        assert first != second, f"{path} makes no difference"
    together = await consent.batch([each for pair in pairs for each in pair])
    side_by_side = [result.SerializeToString(deterministic=True) for result in together.results]
    assert side_by_side == [each for pair in alone for each in pair]


@pytest.mark.parametrize("path", [path for path in NEUTRAL if not path.endswith(("timeout_ms", ".caller", ".sandbox"))])
async def test_what_nothing_depends_on_changes_nothing(consent: Consent, path: str) -> None:
    dossier = await consent.open()
    await consent.grant(dossier)
    request = check_request(dossier, professional())
    other = changed(request, path, "another")
    results = (await consent.batch([request, other])).results
    assert results[0] == results[1]
    assert results[0].decision.permitted
