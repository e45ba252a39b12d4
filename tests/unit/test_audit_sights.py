"""Which actions show somebody what is in a dossier: every one that a carer can take is classed, none is forgotten."""

from __future__ import annotations

import csv
from importlib.resources import files

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2, context_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.gateway.v1 import denial_pb2, partner_pb2, relay_pb2
from dmp.identity.v1 import identity_pb2
from services.audit.sights import classes, gives_sight
from services.runtime.access import methods_of
from tests.audit_questions import happened

_CARERS = {access_pb2.CALLER_KIND_INTERNAL, access_pb2.CALLER_KIND_PARTNER}
_CONTRACTS = (
    identity_pb2, consent_pb2, rights_pb2, document_pb2, clinical_pb2, audit_pb2, partner_pb2, denial_pb2, relay_pb2,
)  # fmt: skip
METHODS = methods_of(service for file in _CONTRACTS for service in file.DESCRIPTOR.services_by_name.values())


def test_every_action_that_a_carer_can_take_is_classed_and_no_other() -> None:
    theirs = {method.audit_action for method in METHODS.values() if _CARERS & set(method.callers)}
    assert classes().keys() == theirs, "say in services/audit/sights.csv whether it shows what is in a dossier"


def test_what_reads_documents_gives_sight_but_for_what_those_who_feed_may_ask() -> None:
    reading = {m.audit_action for m in METHODS.values() if m.transaction in ("TD3.1", "TD3.2") and not m.mutation}
    assert reading == {action for action, sight in classes().items() if sight} | {"document.resolve"}


def test_each_class_says_why() -> None:
    rows = list(csv.DictReader((files("services.audit") / "sights.csv").read_text("utf-8").splitlines()))
    assert all(row["because"] for row in rows)
    assert len({row["action"] for row in rows}) == len(rows)


def test_only_what_a_carer_was_shown_counts() -> None:
    assert gives_sight(happened("clinical.summaries"))
    assert not gives_sight(happened("dossier.check"))
    assert not gives_sight(happened("clinical.summaries", reason=1))
    own = happened("document.read")
    own.actor.actor_kind = context_pb2.ACTOR_KIND_PATIENT
    assert not gives_sight(own)
