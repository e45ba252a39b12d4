"""Access rules, stated one by one. Every cell of the tables is in `test_consent_matrix`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import read_actor
from services.consent.decision import Case, Decision, decide
from services.consent.standing import standing
from services.consent.values import DossierState, Facts, Representation, RepresentationKind
from tests.consent_callers import DOSSIER, OTHER, callers
from tests.consent_service import NOW, RIGHTS, STRUCTURE, patient, professional, representative, staff, taking_over

NORMAL = context_pb2.ACCESS_MODE_NORMAL
BREAK_GLASS = context_pb2.ACCESS_MODE_BREAK_GLASS
REGULATION = context_pb2.ACCESS_MODE_REGULATION

MOTHER = Representation(OTHER, RepresentationKind.PARENT, NOW - timedelta(days=1), NOW + timedelta(days=1))
AUTHORISED = Facts(
    state=DossierState.OPEN,
    epoch=7,
    break_glass_opposed=False,
    regulation_opposed=False,
    masked_in_emergency=False,
    blocked=False,
    professional_until=NOW + timedelta(days=1),
    attending_physician=False,
    structure_until=None,
    representation=MOTHER,
    home_host="national",
)
STRANGER = replace(AUTHORISED, professional_until=None)
ATTENDING = replace(AUTHORISED, attending_physician=True)

CONTEXTS = sorted(callers())


def decision(context: ActingContext, action: int = pb.ACTION_READ, facts: Facts | None = AUTHORISED) -> Decision:
    return decide(Case(read_actor(context), action, DOSSIER, facts, RIGHTS, NOW))


def caller(context: str) -> ActingContext:
    return callers()[context]


def reason_of(context: ActingContext, action: int = pb.ACTION_READ, facts: Facts | None = AUTHORISED) -> int | None:
    return decision(context, action, facts).reason


# --- the rules, one by one --------------------------------------------------------------------------------------------


def test_without_a_dossier_there_is_nothing_to_permit() -> None:
    assert reason_of(professional(), facts=None) == reasons.ERROR_REASON_DOSSIER_NOT_FOUND
    assert decision(professional(), facts=None).epoch == 0


@pytest.mark.parametrize("mode", [NORMAL, BREAK_GLASS, REGULATION])
def test_a_blocked_professional_gets_nothing_whatever_the_mode(mode: context_pb2.AccessMode.ValueType) -> None:
    blocked = replace(ATTENDING, blocked=True)
    for action in (pb.ACTION_SUBMIT, pb.ACTION_SEARCH, pb.ACTION_READ, pb.ACTION_READ_TRACES):
        assert reason_of(professional(mode=mode), action, blocked) == reasons.ERROR_REASON_BLOCKED


def test_a_block_is_told_before_a_closing() -> None:
    assert reason_of(professional(), facts=replace(AUTHORISED, blocked=True, state=DossierState.CLOSED)) == (
        reasons.ERROR_REASON_BLOCKED
    )


def test_a_closed_dossier_is_entered_by_nobody() -> None:
    closed = replace(ATTENDING, state=DossierState.CLOSED)
    for context in set(CONTEXTS) - {"host/normal"}:
        assert reason_of(caller(context), pb.ACTION_SUBMIT, closed) == reasons.ERROR_REASON_DOSSIER_CLOSED


def test_reading_needs_an_authorisation_and_feeding_does_not() -> None:
    for action in (pb.ACTION_READ, pb.ACTION_SEARCH, pb.ACTION_READ_TRACES, pb.ACTION_READ_ADMINISTRATIVE):
        assert reason_of(professional(), action, STRANGER) == reasons.ERROR_REASON_AUTHORIZATION_MISSING
    assert decision(professional(), pb.ACTION_SUBMIT, STRANGER).permitted
    assert decision(professional(), pb.ACTION_SEARCH_REFERENCE, STRANGER).permitted


def test_an_authorisation_ends_at_its_last_instant() -> None:
    expired = replace(AUTHORISED, professional_until=NOW)
    assert reason_of(professional(), facts=expired) == reasons.ERROR_REASON_AUTHORIZATION_EXPIRED
    last = replace(AUTHORISED, professional_until=NOW + timedelta(microseconds=1))
    assert decision(professional(), facts=last).permitted


def test_the_structures_authorisation_serves_its_professionals() -> None:
    through_structure = replace(STRANGER, structure_until=NOW + timedelta(days=1))
    assert decision(professional(), facts=through_structure).permitted
    one_expired = replace(through_structure, professional_until=NOW - timedelta(days=1))
    assert decision(professional(), facts=one_expired).permitted


def test_an_expired_attending_physician_is_a_physician_like_others() -> None:
    former = replace(ATTENDING, professional_until=NOW, structure_until=NOW + timedelta(days=1))
    bounds = decision(professional(), facts=former).filter
    assert bounds is not None
    assert bounds.masked == pb.MASKED_VIEW_OWN


def test_only_a_physician_is_attending_physician() -> None:
    bounds = decision(professional(profession="60"), facts=ATTENDING).filter
    assert bounds is not None
    assert bounds.masked == pb.MASKED_VIEW_OWN


def test_indirect_strong_authentication_reads_but_may_not_feed() -> None:
    strong = professional(authentication=context_pb2.AUTHENTICATION_MODE_INDIRECT_STRONG)
    assert decision(strong, pb.ACTION_READ).permitted
    assert reason_of(strong, pb.ACTION_SUBMIT) == reasons.ERROR_REASON_RIGHT_DENIED


def test_a_structures_certificate_feeds_for_the_structure_and_reads_nothing() -> None:
    certificate = professional(authentication=context_pb2.AUTHENTICATION_MODE_INDIRECT)
    decided = decision(certificate, pb.ACTION_SUBMIT)
    assert decided.filter is not None
    assert decided.filter.imputed_structure == STRUCTURE
    for action in (pb.ACTION_READ, pb.ACTION_SEARCH):
        assert reason_of(certificate, action) == reasons.ERROR_REASON_RIGHT_DENIED


def test_the_occupational_physician_searches_and_feeds_but_reads_no_content() -> None:
    physician = professional(occupational=True)
    assert decision(physician, pb.ACTION_SUBMIT).permitted
    found = decision(physician, pb.ACTION_SEARCH)
    assert found.filter is not None
    assert not found.filter.content_readable
    assert reason_of(physician, pb.ACTION_READ) == reasons.ERROR_REASON_RIGHT_DENIED


@pytest.mark.parametrize(
    ("facts", "closed", "other"),
    [
        (replace(STRANGER, break_glass_opposed=True), BREAK_GLASS, REGULATION),
        (replace(STRANGER, regulation_opposed=True), REGULATION, BREAK_GLASS),
    ],
)
def test_an_opposition_closes_its_emergency_mode_to_readers_alone(
    facts: Facts, closed: context_pb2.AccessMode.ValueType, other: context_pb2.AccessMode.ValueType
) -> None:
    assert reason_of(professional(mode=closed), facts=facts) == reasons.ERROR_REASON_EMERGENCY_OPPOSED
    assert decision(professional(mode=other), facts=facts).permitted
    # Feeding can't be opposed once the dossier is open.
    assert decision(professional(mode=closed), pb.ACTION_SUBMIT, facts).permitted


def test_break_glass_needs_a_reason() -> None:
    silent = professional(mode=BREAK_GLASS, reason="")
    for action in (pb.ACTION_READ, pb.ACTION_SUBMIT):
        assert reason_of(silent, action) == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID


def test_a_patient_enters_his_own_dossier_alone() -> None:
    assert decision(patient(DOSSIER), facts=STRANGER).permitted
    assert reason_of(patient(OTHER), facts=STRANGER) == reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
    unbound = ActingContext(actor_kind=context_pb2.ACTOR_KIND_PATIENT, subject="1")
    assert reason_of(unbound, facts=STRANGER) == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID


def test_a_token_bound_to_a_patient_reaches_no_other_dossier() -> None:
    assert reason_of(professional(patient=OTHER)) == reasons.ERROR_REASON_TOKEN_PATIENT_MISMATCH
    assert decision(professional(patient=DOSSIER)).permitted


def test_the_patient_sees_masked_documents_but_not_what_is_not_yet_his_to_see() -> None:
    bounds = decision(patient(DOSSIER), facts=STRANGER).filter
    assert bounds is not None
    assert (bounds.masked, bounds.patient_view, bounds.representative_view) == (pb.MASKED_VIEW_ALL, True, False)
    assert bounds.denied_type_codes == ()


def test_a_representative_does_not_see_what_is_hidden_from_representatives() -> None:
    mother = representative(OTHER, DOSSIER)
    bounds = decision(mother, facts=STRANGER).filter
    assert bounds is not None
    assert (bounds.patient_view, bounds.representative_view) == (True, True)
    traces = decision(mother, pb.ACTION_READ_TRACES, STRANGER).filter
    assert traces is not None
    assert traces.traces == pb.TRACE_VIEW_WITHOUT_SECRET


def test_professionals_see_what_is_hidden_from_the_patient() -> None:
    bounds = decision(professional()).filter
    assert bounds is not None
    assert (bounds.patient_view, bounds.representative_view) == (False, False)


def test_a_professional_reads_his_own_traces_and_traces_are_told_for_that_action_alone() -> None:
    traces = decision(professional(), pb.ACTION_READ_TRACES).filter
    search = decision(professional(), pb.ACTION_SEARCH).filter
    assert traces is not None
    assert search is not None
    assert (traces.traces, search.traces) == (pb.TRACE_VIEW_OWN, pb.TRACE_VIEW_UNSPECIFIED)


@pytest.mark.parametrize("kind", [context_pb2.ACTOR_KIND_SYSTEM, context_pb2.ACTOR_KIND_OPERATOR])
def test_jobs_and_operators_have_no_row_and_so_no_right(kind: context_pb2.ActorKind.ValueType) -> None:
    nobody = ActingContext(actor_kind=kind, subject="nightly-job")
    for action in pb.Action.values()[1:]:
        assert reason_of(nobody, action) == reasons.ERROR_REASON_RIGHT_DENIED


@pytest.mark.parametrize(
    "context",
    [
        ActingContext(),
        professional(subject=""),
        professional(subject="8\0"),
        professional(authentication=context_pb2.AUTHENTICATION_MODE_UNSPECIFIED),
        professional(authentication=context_pb2.AUTHENTICATION_MODE_INDIRECT, structure=""),
        staff(""),
        ActingContext(actor_kind=context_pb2.ACTOR_KIND_PROFESSIONAL, subject="8", access_mode=9),  # type: ignore[arg-type]
    ],
)
def test_an_acting_context_that_lacks_what_it_needs_decides_nothing(context: ActingContext) -> None:
    assert reason_of(context) == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID


@pytest.mark.parametrize("profession", ["", "99", "physician"])
def test_an_unknown_profession_has_no_right(profession: str) -> None:
    assert reason_of(professional(profession=profession)) == reasons.ERROR_REASON_RIGHT_DENIED


def test_an_action_that_is_not_known_is_no() -> None:
    assert reason_of(professional(), 99) == reasons.ERROR_REASON_RIGHT_DENIED


def test_a_mode_that_is_not_stated_is_the_normal_one() -> None:
    unstated = professional(mode=context_pb2.ACCESS_MODE_UNSPECIFIED)
    assert reason_of(unstated, facts=STRANGER) == reasons.ERROR_REASON_AUTHORIZATION_MISSING


def test_standing_is_told_in_the_words_of_the_transaction() -> None:
    actor = read_actor(professional())
    until = NOW + timedelta(days=1)
    assert standing(actor, STRANGER, NOW).state == pb.AUTHORIZATION_STATE_NONE
    assert standing(actor, replace(STRANGER, blocked=True), NOW).state == pb.AUTHORIZATION_STATE_FORBIDDEN
    assert standing(actor, replace(STRANGER, structure_until=NOW), NOW).state == pb.AUTHORIZATION_STATE_EXPIRED
    valid = standing(actor, ATTENDING, NOW)
    assert (valid.state, valid.attending_physician, valid.expires_at) == (pb.AUTHORIZATION_STATE_VALID, True, until)
    assert standing(read_actor(patient(DOSSIER)), STRANGER, NOW).state == pb.AUTHORIZATION_STATE_VALID


@pytest.mark.parametrize(
    ("context", "action", "facts", "basis"),
    [
        (professional(), pb.ACTION_READ, AUTHORISED, audit_pb2.ACCESS_BASIS_AUTHORIZATION),
        (professional(), pb.ACTION_READ, ATTENDING, audit_pb2.ACCESS_BASIS_ATTENDING_PHYSICIAN),
        (professional(), pb.ACTION_SUBMIT, ATTENDING, audit_pb2.ACCESS_BASIS_FEEDING),
        (professional(mode=BREAK_GLASS), pb.ACTION_READ, STRANGER, audit_pb2.ACCESS_BASIS_BREAK_GLASS),
        (professional(mode=BREAK_GLASS), pb.ACTION_SUBMIT, STRANGER, audit_pb2.ACCESS_BASIS_FEEDING),
        (professional(mode=REGULATION), pb.ACTION_READ, ATTENDING, audit_pb2.ACCESS_BASIS_REGULATION),
        (professional(), pb.ACTION_CHECK_DOSSIER, STRANGER, audit_pb2.ACCESS_BASIS_UNSPECIFIED),
        (professional(mode=REGULATION), pb.ACTION_CHECK_DOSSIER, STRANGER, audit_pb2.ACCESS_BASIS_UNSPECIFIED),
        (professional(mode=BREAK_GLASS), pb.ACTION_SEARCH_HELD, AUTHORISED, audit_pb2.ACCESS_BASIS_AUTHORIZATION),
        (patient(DOSSIER), pb.ACTION_READ, STRANGER, audit_pb2.ACCESS_BASIS_PATIENT),
        (representative(OTHER, DOSSIER), pb.ACTION_READ, STRANGER, audit_pb2.ACCESS_BASIS_REPRESENTATIVE),
        (taking_over("national"), pb.ACTION_READ, STRANGER, audit_pb2.ACCESS_BASIS_TAKEOVER),
        (taking_over("north"), pb.ACTION_READ, ATTENDING, audit_pb2.ACCESS_BASIS_UNSPECIFIED),
        (professional(), pb.ACTION_READ, STRANGER, audit_pb2.ACCESS_BASIS_UNSPECIFIED),
    ],
)
def test_a_decision_says_what_let_in(context: ActingContext, action: int, facts: Facts, basis: int) -> None:
    made = decision(context, action, facts)
    assert made.basis == basis
    assert made.permitted or basis == audit_pb2.ACCESS_BASIS_UNSPECIFIED


# --- taking over the dossiers of a host -------------------------------------------------------------------------------

HANDED_OVER = (
    pb.ACTION_CHECK_DOSSIER,
    pb.ACTION_SEARCH,
    pb.ACTION_READ,
    pb.ACTION_LIST_AUTHORIZATIONS,
    pb.ACTION_READ_ADMINISTRATIVE,
)
TAKEN_IN = (pb.ACTION_SUBMIT, pb.ACTION_SEARCH_REFERENCE, pb.ACTION_ARCHIVE)


@pytest.mark.parametrize("state", [DossierState.OPEN, DossierState.MERGED, DossierState.CLOSED])
def test_a_dossier_is_handed_over_and_taken_in_whole_open_or_closed_and_nothing_else_is_done_in_it(
    state: DossierState,
) -> None:
    theirs = replace(STRANGER, state=state)
    for action in pb.Action.values()[1:]:
        assert decision(taking_over("national"), action, theirs).permitted == (action in HANDED_OVER + TAKEN_IN), action
    bounds = decision(taking_over("national"), facts=theirs).filter
    assert bounds is not None
    assert (bounds.masked, bounds.content_readable) == (pb.MASKED_VIEW_ALL, True)
    left_out = (bounds.denied_type_codes, bounds.patient_view, bounds.representative_view, bounds.restriction)
    assert not any((*left_out, bounds.without_archived, bounds.without_deprecated))


def test_of_another_hosts_dossiers_nothing_is_learnt_whatever_became_of_them() -> None:
    states = [replace(STRANGER, state=state, blocked=blocked) for state in DossierState for blocked in (True, False)]
    for facts in (None, *states):
        for action in HANDED_OVER + TAKEN_IN:
            refused = decision(taking_over("north"), action, facts)
            assert (refused.reason, refused.merged_into) == (reasons.ERROR_REASON_DOSSIER_NOT_FOUND, 0)


def test_of_who_opposes_any_opening_nothing_is_handed_over_but_whose_opposition_it_is() -> None:
    opposed = replace(STRANGER, state=DossierState.OPPOSED)
    allowed = {
        action for action in HANDED_OVER + TAKEN_IN if decision(taking_over("national"), action, opposed).permitted
    }
    assert allowed == {pb.ACTION_READ_ADMINISTRATIVE}
    assert reason_of(professional(), pb.ACTION_READ_ADMINISTRATIVE, opposed) == reasons.ERROR_REASON_DOSSIER_NOT_FOUND


def test_each_dossier_of_a_person_is_handed_over_by_itself() -> None:
    two = replace(AUTHORISED, linked=(OTHER,))
    assert decision(professional(), facts=two).linked == (OTHER,)
    assert decision(taking_over("national"), facts=two).linked == ()


@pytest.mark.parametrize(
    "more",
    [
        {"access_mode": BREAK_GLASS, "break_glass_reason": "because"},
        {"access_mode": REGULATION},
        {"patient_health_id": DOSSIER},
        {"secret_connection": True},
        {"actor_kind": context_pb2.ACTOR_KIND_OPERATOR},
        {"actor_kind": context_pb2.ACTOR_KIND_PROFESSIONAL, "profession": "10", "authentication_mode": 1},
        {"actor_kind": context_pb2.ACTOR_KIND_STRUCTURE},
    ],
)
def test_only_a_system_takes_over_and_in_no_emergency(more: dict[str, object]) -> None:
    for action in HANDED_OVER:
        assert reason_of(taking_over("national", **more), action) == reasons.ERROR_REASON_ACTING_CONTEXT_INVALID


def test_a_system_that_takes_over_no_host_enters_nothing() -> None:
    system = ActingContext(actor_kind=context_pb2.ACTOR_KIND_SYSTEM, subject="intake-1")
    assert reason_of(system) == reasons.ERROR_REASON_RIGHT_DENIED
