"""Demo professionals and structures, drawn from a seed.

Here live pure functions without I/O. Numbers have right Luhn keys and begin with 99, a prefix that neither the RPPS nor
a department has. Kinds follow each other in a fixed order, so that the first ten of each cover every kind of document.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, NamedTuple

from ops.demo.french_names import BIRTH_PLACES, FAMILY_NAMES, GIVEN_NAMES_F, GIVEN_NAMES_M, STREETS, Place
from services.document.codes import FACILITY_TYPES, PRACTICE_SETTINGS, SPECIALTIES, Coded
from services.identity.professional_ids import finess_key, idnps, idnst, luhn_digit

SPECIALTY_SYSTEM: Final = "1.2.250.1.213.1.1.4.5"
FACILITY_SYSTEM: Final = "1.2.250.1.71.4.2.4"
SETTING_SYSTEM: Final = "1.2.250.1.213.1.1.4.9"


class _Structure(NamedTuple):
    facility_type: str
    practice_setting: str
    name: str


_PROFESSIONS: Final = (
    ("10", "G15_10/SM54"),  # general practice
    ("21", "G15_21/A"),  # pharmacy
    ("10", "G15_10/SM03"),  # biology
    ("10", "G15_10/SM44"),  # radiology
    ("60", "G15_60"),
    ("10", "G15_10/SM04"),  # cardiology
    ("50", "G15_50"),
    ("10", "G15_10/SM26"),  # general practice, qualified
    ("40", "G15_40"),
    ("70", "G15_70"),
)
_STRUCTURES: Final = (
    _Structure("SA07", "AMBULATOIRE", "Cabinet du docteur {family}"),
    _Structure("SA33", "AMBULATOIRE", "Pharmacie de {city}"),
    _Structure("SA25", "AMBULATOIRE", "Laboratoire {family} de {city}"),
    _Structure("SA08", "AMBULATOIRE", "Centre d’imagerie de {city}"),
    _Structure("SA01", "ETABLISSEMENT", "Centre hospitalier de {city}"),
    _Structure("SA52", "AMBULATOIRE", "Maison de santé de {city}"),
    _Structure("SA04", "ETABLISSEMENT", "Clinique {family}"),
    _Structure("SA05", "AMBULATOIRE", "Centre de santé de {city}"),
)


@dataclass(frozen=True, slots=True)
class DemoProfessional:
    """A professional: RPPS number (11 digits), national identifier, profession and speciality, name."""

    rpps: str
    idnps: str
    profession_code: str
    specialty: Coded
    specialty_label: str
    family: str
    given: str
    civility: str
    title: str | None


@dataclass(frozen=True, slots=True)
class DemoStructure:
    """A structure: FINESS number (9 characters), national identifier, name, facility type, practice setting."""

    finess: str
    idnst: str
    name: str
    facility_type: Coded
    facility_label: str
    practice_setting: Coded
    setting_label: str
    street: str
    city: Place


def professionals(n: int, seed: int) -> tuple[DemoProfessional, ...]:
    """Give the first `n` professionals of a seed, each with an RPPS number of their own."""
    rng = random.Random(f"professionals/{seed}")
    numbers = rng.sample(range(10**8), n) if n else []
    return tuple(
        _professional(random.Random(f"professional/{seed}/{i}"), i, number) for i, number in enumerate(numbers)
    )


def structures(n: int, seed: int) -> tuple[DemoStructure, ...]:
    """Give the first `n` structures of a seed, each with a FINESS number of its own."""
    rng = random.Random(f"structures/{seed}")
    numbers = rng.sample(range(10**6), n) if n else []
    return tuple(_structure(random.Random(f"structure/{seed}/{i}"), i, number) for i, number in enumerate(numbers))


def _professional(rng: random.Random, index: int, number: int) -> DemoProfessional:
    profession, code = _PROFESSIONS[index % len(_PROFESSIONS)]
    specialty = Coded(code, SPECIALTY_SYSTEM)
    payload = f"99{number:08d}"
    rpps = f"{payload}{luhn_digit(payload)}"
    woman = rng.random() < 0.5
    return DemoProfessional(
        rpps=rpps,
        idnps=idnps(rpps),
        profession_code=profession,
        specialty=specialty,
        specialty_label=SPECIALTIES[specialty].label,
        family=rng.choice(FAMILY_NAMES).upper(),
        given=rng.choice(GIVEN_NAMES_F if woman else GIVEN_NAMES_M),
        civility="MME" if woman else "M",
        title="DR" if profession in {"10", "21", "40"} else None,
    )


def _structure(rng: random.Random, index: int, number: int) -> DemoStructure:
    kind = _STRUCTURES[index % len(_STRUCTURES)]
    facility, setting = Coded(kind.facility_type, FACILITY_SYSTEM), Coded(kind.practice_setting, SETTING_SYSTEM)
    payload = f"99{number:06d}"
    finess = f"{payload}{finess_key(payload)}"
    city = rng.choice(BIRTH_PLACES)
    family = rng.choice(FAMILY_NAMES)
    return DemoStructure(
        finess=finess,
        idnst=idnst(finess),
        name=kind.name.format(city=city.name, family=family),
        facility_type=facility,
        facility_label=FACILITY_TYPES[facility].label,
        practice_setting=setting,
        setting_label=PRACTICE_SETTINGS[setting].label,
        street=f"{rng.randint(1, 120)} {rng.choice(STREETS)}",
        city=city,
    )
