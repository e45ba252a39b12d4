"""Who may know of which document, once consent has let them into the dossier."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from dmp.common.v1 import context_pb2
from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.consent.v1 import consent_pb2
from dmp.document.v1 import document_pb2
from services.document.access import VISIBLE, Caller, fed_by, hidden_because, month_before, view_of
from services.document.authorship import IDNST, Authorship, identifier_of
from services.runtime.keyring import Keyring

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
ME, OTHER, HOUSE = b"m" * 32, b"o" * 32, b"h" * 32
RIGHT, TYPE, ABSENT = (
    reasons.ERROR_REASON_RIGHT_DENIED,
    reasons.ERROR_REASON_TYPE_DENIED,
    reasons.ERROR_REASON_DOCUMENT_NOT_FOUND,
)
NONE, OWN, ALL = consent_pb2.MASKED_VIEW_NONE, consent_pb2.MASKED_VIEW_OWN, consent_pb2.MASKED_VIEW_ALL
DAY_OLD, MONTH_OLD = datetime(2026, 3, 30, 12, tzinfo=UTC), datetime(2026, 2, 28, 11, tzinfo=UTC)


class Row(NamedTuple):
    status: int = document_pb2.DOCUMENT_STATUS_APPROVED
    type_code: str = "11488-4"
    submitted_at: datetime = DAY_OLD
    masked: bool = False
    invisible_patient: bool = False
    invisible_representatives: bool = False
    author_digests: list[bytes] = [OTHER]  # noqa: RUF012 (never changed)
    institution_digests: list[bytes] = []  # noqa: RUF012


@pytest.mark.parametrize(
    ("row", "allowed", "expected"),
    [
        (Row(), {}, VISIBLE),
        (Row(status=document_pb2.DOCUMENT_STATUS_DEPRECATED), {}, VISIBLE),
        (Row(status=document_pb2.DOCUMENT_STATUS_ARCHIVED), {}, VISIBLE),
        (Row(status=document_pb2.DOCUMENT_STATUS_DELETED), {"masked": ALL}, ABSENT),
        (Row(), {"denied_type_codes": ["11488-4"]}, TYPE),
        (Row(author_digests=[ME]), {"denied_type_codes": ["11488-4"]}, TYPE),
        (Row(masked=True), {}, RIGHT),
        (Row(masked=True), {"masked": NONE}, RIGHT),
        (Row(masked=True), {"masked": OWN}, RIGHT),
        (Row(masked=True, author_digests=[OTHER, ME]), {"masked": OWN}, VISIBLE),
        (Row(masked=True, author_digests=[ME]), {"masked": NONE}, RIGHT),
        (Row(masked=True), {"masked": ALL}, VISIBLE),
        (Row(invisible_patient=True), {}, VISIBLE),
        (Row(invisible_patient=True), {"patient_view": True}, RIGHT),
        (Row(invisible_patient=True, submitted_at=MONTH_OLD), {"patient_view": True}, VISIBLE),
        (Row(invisible_patient=True), {"representative_view": True}, VISIBLE),
        (Row(invisible_representatives=True), {"patient_view": True}, VISIBLE),
        (Row(invisible_representatives=True), {"representative_view": True}, RIGHT),
        (Row(status=document_pb2.DOCUMENT_STATUS_DELETED), {"deleted_traces": True}, VISIBLE),
        (Row(status=document_pb2.DOCUMENT_STATUS_ARCHIVED), {"without_archived": True}, RIGHT),
        (Row(status=document_pb2.DOCUMENT_STATUS_DEPRECATED), {"without_deprecated": True}, RIGHT),
        (Row(), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_OWN}, RIGHT),
        (Row(author_digests=[ME]), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_OWN}, VISIBLE),
        (Row(masked=True, author_digests=[ME]), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_OWN}, RIGHT),
        (Row(author_digests=[ME]), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_STRUCTURE}, RIGHT),
        (Row(institution_digests=[HOUSE]), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_STRUCTURE}, VISIBLE),
        (Row(), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_PATIENT_TYPES}, RIGHT),
        (Row(type_code="DOCPAT001"), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_PATIENT_TYPES}, VISIBLE),
        (Row(author_digests=[ME]), {"restriction": consent_pb2.DOCUMENT_RESTRICTION_REFERENCE}, RIGHT),
    ],
)
def test_a_document_is_shown_or_hidden(row: Row, allowed: dict[str, object], expected: int) -> None:
    view = view_of(consent_pb2.Filter(**allowed), Caller(ME, HOUSE), NOW)  # type: ignore[arg-type]
    assert hidden_because(row, view) == expected


def test_who_is_no_author_has_no_own_documents() -> None:
    view = view_of(consent_pb2.Filter(masked=OWN), Caller(), NOW)
    assert hidden_because(Row(masked=True, author_digests=[]), view) == RIGHT


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (datetime(2026, 3, 31, tzinfo=UTC), datetime(2026, 2, 28, tzinfo=UTC)),
        (datetime(2028, 3, 30, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)),
        (datetime(2026, 1, 15, 8, tzinfo=UTC), datetime(2025, 12, 15, 8, tzinfo=UTC)),
        (datetime(2026, 12, 31, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)),
    ],
)
def test_an_announcement_waits_one_calendar_month(now: datetime, before: datetime) -> None:
    assert month_before(now) == before


def test_what_a_staff_card_hands_in_is_its_structures() -> None:
    staff = context_pb2.ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_STRUCTURE_STAFF, subject="staff-7", structure="1750000001"
    )
    clinic = context_pb2.ActingContext(actor_kind=context_pb2.ACTOR_KIND_STRUCTURE, subject="1750000001")
    authorship = Authorship(Keyring({1: b"k" * 32}, current=1, digests=[1]))
    assert authorship.of_caller(staff) == authorship.of_caller(clinic)
    assert identifier_of(staff) == (IDNST, "1750000001")
    handed_in_by = [authorship.of_caller(clinic).own or b""]
    assert fed_by(Row(), handed_in_by, authorship.of_caller(staff))
    assert not fed_by(Row(), handed_in_by, Caller())
