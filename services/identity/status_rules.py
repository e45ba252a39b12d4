"""Which identity status may follow which, and what each needs. Pure rules (national identity reference).

PROV → RECUP (retrieved from the national service) or VALI (an identity document was checked) → QUAL (both); anything
falls back to PROV when it is in doubt, and QUAL to VALI when its INS no longer holds. Doubtful and fictitious
identities are PROV. RECUP and QUAL need an INS in force. An INS goes out only of a QUAL identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.runtime.errors import DmpError, FieldViolation, invalid

PROVISIONAL: Final = pb.IDENTITY_STATUS_PROVISIONAL
RETRIEVED: Final = pb.IDENTITY_STATUS_RETRIEVED
VALIDATED: Final = pb.IDENTITY_STATUS_VALIDATED
QUALIFIED: Final = pb.IDENTITY_STATUS_QUALIFIED

TRANSITIONS: Final[Mapping[int, frozenset[int]]] = {
    PROVISIONAL: frozenset({RETRIEVED, VALIDATED}),
    RETRIEVED: frozenset({QUALIFIED, PROVISIONAL}),
    VALIDATED: frozenset({QUALIFIED, PROVISIONAL}),
    QUALIFIED: frozenset({VALIDATED, PROVISIONAL}),
}
"""From each status, where it may go in one step. Staying is always allowed."""
_NEED_INS: Final = frozenset({RETRIEVED, QUALIFIED})
RETRIEVES: Final[Mapping[int, int]] = {
    PROVISIONAL: RETRIEVED,
    RETRIEVED: RETRIEVED,
    VALIDATED: QUALIFIED,
    QUALIFIED: QUALIFIED,
}
"""What a status becomes when the national service has given the INS."""


def check_status(
    status: int, *, doubtful: bool, fictitious: bool, has_ins: bool, whole_birth_date: bool, field: str
) -> None:
    """INVALID_FIELD naming `field` when an identity of these attributes may not have the status."""
    if (doubtful or fictitious) and status != PROVISIONAL:
        raise invalid(field, "status.attributes", "a doubtful or fictitious identity is provisional")
    if status in _NEED_INS and not has_ins:
        raise invalid(field, "status.ins", "a retrieved or qualified identity has an INS")
    if status != PROVISIONAL and not whole_birth_date:
        raise invalid(field, "status.birth_date", "without any birth date an identity is provisional")


def check_transition(old: int, new: int, field: str = "status") -> None:
    """STATUS_TRANSITION when the status does not go there."""
    if new != old and new not in TRANSITIONS[old]:
        raise DmpError(
            reasons.ERROR_REASON_STATUS_TRANSITION,
            fields=(FieldViolation(field, "status.transition", "PROV, then RECUP or VALI, then QUAL"),),
        )


def shows_ins(status: int) -> bool:
    """Whether an INS may be sent out."""
    return status == QUALIFIED
