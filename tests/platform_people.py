"""People and professionals for the tests of the running platform. Pure: no I/O.

The people have names that occur nowhere else, so that a search for them after the run (test_platform_privacy) finds
nothing by accident, and were all born before 1990, so that no other date is taken for their birth date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any, Final, NamedTuple

from ops.demo.directory import DemoProfessional, DemoStructure, professionals, structures
from ops.demo.people import DemoPerson, iter_people
from ops.session import Statement

_SEED: Final = 20_261_122
_PHYSICIAN: Final = "10"


class Caregiver(NamedTuple):
    """A physician who acts in a structure, through partner software."""

    professional: DemoProfessional
    structure: DemoStructure

    def statement(self, **more: Any) -> Statement:
        """Who acts; `more` are further fields of the statement, such as `access_mode`."""
        professional, structure = self
        return Statement.professional(
            professional.idnps,
            professional.profession_code,
            subject_name=f"{professional.given} {professional.family}",
            specialty=professional.specialty.code,
            structure=structure.idnst,
            structure_name=structure.name,
            **more,
        )


def unmistakable_people() -> Iterator[DemoPerson]:
    """People without end, each with a NIR and names of their own."""
    born_long_ago = (person for person in iter_people(_SEED) if person.birth_date.year < 1990)
    for number, person in enumerate(born_long_ago):
        tail = _letters(number)
        yield replace(
            person,
            birth_family=f"ZWIRGLOT{tail}",
            given=(f"Quixalbert{tail.lower()}", f"Vroxandre{tail.lower()}"),
            used_family=f"KWYZANDEL{tail}" if number % 3 == 0 else None,
            used_given=None,
        )


def caregivers() -> Iterator[Caregiver]:
    """Physicians, each in a structure of their own, so that nobody is authorised or blocked through a colleague's."""
    most = 2_000
    physicians = (each for each in professionals(most, _SEED) if each.profession_code == _PHYSICIAN)
    for professional, structure in zip(physicians, structures(most, _SEED), strict=False):
        yield Caregiver(professional, structure)


class Needle(NamedTuple):
    """A text that says something about a person, and what it is (never shown with its value)."""

    what: str
    text: str


def needles(person: DemoPerson) -> list[Needle]:
    """What may be found in clear of a person nowhere but in the memory of identity."""
    names = {person.birth_family, *person.given, *(name for name in (person.used_family, person.used_given) if name)}
    return [
        Needle("NIR with key", person.nir),
        Needle("NIR", person.nir[:13]),
        *birth_date_needles(person.birth_date),
        *(Needle("name", name) for name in sorted(names)),
    ]


def birth_date_needles(born: date) -> list[Needle]:
    """A birth date as ISO, HL7 and the French write it."""
    return [
        Needle("birth date, ISO", born.isoformat()),
        Needle("birth date, HL7", f"{born:%Y%m%d}"),
        Needle("birth date, French", f"{born:%d/%m/%Y}"),
    ]


def _letters(number: int) -> str:
    """Three capital letters for each number below 17,576."""
    return "".join(chr(ord("A") + digit) for digit in (number // 676, number // 26 % 26, number % 26))
