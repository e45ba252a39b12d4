"""How likely two records are of one person: a Fellegi–Sunter score over levels of agreement. Pure.

The weights are data (`matching_weights.json`): for each field and level how often true pairs (m) and strangers (u) are
at it; a pair's weight is the sum of log2(m/u). What is *certain* is not a matter of a score: `registration_rules`
decides it, and twins and homonyms exist. A score says what a human should look at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from rapidfuzz.distance import DamerauLevenshtein, JaroWinkler

from dmp.identity.v1 import identity_pb2 as pb
from services.identity.civil_identity import (
    Contact,
    PatientIdentifier,
    Traits,
    normalise_name,
    one_digit_apart,
    swapped_birth_date,
)

_FILE: Final = Path(__file__).with_name("matching_weights.json")
_CLOSE: Final = 0.9
_SIMILAR: Final = 0.8
_UNKNOWN_PLACES: Final = frozenset({"", "99999"})
_STATED_SEXES: Final = frozenset({pb.SEX_FEMALE, pb.SEX_MALE})
_FULL_DATE: Final = 10
_MONTH: Final = 7
_YEAR: Final = 4
_SHORT: Final = 3
_DEPARTMENT: Final = 2

_normalised = lru_cache(maxsize=1 << 16)(normalise_name)


@dataclass(frozen=True, slots=True, repr=False)
class Comparable:
    """What of a record is compared, normalised once."""

    birth_name: str
    used_name: str
    first_given: str
    other_given: frozenset[str]
    sex: int
    birth_date: str
    birth_place: str
    national: Mapping[str, str]
    postcode: str
    phone: str

    def __repr__(self) -> str:
        return "Comparable(…)"


@dataclass(frozen=True, slots=True)
class Score:
    """A pair's weight in bits, and what it means."""

    weight: float
    grade: pb.MatchGrade.ValueType
    probability: float


class Weights:
    """The weights of a file of this form; ValueError for levels that are not of a probability."""

    def __init__(self, text: str) -> None:
        data = json.loads(text)
        self._bits: dict[str, dict[str, float]] = {
            field: {level: math.log2(m / u) for level, (m, u) in levels.items()}
            for field, levels in data["levels"].items()
        }
        self._possible: float = data["thresholds"]["possible"]
        self._probable: float = data["thresholds"]["probable"]
        self._prior: float = data["prior"]

    def score(self, one: Comparable, other: Comparable) -> Score:
        """How likely the two are one person."""
        bits = self._bits
        weight = (
            bits["birth_date"][_date_level(one.birth_date, other.birth_date)]
            + bits["birth_name"][_name_level(one, other)]
            + bits["given_name"][_given_level(one, other)]
            + bits["sex"][_sex_level(one.sex, other.sex)]
            + bits["birth_place"][_place_level(one.birth_place, other.birth_place)]
            + bits["national_number"][_national_level(one.national, other.national)]
            + bits["contact"][_contact_level(one, other)]
        )
        return self.of(weight)

    def of(self, weight: float) -> Score:
        """What a pair's weight means."""
        return Score(weight, self._grade(weight), 1 / (1 + 2 ** -(weight + self._prior)))

    def _grade(self, weight: float) -> pb.MatchGrade.ValueType:
        if weight >= self._probable:
            return pb.MATCH_GRADE_PROBABLE
        return pb.MATCH_GRADE_POSSIBLE if weight >= self._possible else pb.MATCH_GRADE_CERTAINLY_NOT


WEIGHTS: Final = Weights(_FILE.read_text("utf-8"))


def comparable(
    traits: Traits, identifiers: Sequence[PatientIdentifier] = (), contact: Contact | None = None
) -> Comparable:
    """A record ready for comparing."""
    first = _normalised(traits.first_birth_given_name)
    given = set(_normalised(traits.birth_given_names).split())
    given.update(filter(None, (_normalised(traits.used_given_name),)))
    given -= set(first.split())
    return Comparable(
        birth_name=_normalised(traits.birth_name),
        used_name=_normalised(traits.used_name),
        first_given=first,
        other_given=frozenset(given),
        sex=traits.sex,
        birth_date=traits.birth_date,
        birth_place="" if traits.birth_place in _UNKNOWN_PLACES else traits.birth_place,
        national={known.system: known.value for known in identifiers if known.is_ins},
        postcode=contact.postcode if contact else "",
        phone=contact.phone if contact else "",
    )


def _name_level(one: Comparable, other: Comparable) -> str:
    if one.birth_name == other.birth_name:
        return "same"
    if one.birth_name == other.used_name or other.birth_name == one.used_name:
        return "crossed"
    if one.used_name and one.used_name == other.used_name:
        return "crossed"
    if one.birth_name == other.first_given and one.first_given == other.birth_name:
        return "crossed"  # the two names in each other's place
    near = JaroWinkler.similarity(one.birth_name.replace(" ", ""), other.birth_name.replace(" ", ""))
    return "close" if near >= _CLOSE else "similar" if near >= _SIMILAR else "different"


def _given_level(one: Comparable, other: Comparable) -> str:
    if one.first_given == other.first_given:
        return "same"
    if one.birth_name == other.first_given and one.first_given == other.birth_name:
        return "other_given"
    if one.first_given in other.other_given or other.first_given in one.other_given:
        return "other_given"
    ours, theirs = one.first_given.replace(" ", ""), other.first_given.replace(" ", "")
    if JaroWinkler.similarity(ours, theirs) >= _CLOSE:
        return "close"
    slip = min(len(ours), len(theirs)) > _SHORT and DamerauLevenshtein.distance(ours, theirs, score_cutoff=1) <= 1
    return "close" if slip else "different"


def _sex_level(one: int, other: int) -> str:
    if one not in _STATED_SEXES or other not in _STATED_SEXES:
        return "unknown"
    return "same" if one == other else "different"


def _date_level(one: str, other: str) -> str:
    if not one or not other:
        return "unknown"
    if one == other:
        return "same" if len(one) == _FULL_DATE else "compatible"
    if len(one) != _FULL_DATE or len(other) != _FULL_DATE:
        return "compatible" if one.startswith(other) or other.startswith(one) else "different"
    if swapped_birth_date(one) == other:
        return "swapped"
    if one_digit_apart(one, other):
        return "one_digit"
    if one[:_MONTH] == other[:_MONTH]:
        return "same_month"
    return "same_year" if one[:_YEAR] == other[:_YEAR] else "different"


def _place_level(one: str, other: str) -> str:
    if not one or not other:
        return "unknown"
    if one == other:
        return "same"
    return "same_department" if one[:_DEPARTMENT] == other[:_DEPARTMENT] else "different"


def _national_level(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    shared = one.keys() & other.keys()
    if not shared:
        return "unknown"
    return "same" if any(one[system] == other[system] for system in shared) else "different"


def _contact_level(one: Comparable, other: Comparable) -> str:
    if one.phone and one.phone == other.phone:
        return "same"
    if not one.postcode or not other.postcode:
        return "unknown"
    return "same" if one.postcode == other.postcode else "different"
