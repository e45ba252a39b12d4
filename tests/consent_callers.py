"""Somebody in each row of the rights table, and the people of the oracle: what the tests of decisions share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from dmp.common.v1 import context_pb2
from dmp.common.v1.context_pb2 import ActingContext
from tests.consent_oracle import Who
from tests.consent_service import (
    BREAK_GLASS,
    NURSE,
    PHYSICIAN,
    REGULATION,
    patient,
    professional,
    representative,
    staff,
    taking_over,
)

DOSSIER = 4_611_686_018_427_387_904
OTHER = 1_234_567_890_123_456_789
"""Another person: the representative of tests."""
_MODES = {
    "normal": context_pb2.ACCESS_MODE_NORMAL,
    "regulation": REGULATION,
    "break_glass": BREAK_GLASS,
}
_PROFESSIONS = {"physician": "10", "nurse": "60", "pharmacist": "21"}
_INDIRECT = context_pb2.AUTHENTICATION_MODE_INDIRECT


@cache
def callers() -> Mapping[str, ActingContext]:
    """By row. The MT is a physician whom the facts make one."""
    by_row: dict[str, ActingContext] = {
        "occupational_physician/any": professional(occupational=True),
        "structure_staff/normal": staff(),
        "patient/normal": patient(DOSSIER),
        "representative/normal": representative(OTHER, DOSSIER),
        "host/normal": taking_over("national"),
    }
    for name, mode in _MODES.items():
        by_row[f"physician/{name}"] = professional(PHYSICIAN, mode=mode)
        by_row[f"other_professional/{name}"] = professional(NURSE, "60", mode=mode)
        if mode != REGULATION:
            by_row[f"attending_physician/{name}"] = professional(PHYSICIAN, mode=mode)
        if mode != BREAK_GLASS:
            by_row[f"structure_certificate/{name}"] = professional(PHYSICIAN, mode=mode, authentication=_INDIRECT)
    return by_row


def acting(who: Who, dossier: int) -> ActingContext:
    """Somebody of the oracle, at a dossier."""
    mode = _MODES[who.mode]
    if who.kind in _PROFESSIONS:
        return professional(who.id, _PROFESSIONS[who.kind], mode=mode, structure=who.structure)
    if who.kind == "certificate":
        return professional(who.id, mode=mode, structure=who.structure, authentication=_INDIRECT)
    if who.kind == "staff":
        return staff(who.structure)
    return patient(dossier) if who.kind == "patient" else representative(who.person, dossier)
