"""Access rules, stated one by one, and every cell of the rights table that a check can be about."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.common.v1.context_pb2 import ActingContext
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import PROFESSIONS, read_actor
from services.consent.decision import Decision, decide, standing
from services.consent.values import Facts
from tests.consent_service import NOW, RIGHTS, STRUCTURE, patient, professional, staff

TABLE = Path("services/consent/rights/functional_rights.csv")
DENIALS = Path("services/consent/rights/document_type_denials.csv")
DOSSIER = 4_611_686_018_427_387_904
OTHER = 1_234_567_890_123_456_789

NORMAL = context_pb2.ACCESS_MODE_NORMAL
BREAK_GLASS = context_pb2.ACCESS_MODE_BREAK_GLASS
REGULATION = context_pb2.ACCESS_MODE_REGULATION
MODES = {"normal": NORMAL, "regulation": REGULATION, "break_glass": BREAK_GLASS, "any": NORMAL}

AUTHORISED = Facts(
    is_open=True,
    epoch=7,
    break_glass_opposed=False,
    regulation_opposed=False,
    masked_in_emergency=False,
    blocked=False,
    professional_until=NOW + timedelta(days=1),
    attending_physician=False,
    structure_until=None,
)
STRANGER = replace(AUTHORISED, professional_until=None)
ATTENDING = replace(AUTHORISED, attending_physician=True)

# What a check may be about, and the words that are a yes for it.
ACTIONS = {
    ("TD2.1", "submit"): (pb.ACTION_SUBMIT, {"yes", "imputed_to_structure"}),
    ("TD2.2", "submit_by_cpe"): (pb.ACTION_SUBMIT, {"yes", "imputed_to_structure"}),
    ("TD3.1", "search_metadata"): (pb.ACTION_SEARCH, {"yes", "if_visible_to_caller"}),
    ("TD3.1", "search_reference"): (pb.ACTION_SEARCH_REFERENCE, {"yes", "reference_only"}),
    ("TD3.2", "read_not_masked"): (pb.ACTION_READ, {"yes"}),
    ("TRACE", "read_traces"): (pb.ACTION_READ_TRACES, {"yes", "own_actions_only", "without_secret_connections"}),
    ("TD1.3a", "read_admin_data"): (pb.ACTION_READ_ADMINISTRATIVE, {"yes"}),
}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


WORDS = {(row["transaction"], row["action"], row["context"]): row["right"] for row in rows(TABLE)}
CONTEXTS = sorted({context for *_, context in WORDS})


def caller(context: str) -> ActingContext:
    """Somebody who is in a row of the table."""
    row, mode_name = context.split("/")
    mode = MODES[mode_name]
    if row in ("physician", "attending_physician"):
        return professional(mode=mode)
    if row == "occupational_physician":
        return professional(mode=mode, occupational=True)
    if row == "other_professional":
        return professional(profession="60", mode=mode)
    if row == "structure_staff":
        return staff()
    if row == "structure_certificate":
        return professional(mode=mode, authentication=context_pb2.AUTHENTICATION_MODE_INDIRECT)
    kind = context_pb2.ACTOR_KIND_PATIENT if row == "patient" else context_pb2.ACTOR_KIND_REPRESENTATIVE
    return patient(DOSSIER, kind)


def decision(context: ActingContext, action: int = pb.ACTION_READ, facts: Facts | None = AUTHORISED) -> Decision:
    return decide(read_actor(context), action, DOSSIER, facts, RIGHTS, NOW)


def reason_of(context: ActingContext, action: int = pb.ACTION_READ, facts: Facts | None = AUTHORISED) -> int | None:
    return decision(context, action, facts).reason


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("action", sorted({action for action, _ in ACTIONS.values()}))
def test_each_cell_of_the_rights_table_is_what_is_decided(context: str, action: int) -> None:
    facts = ATTENDING if context.startswith("attending_physician/") else AUTHORISED
    expected = any(
        WORDS.get((*function, context), "no") in words
        for function, (checked, words) in ACTIONS.items()
        if checked == action
    )
    decided = decision(caller(context), action, facts)
    assert decided.permitted is expected
    if not expected:
        assert decided.reason == reasons.ERROR_REASON_RIGHT_DENIED


@pytest.mark.parametrize("context", CONTEXTS)
def test_masked_documents_are_seen_as_the_table_says(context: str) -> None:
    facts = ATTENDING if context.startswith("attending_physician/") else AUTHORISED
    word = WORDS.get(("TD3.2", "read_masked_ps", context), "no")
    for allowed in (False, True):
        bounds = decision(caller(context), pb.ACTION_SEARCH, replace(facts, masked_in_emergency=allowed)).filter
        if bounds is None:
            continue
        in_emergency = pb.MASKED_VIEW_ALL if allowed else pb.MASKED_VIEW_NONE
        expected = {
            "yes": pb.MASKED_VIEW_ALL,
            "own_documents_only": pb.MASKED_VIEW_OWN,
            "if_patient_allowed": in_emergency,
            "no": pb.MASKED_VIEW_NONE,
        }
        assert bounds.masked == expected[word]


@pytest.mark.parametrize("profession", sorted(PROFESSIONS))
def test_a_profession_is_denied_the_types_of_its_list_or_of_the_dentists(profession: str) -> None:
    listed: dict[str, list[str]] = {}
    for row in rows(DENIALS):
        listed.setdefault(row["profession"], []).append(row["type_code"])
    bounds = decision(professional(profession=profession)).filter
    assert bounds is not None
    assert list(bounds.denied_type_codes) == listed.get(profession, listed["40"])


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
    assert reason_of(professional(), facts=replace(AUTHORISED, blocked=True, is_open=False)) == (
        reasons.ERROR_REASON_BLOCKED
    )


def test_a_closed_dossier_is_entered_by_nobody() -> None:
    closed = replace(ATTENDING, is_open=False)
    for context in CONTEXTS:
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
    representative = patient(DOSSIER, context_pb2.ACTOR_KIND_REPRESENTATIVE)
    bounds = decision(representative, facts=STRANGER).filter
    assert bounds is not None
    assert (bounds.patient_view, bounds.representative_view) == (True, True)
    traces = decision(representative, pb.ACTION_READ_TRACES, STRANGER).filter
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
