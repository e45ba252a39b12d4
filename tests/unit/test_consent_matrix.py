"""Every cell of the rights tables, one test each, generated from the files: what it says is what is decided.

A cell is about a check (a `Decision`, perhaps about one document) or about a change (an act, authorised or refused).
What each word means is stated here once more, apart from the service's own reading of it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2 as pb
from services.consent.acting import PROFESSIONS, Actor, in_normal_mode, read_actor
from services.consent.authorizations import GrantAuthorization, RemoveAttendingPhysician, RevokeAuthorization
from services.consent.blocks import BlockProfessional
from services.consent.changes import Moment
from services.consent.closing import CloseDossier
from services.consent.decision import Case, decide
from services.consent.opening import OpenDossier, ReopenDossier
from services.consent.preferences import UpdatePreferences
from services.consent.taking_in import TakeInDossier
from services.consent.terms import ConsentTerms
from services.consent.values import (
    Authorization,
    ConsentGiver,
    ConsentMethod,
    ConsentRecord,
    Document,
    Dossier,
    DossierState,
    Facts,
    LockedDossier,
    Refused,
    Representation,
    RepresentationKind,
)
from tests.consent_callers import DOSSIER, OTHER, callers
from tests.consent_service import NOW, NURSE, RIGHTS, YEAR, grantee_of, professional

TABLE = Path("services/consent/rights/functional_rights.csv")
HOSTS = Path("services/consent/rights/host_rights.csv")
DENIALS = Path("services/consent/rights/document_type_denials.csv")
TERMS = ConsentTerms(YEAR, "national")
UNTIL = NOW + timedelta(days=1)
MOTHER = Representation(OTHER, RepresentationKind.PARENT, NOW - timedelta(days=1), UNTIL)

MINE, THEIRS = Document(authored_by_caller=True), Document()
OF_MY_STRUCTURE = Document(authored_by_structure=True)
DEPOSITED = Document(type_code="DOCPAT_1")

# Each word, as which documents it lets an action be done to: my own, another's, my structure's, a patient's deposit.
SCOPES = {
    "yes": (True, True, True, True),
    "no": (False, False, False, False),
    "own_documents_only": (True, False, False, False),
    "authored_by_structure_only": (False, False, True, False),
    "if_visible_to_caller": (True, True, True, True),
    "patient_document_types_only": (False, False, False, True),
    "reference_only": (True, True, True, True),
    "imputed_to_structure": (True, True, True, True),
}
BY_SCOPE = {
    ("TD2.1", "submit"): pb.ACTION_SUBMIT,
    ("TD2.2", "submit_by_cpe"): pb.ACTION_SUBMIT,
    ("TD3.1", "search_metadata"): pb.ACTION_SEARCH,
    ("TD3.1", "search_reference"): pb.ACTION_SEARCH_REFERENCE,
    ("TD3.2", "read_not_masked"): pb.ACTION_READ,
    ("TD3.3a", "mask_ps"): pb.ACTION_MASK,
    ("TD3.3a", "unmask_ps"): pb.ACTION_UNMASK,
    ("TD3.3b", "make_visible_to_patient"): pb.ACTION_MAKE_VISIBLE,
    ("TD3.3c", "delete"): pb.ACTION_DELETE,
    ("TD3.3d", "archive"): pb.ACTION_ARCHIVE,
    ("TD3.3d", "unarchive"): pb.ACTION_UNARCHIVE,
}
WHOLE = {
    ("TD0.2", "test_existence_and_check_auth"): pb.ACTION_CHECK_DOSSIER,
    ("TD0.4", "list_authorised_dmp"): pb.ACTION_LIST_ACCESSIBLE,
    ("TD0.5", "search_patient_without_ins"): pb.ACTION_FIND_PATIENT,
    ("TD0.9", "web_ps_contextual"): pb.ACTION_WEB_ACCESS,
    ("TD1.3a", "read_admin_data"): pb.ACTION_READ_ADMINISTRATIVE,
    ("TD1.3b", "change_admin_data"): pb.ACTION_CHANGE_ADMINISTRATIVE,
    ("TD1.5", "open_patient_access"): pb.ACTION_OPEN_PATIENT_ACCESS,
    ("TD1.6", "list_authorised_blocked_ps"): pb.ACTION_LIST_AUTHORIZATIONS,
}
"""Checks about no document. A word with a condition is a yes whose condition the listing itself carries."""
ABOUT_NO_DOSSIER = {pb.ACTION_LIST_ACCESSIBLE, pb.ACTION_FIND_PATIENT}
TRACES = {
    "yes": pb.TRACE_VIEW_ALL,
    "without_secret_connections": pb.TRACE_VIEW_WITHOUT_SECRET,
    "own_actions_only": pb.TRACE_VIEW_OWN,
}
SEEN_IF = {
    ("TD3.2", "read_invisible_patient_or_rep"): Document(invisible_to_patient=True, hidden_from_representatives=True),
    ("TD3.2", "read_archived"): Document(archived=True),
    ("TD3.2", "read_obsolete"): Document(deprecated=True),
    ("TD3.2", "read_deleted"): Document(deleted=True),
}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


CELLS = [((row["transaction"], row["action"]), row["context"], row["right"]) for row in (*rows(TABLE), *rows(HOSTS))]
WORDS = {(function, row): word for function, row, word in CELLS}


def facts(row: str, **changed: Any) -> Facts:
    """An open dossier where whoever is in the row is authorised, the MT as such."""
    attending = row.startswith("attending_physician/")
    known = Facts(
        DossierState.OPEN, 7, False, False, False, False, UNTIL, attending, UNTIL, MOTHER, home_host="national"
    )
    return replace(known, **changed)


def permits(row: str, action: int, document: Document | None = None, **changed: Any) -> bool:
    health_id = 0 if action in ABOUT_NO_DOSSIER else DOSSIER
    known = None if health_id == 0 else facts(row, **changed)
    actor = read_actor(callers()[row])
    return decide(Case(actor, action, health_id, known, RIGHTS, NOW, document)).permitted


def acts() -> dict[tuple[str, str], Callable[[Actor], Any]]:
    """The changes that cells are about; the caller is in the dossier what his row says."""
    named = pb.GrantAuthorizationRequest(grantee=grantee_of(NURSE), patient_consented=True)
    close = pb.CloseDossierRequest(reason=pb.CLOSE_REASON_PATIENT_REQUEST)
    return {
        ("TD0.3", "auth_self_declare"): lambda actor: GrantAuthorization(
            actor, DOSSIER, pb.GrantAuthorizationRequest(patient_consented=True), TERMS
        ),
        ("TD0.3", "auth_self_remove"): lambda actor: RevokeAuthorization(
            actor, DOSSIER, pb.RevokeAuthorizationRequest()
        ),
        ("TD0.3", "mt_self_remove"): lambda actor: RemoveAttendingPhysician(
            actor, DOSSIER, pb.RemoveAttendingPhysicianRequest()
        ),
        ("TD0.3", "authorise_a_professional"): lambda actor: GrantAuthorization(actor, DOSSIER, named, TERMS),
        ("TD0.3", "block_a_professional"): lambda actor: BlockProfessional(
            actor, DOSSIER, pb.BlockProfessionalRequest(grantee=grantee_of(NURSE))
        ),
        ("TD1.1", "open"): lambda actor: OpenDossier(actor, DOSSIER, pb.OpenDossierRequest(), TERMS),
        ("TD1.1", "take_in"): lambda actor: TakeInDossier(actor, DOSSIER, pb.TakeInDossierRequest(), TERMS),
        ("TD1.2", "reopen"): lambda actor: ReopenDossier(actor, DOSSIER, pb.ReopenDossierRequest()),
        ("TD1.3b", "change_admin_data"): lambda actor: UpdatePreferences(
            actor, DOSSIER, pb.UpdatePreferencesRequest(patient_consented=True)
        ),
        ("TD1.4", "close"): lambda actor: CloseDossier(actor, DOSSIER, close, TERMS),
    }


def locked(row: str) -> LockedDossier:
    """The dossier held for a change, as in `facts`."""
    actor = read_actor(callers()[row])
    attending = row.startswith("attending_physician/")
    held = {
        party: Authorization(party, NOW, UNTIL, attending and party == actor.as_professional())
        for party in actor.parties()
    }
    consent = ConsentRecord(NOW, ConsentMethod.ORAL, ConsentGiver.PATIENT)
    dossier = Dossier(DOSSIER, DossierState.OPEN, 7, NOW, None, None, False, False, False, "national", consent)
    return LockedDossier(dossier, held, frozenset(), {OTHER: MOTHER})


def allows(row: str, act: Any) -> bool:
    refusal = None
    try:
        act.authorise(locked(row), Moment(NOW, RIGHTS))
    except Refused as refused:
        refusal = refused.reason
    assert refusal in (None, reasons.ERROR_REASON_RIGHT_DENIED)
    return refusal is None


def expectation(function: tuple[str, str], row: str, word: str) -> tuple[object, object]:
    """What is decided, and what the cell says."""
    if function in BY_SCOPE:
        # Two cells give feeding: a professional's, and that of a practice's staff.
        if function[1] in ("submit", "submit_by_cpe") and word == "no":
            word = max(WORDS.get((("TD2.1", "submit"), row), "no"), WORDS.get((("TD2.2", "submit_by_cpe"), row), "no"))
            word = "imputed_to_structure" if row.startswith("structure") else word
            word = "yes" if not row.startswith(("structure", "patient", "representative")) else word
        action = BY_SCOPE[function]
        documents = (MINE, THEIRS, OF_MY_STRUCTURE, DEPOSITED)
        return tuple(permits(row, action, document) for document in documents), SCOPES[word]
    if function in WHOLE and function not in acts():
        return permits(row, WHOLE[function]), word != "no"
    if function == ("TD0.1", "authenticate"):
        actor = read_actor(callers()[row])
        return actor.complete and bool(actor.context), word == "yes"
    if function == ("TD3.2", "read_masked_ps"):
        return _masked(row), _masked_as_told(word)
    if function in SEEN_IF:
        return permits(row, pb.ACTION_SEARCH, SEEN_IF[function]), word == "yes" and _searches(row)
    if function == ("TRACE", "read_traces"):
        decided = decide(Case(read_actor(callers()[row]), pb.ACTION_READ_TRACES, DOSSIER, facts(row), RIGHTS, NOW))
        return decided.filter.traces if decided.filter else 0, TRACES.get(word, 0)
    return allows(row, acts()[function](read_actor(callers()[row]))), word != "no"


def _masked(row: str) -> tuple[bool, ...]:
    """A masked document: mine, another's; another's where the patient shows such in emergencies."""
    mine, theirs = replace(MINE, masked=True), replace(THEIRS, masked=True)
    return (
        permits(row, pb.ACTION_SEARCH, mine),
        permits(row, pb.ACTION_SEARCH, theirs),
        permits(row, pb.ACTION_SEARCH, theirs, masked_in_emergency=True),
    )


def _masked_as_told(word: str) -> tuple[bool, ...]:
    return {
        "yes": (True, True, True),
        "own_documents_only": (True, False, False),
        "if_patient_allowed": (False, False, True),
        "no": (False, False, False),
    }[word]


def _searches(row: str) -> bool:
    return WORDS.get((("TD3.1", "search_metadata"), row), "no") != "no"


@pytest.mark.parametrize(("function", "row", "word"), CELLS, ids=["-".join((*f, row)) for f, row, _ in CELLS])
def test_a_cell_is_what_is_decided(function: tuple[str, str], row: str, word: str) -> None:
    decided, told = expectation(function, row, word)
    assert decided == told


def test_every_function_of_the_table_is_tested_and_every_row_has_somebody_in_it() -> None:
    tested = {*BY_SCOPE, *WHOLE, *SEEN_IF, *acts(), ("TD0.1", "authenticate"), ("TD3.2", "read_masked_ps")}
    assert {function for function, _, _ in CELLS} == {*tested, ("TRACE", "read_traces")}
    assert {row for _, row, _ in CELLS} == set(callers())


@pytest.mark.parametrize("row", sorted(callers()))
def test_who_may_list_all_his_dossiers_and_search_them_lists_them_by_their_last_document(row: str) -> None:
    listed = WORDS.get((("TD0.4", "list_authorised_dmp"), row), "no")
    searched = WORDS.get((("TD3.1", "search_metadata"), row), "no")
    expected = (listed, searched) == ("yes", "yes")  # a certificate is told of new authorisations only
    actor = read_actor(callers()[row])
    assert decide(Case(actor, pb.ACTION_SEARCH_HELD, 0, None, RIGHTS, NOW)).permitted == expected
    assert permits(row, pb.ACTION_SEARCH_HELD) == expected
    assert permits(row, pb.ACTION_SEARCH_HELD, structure_until=None) == expected
    assert not permits(row, pb.ACTION_SEARCH_HELD, professional_until=None), "his own, in every mode"
    assert not permits(row, pb.ACTION_SEARCH_HELD, professional_until=NOW)
    for document in (MINE, THEIRS, replace(THEIRS, masked=True), Document(type_code="ATTEST-RESID")):
        by_search = permits(in_normal_mode(row), pb.ACTION_SEARCH, document)  # no emergency opens a list
        assert permits(row, pb.ACTION_SEARCH_HELD, document) == (expected and by_search)


@pytest.mark.parametrize("row", [row for row in callers() if row.startswith(("patient/", "representative/", "host/"))])
def test_what_a_row_does_not_list_is_no(row: str) -> None:
    for function, act in acts().items():
        if (function, row) not in WORDS and function[0] != "TD0.3":  # these are his by `authorise_a_professional`
            assert not allows(row, act(read_actor(callers()[row])))
    for function, action in {**WHOLE, **BY_SCOPE}.items():
        if (function, row) not in WORDS and action != pb.ACTION_SUBMIT:
            assert not permits(row, action)


@pytest.mark.parametrize("denial", rows(DENIALS), ids=lambda row: f"{row['profession']}-{row['type_code']}")
def test_a_denied_type_is_refused_to_its_profession_and_said_so(denial: dict[str, str]) -> None:
    actor = read_actor(professional(profession=denial["profession"]))
    document = Document(type_code=denial["type_code"])
    for action in (pb.ACTION_SEARCH, pb.ACTION_READ):
        decided = decide(Case(actor, action, DOSSIER, facts("physician/normal"), RIGHTS, NOW, document))
        assert decided.reason == reasons.ERROR_REASON_TYPE_DENIED
    plain = decide(Case(actor, pb.ACTION_SEARCH, DOSSIER, facts("physician/normal"), RIGHTS, NOW))
    assert plain.filter is not None
    assert denial["type_code"] in plain.filter.denied_type_codes


@pytest.mark.parametrize("profession", sorted(PROFESSIONS))
def test_a_profession_is_denied_the_types_of_its_list_or_of_the_dentists_and_no_others(profession: str) -> None:
    listed: dict[str, list[str]] = {}
    for row in rows(DENIALS):
        listed.setdefault(row["profession"], []).append(row["type_code"])
    actor = read_actor(professional(profession=profession))
    decided = decide(Case(actor, pb.ACTION_READ, DOSSIER, facts("physician/normal"), RIGHTS, NOW))
    assert decided.filter is not None
    assert list(decided.filter.denied_type_codes) == listed.get(profession, listed["40"])


def test_closing_for_another_reason_than_his_own_request_is_not_the_patients() -> None:
    request = pb.CloseDossierRequest(reason=pb.CLOSE_REASON_DEATH)
    assert not allows("patient/normal", CloseDossier(read_actor(callers()["patient/normal"]), DOSSIER, request, TERMS))
