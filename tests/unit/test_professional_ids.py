"""RPPS, FINESS, IDNPS and IDNST."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.professional_ids import (
    ProfessionalId,
    ProfessionalIdKind,
    StructureId,
    StructureIdKind,
    finess_key,
    idnps,
    idnst,
    is_finess,
    is_luhn,
    is_rpps,
    luhn_digit,
    parse_idnps,
    parse_idnst,
)

digits = st.text(alphabet="0123456789", min_size=1, max_size=30)


@given(digits)
def test_the_luhn_digit_completes_any_number(payload: str) -> None:
    assert is_luhn(f"{payload}{luhn_digit(payload)}")


@given(digits, st.data())
def test_luhn_catches_every_single_wrong_digit(payload: str, data: st.DataObject) -> None:
    number = f"{payload}{luhn_digit(payload)}"
    place = data.draw(st.integers(0, len(number) - 1))
    digit = data.draw(st.sampled_from("0123456789").filter(lambda d: d != number[place]))
    assert not is_luhn(number[:place] + digit + number[place + 1 :])


@given(st.text(max_size=14))
def test_any_text_has_an_answer(text: str) -> None:
    assert is_rpps(text) in {True, False}
    assert is_finess(text) in {True, False}


def test_the_luhn_digit_is_computed_over_digits() -> None:
    with pytest.raises(ValueError, match="digits"):
        luhn_digit("12a")


def test_corsica_s_letters_count_as_digits() -> None:
    assert is_finess("2A0000014")
    assert is_finess("2B0000020")
    assert not is_finess("2C0000014")
    assert finess_key("2A000001") == 4
    with pytest.raises(ValueError, match="FINESS"):
        finess_key("2A00000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("801234567897", ProfessionalId(ProfessionalIdKind.RPPS, "01234567897", True)),
        ("801234534765", ProfessionalId(ProfessionalIdKind.RPPS, "01234534765", False)),
        ("00B1057294", ProfessionalId(ProfessionalIdKind.ADELI, "0B1057294", None)),
        (
            "578435954900010/1.2.250.1.176.1",
            ProfessionalId(ProfessionalIdKind.SIRET_INTERNAL, "78435954900010/1.2.250.1.176.1", None),
        ),
    ],
)
def test_an_idnps_of_the_official_examples_is_taken_apart(text: str, expected: ProfessionalId) -> None:
    assert parse_idnps(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1750803447", StructureId(StructureIdKind.FINESS, "750803447", True)),
        ("1120456789", StructureId(StructureIdKind.FINESS, "120456789", False)),
        ("378435954900010", StructureId(StructureIdKind.SIRET, "78435954900010", True)),
        ("00B105729400", StructureId(StructureIdKind.ADELI_RANK, "0B105729400", None)),
    ],
)
def test_an_idnst_of_the_official_examples_is_taken_apart(text: str, expected: StructureId) -> None:
    assert parse_idnst(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8", "80123456789", "901234567897", "8012345678970", "80123456789a", "3750803447"]
)
def test_what_is_no_idnps_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IDNPS"):
        parse_idnps(text)


@pytest.mark.parametrize("text", ["", "1", "175080344", "9750803447", "1 50803447", "1²50803447"])
def test_what_is_no_idnst_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IDNST"):
        parse_idnst(text)


def test_the_national_identifiers_are_prefixes() -> None:
    assert parse_idnps(idnps("01234567897")).kind is ProfessionalIdKind.RPPS
    assert parse_idnst(idnst("750803447")).kind is StructureIdKind.FINESS


@given(digits, st.data())
def test_luhn_catches_every_swap_of_neighbours_but_of_nought_and_nine(payload: str, data: st.DataObject) -> None:
    number = f"{payload}{luhn_digit(payload)}"
    swaps = [i for i in range(len(number) - 1) if number[i] != number[i + 1]]
    if not swaps:
        return
    place = data.draw(st.sampled_from(swaps))
    swapped = number[:place] + number[place + 1] + number[place] + number[place + 2 :]
    assert is_luhn(swapped) == ({number[place], number[place + 1]} == {"0", "9"})
