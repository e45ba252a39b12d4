"""How well a person fits what an emergency call centre was told. Pure rules (TD0.5).

A caller is agitated and half of it is hearsay: each criterion that was stated counts by its weight, and a person who
fits too little is no candidate. The score is the part of the stated weight that fits, between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rapidfuzz.distance import JaroWinkler

from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import Contact, Traits, normalise_name, one_digit_apart, swapped_birth_date

LEAST: Final = 0.6
"""The score below which a person is no candidate."""
PROBABLE: Final = 0.9
_CLOSE: Final = 0.88
_FULL_DATE: Final = 10


def fit(asked: pb.FindPatientRequest, traits: Traits, contact: Contact) -> float:
    """The score of a person, 0 for one who is no candidate."""
    stated = fitting = 0.0
    for weight, is_stated, measure in (
        (4.0, True, lambda: _names(asked.family_name, traits.birth_name, traits.used_name)),
        (
            3.0,
            bool(asked.given_name),
            lambda: _names(
                asked.given_name,
                traits.first_birth_given_name,
                traits.used_given_name,
                *traits.birth_given_names.split(),
            ),
        ),
        (4.0, bool(asked.birth_date), lambda: _date(asked.birth_date, traits.birth_date)),
        (2.0, bool(asked.postcode), lambda: float(_bare(asked.postcode) == _bare(contact.postcode))),
        (1.0, bool(asked.city), lambda: float(normalise_name(asked.city) == normalise_name(contact.city))),
        (1.0, asked.sex in (pb.SEX_FEMALE, pb.SEX_MALE), lambda: _sex(asked.sex, traits.sex)),
    ):
        if is_stated:
            measured: Callable[[], float] = measure
            stated += weight
            fitting += weight * measured()
    share = fitting / stated
    return share if share >= LEAST else 0.0


def grade(score: float) -> pb.MatchGrade.ValueType:
    """Never certain: a human on the telephone asks further."""
    return pb.MATCH_GRADE_PROBABLE if score >= PROBABLE else pb.MATCH_GRADE_POSSIBLE


def _names(asked: str, *known: str) -> float:
    wanted = normalise_name(asked)
    best = 0.0
    for name in filter(None, map(normalise_name, known)):
        if name == wanted:
            return 1.0
        if name.startswith(wanted) or wanted in name.split():
            best = max(best, 0.9)
        near = JaroWinkler.similarity(name, wanted)
        best = max(best, 0.8 if near >= _CLOSE else 0.0)
    return best


def _date(asked: str, known: str) -> float:
    if asked == known:
        return 1.0
    if known and asked and (known.startswith(asked) or asked.startswith(known)):
        return 0.8
    whole = len(asked) == len(known) == _FULL_DATE
    return 0.6 if whole and (swapped_birth_date(asked) == known or one_digit_apart(asked, known)) else 0.0


def _sex(asked: int, known: int) -> float:
    return 1.0 if asked == known else 0.5 if known not in (pb.SEX_FEMALE, pb.SEX_MALE) else 0.0


def _bare(text: str) -> str:
    return text.replace(" ", "")
