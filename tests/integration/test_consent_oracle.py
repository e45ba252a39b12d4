"""One oracle: a naive re-computation from what happened agrees with every answer, on random histories and replicas.

check, batch, explain, the lists, and the same decisions asked again at their epochs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.mapping import write_time
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name, new_health_id, person_name
from tests.consent_callers import acting
from tests.consent_oracle import ACTIONS, Memory, Paper, Who, accessible, answer, may_list_by_document, row_of
from tests.consent_replicas import Replicas
from tests.consent_service import (
    NOW,
    Consent,
    check_request,
    consent_record,
    migrated,
    operator,
    patient,
    professional,
    staff,
)
from tests.faults.campaign import Budget, amount, publish

T = TypeVar("T")
EXAMPLES, STEPS = amount(40, 4_000), amount(30, 60)
_AT_ONCE = 50
_PEOPLE = (
    ("physician", "899700000011", "1750000011"),
    ("physician", "899700000012", "1750000012"),
    ("nurse", "899700000013", "1750000011"),
    ("pharmacist", "899700000014", "1750000014"),
)
_MOTHER = new_health_id()
SERVICE = ActingContext()

professionals = st.builds(
    lambda person, mode: Who(person[0], person[1], person[2], mode),
    st.sampled_from(_PEOPLE),
    st.sampled_from(["normal", "break_glass", "regulation"]),
)
callers = st.one_of(
    professionals,
    st.just(Who("staff", structure="1750000011")),
    st.sampled_from([Who("certificate", "899700000012", "1750000012", mode) for mode in ("normal", "regulation")]),
    st.just(Who("patient")),
    st.just(Who("representative", person=_MOTHER)),
)
EVERYONE = (
    *(Who(*person, mode) for person in _PEOPLE for mode in ("normal", "break_glass", "regulation")),
    Who("staff", structure="1750000011"),
    Who("certificate", "899700000012", "1750000012"),
    Who("patient"),
    Who("representative", person=_MOTHER),
)
papers = st.one_of(
    st.none(),
    st.builds(
        Paper,
        st.sampled_from(["11488-4", "34842-5", "ATTEST-RESID", "83901-9", "DOCPAT_1"]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
)


class Histories(RuleBasedStateMachine):
    """One dossier, three replicas of the service, and a memory of what happened."""

    shared: Replicas
    histories = 0
    compared = 0

    def __init__(self) -> None:
        super().__init__()
        self.shared.begin()
        Histories.histories += 1
        self.clock = self.shared.clock
        self.replicas = self.shared.services
        self.dossier = new_health_id()
        self.memory = Memory()
        self.asked: list[tuple[pb.CheckAccessRequest, pb.Decision, datetime]] = []
        self.turn = itertools.count()
        self.swept: tuple[int, datetime] = (0, NOW)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.shared.loop.run_until_complete(work)

    def _replica(self) -> Consent:
        return self.replicas[next(self.turn) % len(self.replicas)]

    # --- what is done -------------------------------------------------------------------------------------------------

    def _do(self, method: str, request: Any, actor: ActingContext) -> str:
        """The name of the refusal, empty if it was done."""
        try:
            self._run(self._replica().do(method, request, actor, self.dossier))
        except DmpError as error:
            return error.reason_name
        return ""

    @initialize()
    def open(self) -> None:
        request = pb.OpenDossierRequest(name=self._name, consent=consent_record())
        assert self._do("OpenDossier", request, professional("899700000099")) == ""
        self.memory.add(self.clock[0], "open")

    @rule(whom=st.sampled_from(_PEOPLE), mt=st.booleans())
    def declare(self, whom: tuple[str, str, str], mt: bool) -> None:
        who = Who(*whom)
        mt = mt and who.kind == "physician"
        request = pb.GrantAuthorizationRequest(parent=self._name, patient_consented=True, attending_physician=mt)
        refused = self._do("GrantAuthorization", request, self._acting(who))
        until = self.memory.until(who.id)
        if any(self.memory.blocked(each) for each in (who.id, who.structure)):
            assert refused == "BLOCKED"
        elif self.memory.state() == "close":
            assert refused == "DOSSIER_CLOSED"
        elif until is not None and until > self.clock[0]:
            assert refused == "AUTHORIZATION_EXISTS"
        else:
            assert refused == ""
            self.memory.add(self.clock[0], "grant", who.id, mt)

    @rule()
    def staff_declares(self) -> None:
        request = pb.GrantAuthorizationRequest(parent=self._name, patient_consented=True)
        if self._do("GrantAuthorization", request, staff("1750000011")) == "":
            self.memory.add(self.clock[0], "grant", "1750000011", False)

    @rule(whom=st.sampled_from(_PEOPLE))
    def leave_role(self, whom: tuple[str, str, str]) -> None:
        who = Who(*whom)
        request = pb.RemoveAttendingPhysicianRequest(parent=self._name)
        if self._do("RemoveAttendingPhysician", request, self._acting(who)) == "":
            assert self.memory.is_mt(who.id, self.clock[0])
            self.memory.add(self.clock[0], "leave", who.id)

    @rule(
        whom=st.sampled_from([*(person[1:] for person in _PEOPLE)]),
        what=st.sampled_from(["Revoke", "Block", "Unblock"]),
        structure=st.booleans(),
    )
    def patient_decides(self, whom: tuple[str, str], what: str, structure: bool) -> None:
        identifier = whom[1] if structure else whom[0]
        kind = pb.GRANTEE_KIND_STRUCTURE if structure else pb.GRANTEE_KIND_PROFESSIONAL
        method = "RevokeAuthorization" if what == "Revoke" else f"{what}Professional"
        request = getattr(pb, f"{method}Request")(parent=self._name, grantee=pb.Grantee(kind=kind, id=identifier))
        before = self._epoch()
        refused = self._do(method, request, patient(self.dossier))
        if self.memory.state() == "close":
            assert refused == "DOSSIER_CLOSED"
        elif self._epoch() > before:
            self.memory.add(self.clock[0], what.lower(), identifier)

    @rule(name=st.sampled_from(["break_glass", "regulation", "masked"]), value=st.booleans())
    def prefer(self, name: str, value: bool) -> None:
        fields = {
            "break_glass": "break_glass_opposed",
            "regulation": "regulation_opposed",
            "masked": "masked_shown_in_emergency",
        }
        request = pb.UpdatePreferencesRequest(name=self._name, **{fields[name]: value})  # type: ignore[arg-type]
        before = self._epoch()
        self._do("UpdatePreferences", request, patient(self.dossier))
        if self._epoch() > before:
            self.memory.add(self.clock[0], "prefer", name, value)

    @rule(days=st.integers(1, 900), ending=st.booleans())
    def represent(self, days: int, ending: bool) -> None:
        if ending:
            end = pb.EndRepresentationRequest(parent=self._name, person=person_name(_MOTHER))
            if self._do("EndRepresentation", end, operator()) == "":
                self.memory.add(self.clock[0], "end", _MOTHER)
            return
        until = self.clock[0] + timedelta(days=days)
        request = pb.RegisterRepresentativeRequest(
            parent=self._name,
            person=person_name(_MOTHER),
            kind=pb.REPRESENTATION_KIND_PARENT,
            end_time=write_time(until),
            documents_seen=True,
        )
        if self._do("RegisterRepresentative", request, operator()) == "":
            self.memory.add(self.clock[0], "represent", _MOTHER, until)

    @rule()
    @precondition(lambda self: self.memory.epoch > 6)
    def close_or_reopen(self) -> None:
        if self.memory.state() == "open":
            request: Any = pb.CloseDossierRequest(name=self._name, reason=pb.CLOSE_REASON_PATIENT_REQUEST)
            assert self._do("CloseDossier", request, patient(self.dossier)) == ""
            self.memory.add(self.clock[0], "close")
        else:
            request = pb.ReopenDossierRequest(name=self._name, consent=consent_record(self.clock[0]))
            assert self._do("ReopenDossier", request, patient(self.dossier)) == ""
            self.memory.add(self.clock[0], "open")

    @rule(days=st.integers(1, 200))
    def wait(self, days: int) -> None:
        self.clock[0] += timedelta(days=days)

    # --- what is asked ------------------------------------------------------------------------------------------------

    @rule(asked=st.lists(st.tuples(callers, st.sampled_from(ACTIONS), papers), min_size=1, max_size=8))
    def check(self, asked: list[tuple[Who, str, Paper | None]]) -> None:
        requests = [self._check(*each) for each in asked]
        results = self._run(self._replica().batch(requests)).results
        assert len(results) == len(asked)
        Histories.compared += len(results)
        for (who, action, paper), request, result in zip(asked, requests, results, strict=True):
            told = answer(self.memory, who, action, self.clock[0], paper)
            decision = result.decision
            assert self._reason(decision) == told.reason, (who, action, paper)
            assert decision.epoch == self.memory.epoch
            if decision.permitted:
                assert pb.MaskedView.Name(decision.filter.masked) == f"MASKED_VIEW_{told.masked}"
                assert tuple(decision.filter.denied_type_codes) == told.denied
            self.asked.append((request, decision, self.clock[0]))

    @rule(who=professionals, action=st.sampled_from(ACTIONS), paper=papers)
    def explain(self, who: Who, action: str, paper: Paper | None) -> None:
        request = self._explanation(self._check(who, action, paper))
        told = answer(self.memory, who, action, self.clock[0], paper)
        response = self._run(self._replica().do("ExplainAccess", request, operator(), self.dossier))
        assert self._reason(response.decision) == told.reason
        refusing = [rule for rule in response.rules if rule.outcome == pb.RULE_OUTCOME_REFUSED]
        assert bool(refusing) == bool(told.reason)

    @rule(whom=st.sampled_from(_PEOPLE))
    def lists(self, whom: tuple[str, str, str]) -> None:
        who = Who(*whom)
        page = self._run(self._replica().do("ListAccessible", pb.ListAccessibleRequest(), self._acting(who), 0))
        listed = [each.name for each in page.dossiers] == [self._name]
        assert listed == accessible(self.memory, who, self.clock[0])
        self._named_to_document(who)
        if self.memory.state() != "open":
            return
        page = self._run(
            self._replica().do(
                "ListAuthorizations",
                pb.ListAuthorizationsRequest(parent=self._name),
                patient(self.dossier),
                self.dossier,
            )
        )
        states = {each.grantee.id: each.state for each in page.standings}
        for identifier in {each for person in _PEOPLE for each in person[1:]}:
            until = self.memory.until(identifier)
            expected = (
                pb.AUTHORIZATION_STATE_FORBIDDEN
                if self.memory.blocked(identifier)
                else None
                if until is None
                else pb.AUTHORIZATION_STATE_VALID
                if until > self.clock[0]
                else pb.AUTHORIZATION_STATE_EXPIRED
            )
            assert states.get(identifier) == expected

    def _named_to_document(self, who: Who) -> None:
        """Where document looks (TD0.4 by last document): everywhere that the list may show, whatever it then shows."""
        context = self._check(who, "SEARCH_HELD", None).context
        held = self._run(
            self._replica().do("ListHeldDossiers", pb.ListHeldDossiersRequest(context=context), SERVICE, 0)
        )
        assert held.decision.permitted == may_list_by_document(row_of(Memory(), who, self.clock[0]))
        named = [each.health_id for each in held.held]
        assert named == [self.dossier] if accessible(self.memory, who, self.clock[0]) else named in ([], [self.dossier])

    @rule(choice=st.integers(0, 1 << 20))
    @precondition(lambda self: bool(self.asked))
    def ask_again_of_the_past(self, choice: int) -> None:
        request, then, at = self.asked[choice % len(self.asked)]
        kind = request.context.actor.actor_kind
        if kind == context_pb2.ACTOR_KIND_STRUCTURE:
            return
        again = self._explanation(request)
        again.as_of_epoch = then.epoch
        again.as_of_time.CopyFrom(write_time(at))
        response = self._run(self._replica().do("ExplainAccess", again, operator(), self.dossier))
        assert response.decision == then

    @invariant()
    def the_epoch_counts_what_happened(self) -> None:
        if self.memory.epoch:
            assert self._epoch() == self.memory.epoch

    @invariant()
    def after_each_change_everyone_is_told_right(self) -> None:
        """The next replica in turn, asked about everybody at once, as soon as anything has changed."""
        state = self.memory.epoch, self.clock[0]
        if state == self.swept or not self.memory.epoch:
            return
        self.swept = state
        requests = [self._check(who, "READ", None) for who in EVERYONE]
        results = self._run(self._replica().batch(requests)).results
        Histories.compared += len(results)
        for who, result in zip(EVERYONE, results, strict=True):
            told = answer(self.memory, who, "READ", self.clock[0])
            assert self._reason(result.decision) == told.reason, who
            if result.decision.permitted:
                assert pb.MaskedView.Name(result.decision.filter.masked) == f"MASKED_VIEW_{told.masked}", who

    # --- helpers ------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return dossier_name(self.dossier)

    def _epoch(self) -> int:
        epoch: int = self._run(
            self.replicas[0].pool.fetchval("SELECT epoch FROM dossier WHERE health_id = $1", self.dossier)
        )
        return epoch

    def _acting(self, who: Who) -> ActingContext:
        return acting(who, self.dossier)

    def _check(self, who: Who, action: str, paper: Paper | None) -> pb.CheckAccessRequest:
        request = check_request(self.dossier, self._acting(who), pb.Action.Value(f"ACTION_{action}"))
        if paper is not None:
            request.document.CopyFrom(
                pb.DocumentAttributes(
                    type_code=paper.type_code,
                    masked=paper.masked,
                    invisible_to_patient=paper.unseen,
                    hidden_from_representatives=paper.from_parents,
                    authored_by_caller=paper.mine,
                )
            )
        return request

    def _explanation(self, check: pb.CheckAccessRequest) -> pb.ExplainAccessRequest:
        actor = check.context.actor
        party = pb.ExplainedParty(
            kind=actor.actor_kind,
            subject=actor.subject,
            profession=actor.profession,
            structure=actor.structure,
            authentication_mode=actor.authentication_mode,
            access_mode=actor.access_mode,
        )
        request = pb.ExplainAccessRequest(name=self._name, party=party, action=check.action)
        if check.HasField("document"):
            request.document.CopyFrom(check.document)
        return request

    @staticmethod
    def _reason(decision: pb.Decision) -> str:
        name = reasons.ErrorReason.Name(decision.reason).removeprefix("ERROR_REASON_")
        return "" if decision.permitted else name


@pytest.mark.timeout(3600)
def test_a_naive_re_computation_agrees_with_every_answer(postgres_url: Callable[[], str]) -> None:
    Histories.shared, budget = Replicas(migrated(postgres_url())), Budget()
    try:
        while Histories.histories < EXAMPLES and budget.left > 0:
            run_state_machine_as_test(
                Histories,
                settings=settings(
                    max_examples=min(EXAMPLES, _AT_ONCE),
                    stateful_step_count=STEPS,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            counts = {"histories": Histories.histories, "of": EXAMPLES, "decisions compared": Histories.compared}
            publish("oracle", {**counts, "wrong": 0})
    finally:
        Histories.shared.stop()
