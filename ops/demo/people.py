"""Demo people: French civil identities drawn from a seed.

Here live pure functions without I/O. The same seed gives the same people, and the first ones do not change when more
are asked for.

None of them is anyone. Their NIRs have a right key, so that everything can be checked, but the order number in them is
900 or more, which the communes used never reach in a month; and they are of the demo system (OID …1.4.11), which a
production system does not know.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from typing import Final, Literal

from ops.demo.french_names import BIRTH_PLACES, FAMILY_NAMES, GIVEN_NAMES_F, GIVEN_NAMES_M, STREETS, Place
from services.identity.nir import DEMO_NIR_OID, nir_key

Sex = Literal["M", "F"]

DEMO_SEED: Final = 2026
"""Of the people whom `make run` knows."""
_OLDEST: Final = date(1928, 1, 1)
_YOUNGEST: Final = date(2024, 12, 31)
_CORSICA_SPLIT: Final = 1976
"""2A and 2B appear in numbers from this year on; before, both were 20."""
_FIRST_ORDER: Final = 900
_ORDERS: Final = 100
_MAINLAND: Final = tuple(place for place in BIRTH_PLACES if not place.code.startswith("2"))


@dataclass(frozen=True, slots=True)
class DemoPerson:
    """A person. `given` are all given names of birth, the first one first; used names are None where none is used.

    `nir` is the INS: 13 characters and the key, of system `nir_oid`.
    """

    birth_family: str
    given: tuple[str, ...]
    used_family: str | None
    used_given: str | None
    sex: Sex
    birth_date: date
    birth_place: Place
    nir: str
    nir_oid: str
    street: str
    city: Place

    @property
    def first_given(self) -> str:
        """The first given name of birth."""
        return self.given[0]


def people(n: int, seed: int) -> tuple[DemoPerson, ...]:
    """Give the first `n` people of a seed, each with a NIR of their own."""
    return tuple(islice(iter_people(seed), n))


def iter_people(seed: int) -> Iterator[DemoPerson]:
    """Yield the people of a seed, one by one, without end (about ten million have room)."""
    rng = random.Random(f"people/{seed}")
    taken: set[str] = set()
    while True:
        sex: Sex = "F" if rng.random() < 0.5 else "M"
        born = _OLDEST + timedelta(days=rng.randrange((_YOUNGEST - _OLDEST).days + 1))
        place = rng.choice(BIRTH_PLACES if born.year >= _CORSICA_SPLIT else _MAINLAND)
        number = _free_number(sex, born, place, rng.randrange(_ORDERS), taken)
        if number is not None:
            yield _person(rng, sex, born, place, number)


def _free_number(sex: Sex, born: date, place: Place, first: int, taken: set[str]) -> str | None:
    """Take the first NIR that nobody has, from order number 900 + `first` on; None when the month is full."""
    stem = f"{1 if sex == 'M' else 2}{born:%y%m}{place.code}"
    for step in range(_ORDERS):
        number = f"{stem}{_FIRST_ORDER + (first + step) % _ORDERS}"
        if number not in taken:
            taken.add(number)
            return number
    return None


def _person(rng: random.Random, sex: Sex, born: date, place: Place, number: str) -> DemoPerson:
    pool = GIVEN_NAMES_F if sex == "F" else GIVEN_NAMES_M
    given = tuple(rng.sample(pool, rng.choices((1, 2, 3), (25, 40, 35))[0]))
    married = born.year < 2000 and rng.random() < (0.4 if sex == "F" else 0.03)
    goes_by_second = len(given) > 1 and rng.random() < 0.06
    return DemoPerson(
        birth_family=_family(rng),
        given=given,
        used_family=_family(rng) if married else None,
        used_given=given[1] if goes_by_second else None,
        sex=sex,
        birth_date=born,
        birth_place=place,
        nir=f"{number}{nir_key(number):02d}",
        nir_oid=DEMO_NIR_OID,
        street=f"{rng.randint(1, 120)} {rng.choice(STREETS)}",
        city=rng.choice(BIRTH_PLACES),
    )


def _family(rng: random.Random) -> str:
    return rng.choice(FAMILY_NAMES).upper()
