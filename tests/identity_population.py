"""A population with the errors that registers have, drawn from a seed, and what a register makes of it. No I/O.

Everyone is made up. A quarter of the people come twice, the second time with an error of one of the kinds below (or
two, or none); twins and homonyms are different people who look alike. `entity` says who is who.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from typing import Final

from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from ops.demo.french_names import BIRTH_PLACES, FAMILY_NAMES, GIVEN_NAMES_F, GIVEN_NAMES_M
from services.identity.nir import TEST_NIR_OID, nir_key

_OLDEST: Final = date(1930, 1, 1)
_DAYS: Final = 34_000
_SYLLABLES: Final = (
    *("ba", "bel", "ber", "bou", "bre", "cha", "chan", "cor", "dan", "del", "dou", "dur", "fer", "fou", "gar", "gou"),
    *("gué", "jan", "jou", "la", "lan", "len", "lou", "mar", "mau", "mon", "mou", "nar", "nou", "par", "per", "pou"),
    *("ran", "ré", "rou", "sau", "ser", "sou", "tan", "tho", "tour", "val", "ver", "vi"),
)
_ENDINGS: Final = ("ard", "aud", "eau", "el", "er", "et", "ez", "ier", "in", "is", "on", "ot", "oux", "y")
_LETTERS: Final = "abcdefghijklmnoprstuvyz"


@dataclass(frozen=True, slots=True)
class Record:
    """One registration: who it really is, and what was typed in."""

    entity: int
    traits: pb.Traits
    identifiers: tuple[Identifier, ...]
    error: str


@dataclass(frozen=True, slots=True)
class Quality:
    """What a register made of a population: pairs of records by what they are and what was made of them."""

    people: int
    records: int
    certain_right: int
    certain_wrong: int
    listed_right: int
    listed_wrong: int
    true_pairs: int
    missed: Mapping[str, int]

    @property
    def certain_precision(self) -> float:
        """How many of the pairs taken for one person are."""
        return self.certain_right / max(1, self.certain_right + self.certain_wrong)

    @property
    def recall(self) -> float:
        """How many of the true pairs were found: certain, stopped, or on the work list."""
        return (self.certain_right + self.listed_right) / max(1, self.true_pairs)

    @property
    def listed_precision(self) -> float:
        """How many of the pairs on the work list are one person."""
        return self.listed_right / max(1, self.listed_right + self.listed_wrong)


def population(people: int, seed: int) -> list[Record]:
    """The records of a population, in the order in which they come in."""
    rng = random.Random(f"register/{seed}")
    records: list[Record] = []
    numbers = iter(range(10**9))
    entity = 0
    while entity < people:
        person = _person(rng)
        records += _records(rng, entity, person, numbers)
        entity += 1
        kind = rng.random()
        if kind < 0.02:
            records += _records(rng, entity, _twin(rng, person), numbers)
            entity += 1
        elif kind < 0.025:
            records += _records(rng, entity, _homonym(rng, person), numbers)
            entity += 1
    rng.shuffle(records)
    return records


def judge(
    records: list[Record], taken_for: Mapping[int, int], listed: Iterable[tuple[int, int]], stopped: Mapping[int, int]
) -> Quality:
    """The quality of a register. By place in `records`: `taken_for` is whom each was registered as (absent: refused),
    `stopped` whose record stood in the way of one refused; `listed` are the pairs of the work list."""
    owners: dict[int, list[int]] = {}
    for place, health_id in taken_for.items():
        owners.setdefault(health_id, []).append(place)
    certain = Counter(
        records[one].entity == records[other].entity
        for places in owners.values()
        for one, other in combinations(places, 2)
    )
    entities = {health_id: {records[place].entity for place in places} for health_id, places in owners.items()}
    shown = {tuple(sorted(pair)) for pair in listed}
    right = {pair for pair in shown if entities[pair[0]] & entities[pair[1]]}
    right_stops = sum(records[place].entity in entities[owner] for place, owner in stopped.items())
    by_entity: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        by_entity.setdefault(record.entity, []).append(place)
    missed: Counter[str] = Counter()
    pairs = 0
    for places in by_entity.values():
        for one, other in combinations(places, 2):
            pairs += 1
            found = {taken_for.get(one, stopped.get(one)), taken_for.get(other, stopped.get(other))}
            if len(found) == 2 and tuple(sorted(each or 0 for each in found)) not in shown:
                missed[records[one].error or records[other].error] += 1
    return Quality(
        people=len(by_entity),
        records=len(records),
        certain_right=certain[True],
        certain_wrong=certain[False],
        listed_right=len(right) + right_stops,
        listed_wrong=len(shown) - len(right) + len(stopped) - right_stops,
        true_pairs=pairs,
        missed=missed,
    )


# --- people ------------------------------------------------------------------------------------------------------


def _person(rng: random.Random) -> pb.Traits:
    woman = rng.random() < 0.5
    pool = GIVEN_NAMES_F if woman else GIVEN_NAMES_M
    given = rng.sample(pool, rng.choices((1, 2, 3), (25, 40, 35))[0])
    born = _OLDEST + timedelta(days=rng.randrange(_DAYS))
    traits = pb.Traits(
        birth_name=_family(rng),
        birth_given_names=" ".join(given),
        first_birth_given_name=given[0],
        sex=pb.SEX_FEMALE if woman else pb.SEX_MALE,
        birth_date=born.isoformat(),
        birth_place=_place(rng),
    )
    if woman and born.year < 2000 and rng.random() < 0.4:
        traits.used_name = _family(rng)
    return traits


def _family(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return FAMILY_NAMES[min(len(FAMILY_NAMES) - 1, int(rng.expovariate(1 / 60)))]
    return ("".join(rng.sample(_SYLLABLES, rng.choice((1, 2)))) + rng.choice(_ENDINGS)).capitalize()


def _place(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(BIRTH_PLACES).code
    return f"{rng.randint(1, 95):02d}{int(rng.expovariate(1 / 40)) % 900:03d}".replace("20", "21", 1)


def _twin(rng: random.Random, person: pb.Traits) -> pb.Traits:
    twin = _copy(person)
    woman = rng.random() < 0.5
    pool = [name for name in (GIVEN_NAMES_F if woman else GIVEN_NAMES_M) if name not in person.birth_given_names]
    given = rng.sample(pool, 2)
    twin.first_birth_given_name, twin.birth_given_names = given[0], " ".join(given)
    twin.sex = pb.SEX_FEMALE if woman else pb.SEX_MALE
    twin.used_name = ""
    return twin


def _homonym(rng: random.Random, person: pb.Traits) -> pb.Traits:
    other = _copy(person)
    while other.birth_place == person.birth_place:
        other.birth_place = _place(rng)
    other.birth_given_names = other.first_birth_given_name
    return other


# --- records -----------------------------------------------------------------------------------------------------


def _records(rng: random.Random, entity: int, person: pb.Traits, numbers: Iterator[int]) -> Iterator[Record]:
    number = next(numbers)
    ins = _ins(person, number)
    yield Record(entity, person, (ins,) if rng.random() < 0.6 else (), "")
    if rng.random() >= 0.25:
        return
    if rng.random() < 0.15:
        yield Record(entity, person, (ins,) if rng.random() < 0.5 else (), "none")
        return
    kinds = rng.sample(list(_ERRORS), 2 if rng.random() < 0.1 else 1)
    wrong = _copy(person)
    for kind in kinds:
        wrong = _ERRORS[kind](rng, wrong)
    stated = (ins,) if rng.random() < 0.1 else ()
    yield Record(entity, wrong, stated, " and ".join(sorted(kinds)))


def _ins(person: pb.Traits, number: int) -> Identifier:
    """Unique by the number; it says nothing true, which is the same to a register."""
    payload = f"{1 if person.sex == pb.SEX_MALE else 2}{person.birth_date[2:4]}{number % 12 + 1:02d}{number // 12:08d}"
    return Identifier(system=TEST_NIR_OID, value=f"{payload}{nir_key(payload):02d}")


def _typed(rng: random.Random, name: str) -> str:
    place = rng.randrange(len(name))
    kind = rng.randrange(4)
    letter = rng.choice(_LETTERS)
    if kind == 0:
        return name[:place] + letter + name[place + 1 :]
    if kind == 1:
        return name[:place] + letter + name[place:]
    if kind == 2 and len(name) > 3:
        return name[:place] + name[place + 1 :]
    return name[: place - 1] + name[place] + name[place - 1] + name[place + 1 :] if place else name + letter


def _copy(person: pb.Traits) -> pb.Traits:
    copied = pb.Traits()
    copied.CopyFrom(person)
    return copied


def _family_typed(rng: random.Random, person: pb.Traits) -> pb.Traits:
    person.birth_name = _typed(rng, person.birth_name)
    return person


def _given_typed(rng: random.Random, person: pb.Traits) -> pb.Traits:
    person.first_birth_given_name = _typed(rng, person.first_birth_given_name)
    person.birth_given_names = person.first_birth_given_name
    return person


def _without_accents(_rng: random.Random, person: pb.Traits) -> pb.Traits:
    for field in ("birth_name", "birth_given_names", "first_birth_given_name"):
        plain = unicodedata.normalize("NFD", getattr(person, field))
        setattr(person, field, "".join(each for each in plain if not unicodedata.combining(each)).upper())
    return person


def _given_swapped(rng: random.Random, person: pb.Traits) -> pb.Traits:
    given = person.birth_given_names.split()
    if len(given) < 2:
        return _given_typed(rng, person)
    given[0], given[1] = given[1], given[0]
    person.first_birth_given_name, person.birth_given_names = given[0], " ".join(given)
    return person


def _married(rng: random.Random, person: pb.Traits) -> pb.Traits:
    """The used name where the birth name belongs."""
    if not person.used_name:
        return _family_typed(rng, person)
    person.birth_name, person.used_name = person.used_name, ""
    return person


def _date_swapped(rng: random.Random, person: pb.Traits) -> pb.Traits:
    year, month, day = person.birth_date.split("-")
    if int(day) > 12 or day == month:
        return _date_typed(rng, person)
    person.birth_date = f"{year}-{day}-{month}"
    return person


def _date_typed(rng: random.Random, person: pb.Traits) -> pb.Traits:
    born = date.fromisoformat(person.birth_date)
    other = born.replace(day=born.day % 28 + 1) if rng.random() < 0.7 else born.replace(year=born.year - 1, day=1)
    person.birth_date = other.isoformat()
    return person


def _place_unknown(_rng: random.Random, person: pb.Traits) -> pb.Traits:
    person.birth_place = "99999"
    return person


def _names_exchanged(_rng: random.Random, person: pb.Traits) -> pb.Traits:
    person.birth_name, person.first_birth_given_name = person.first_birth_given_name, person.birth_name
    person.birth_given_names = person.first_birth_given_name
    return person


_ERRORS: Final[Mapping[str, Callable[[random.Random, pb.Traits], pb.Traits]]] = {
    "family name typed wrong": _family_typed,
    "given name typed wrong": _given_typed,
    "accents missing": _without_accents,
    "given names swapped": _given_swapped,
    "married name as birth name": _married,
    "day and month swapped": _date_swapped,
    "birth date typed wrong": _date_typed,
    "birth place unknown": _place_unknown,
    "given and family name exchanged": _names_exchanged,
}
