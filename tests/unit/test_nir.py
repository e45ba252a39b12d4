"""The NIR, its key, and the INS-C."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.nir import NirError, check_insc, compute_insc, insc_first_name, nir_key, parse_nir
from services.runtime.errors import DmpError
from services.runtime.identifiers import format_health_id, parse_health_id

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "identity" / "insc_vectors.csv"

nirs = st.builds(
    "{}{:02}{:02}{}{:03}{:03}".format,
    st.sampled_from([1, 2]),
    st.integers(0, 99),
    st.integers(1, 12),
    st.sampled_from(["01", "13", "2A", "2B", "75", "95", "97", "99"]),
    st.integers(1, 990),
    st.integers(1, 999),
)


def test_the_published_vectors_are_found() -> None:
    if not VECTORS.exists():
        pytest.skip("../shared/data/identity is absent: the INS-C vectors are not copied")
    with VECTORS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 157
    for row in rows:
        assert nir_key(row["nir"]) == int(row["nir_key"])
        found = compute_insc(row["first_name"], row["birth_date_yymmdd"], row["nir"])
        assert found == row["insc"] + row["insc_key"]
        check_insc(found)


@pytest.mark.parametrize("nir", ["279035121518989", "277076322082910"])
def test_a_number_of_the_official_examples_is_right(nir: str) -> None:
    assert str(parse_nir(nir)) == nir


def test_corsica_counts_as_nineteen_and_eighteen() -> None:
    assert nir_key("265112A571315") == 79
    assert nir_key("285072B502024") == 65


@pytest.mark.parametrize(
    "text",
    ["", "279035121518", "2790351215189", "27903512151898", "2790351215189890", "279035121518988 ", "579035121518989",
     "279135121518989", "27903512151898９", "2790C5121518989", "279035121518a89"],
)  # fmt: skip
def test_what_has_not_the_form_is_refused(text: str) -> None:
    with pytest.raises(NirError) as refused:
        parse_nir(text)
    assert refused.value.rule == "format"


@given(nirs, st.integers(0, 99))
def test_only_one_key_fits(number: str, key: int) -> None:
    right = nir_key(number)
    assert 1 <= right <= 97
    if key == right:
        assert parse_nir(f"{number}{key:02d}").number == number
        return
    with pytest.raises(NirError) as refused:
        parse_nir(f"{number}{key:02d}")
    assert refused.value.rule == "key"
    assert number not in str(refused.value)


@given(nirs, st.data())
def test_the_key_catches_every_single_wrong_digit(number: str, data: st.DataObject) -> None:
    places = [i for i in range(13) if number[i].isdigit() and i not in {0, 3, 4, 5, 6}]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from("0123456789").filter(lambda d: d != number[place]))
    assert nir_key(number[:place] + digit + number[place + 1 :]) != nir_key(number)


def test_a_nir_is_not_shown() -> None:
    assert "279035121518989" not in repr(parse_nir("279035121518989"))


@pytest.mark.parametrize(
    ("first_name", "expected"),
    [
        ("Élise", "ELISE     "),
        ("Jean-François", "JEANFRANCO"),
        ("MARIE ODILE", "MARIEODILE"),
        ("L'Ô", "LO        "),
        ("Cœline", "COELINE   "),
        ("", " " * 10),
    ],
)
def test_first_names_are_counted_in_plain_capitals(first_name: str, expected: str) -> None:
    assert insc_first_name(first_name) == expected


@given(st.text(max_size=40), nirs)
def test_an_insc_is_always_22_digits_with_a_right_key(first_name: str, number: str) -> None:
    found = compute_insc(first_name, "000000", number)
    assert len(found) == 22
    check_insc(found)


@given(st.integers(0, 2**64 - 1), st.integers(1, 96))
def test_an_insc_with_another_key_is_refused(number: int, shift: int) -> None:
    key = 97 - number % 97
    with pytest.raises(NirError):
        check_insc(f"{number:020d}{(key + shift - 1) % 97 + 1:02d}")


# --- what the keys catch ---------------------------------------------------------------------------------------------
# 97 is a prime that divides no difference d * 10**k (0 < |d| < 10) and none of two neighbours exchanged, 9 * d * 10**k:
# every single wrong digit and every such swap is caught, wherever it leaves a number of the right form.

Numbered = tuple[str, Callable[[str], object]]
keyed: st.SearchStrategy[Numbered] = st.one_of(
    nirs.map(lambda number: (f"{number}{nir_key(number):02d}", parse_nir)),
    st.integers(0, 2**64 - 1).map(lambda number: (f"{number:020d}{97 - number % 97:02d}", check_insc)),
    st.integers(1, 2**63 - 1).map(
        lambda number: (format_health_id(number), lambda text: parse_health_id(text, "name"))
    ),
)


def is_taken(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except (NirError, DmpError):
        return False
    return True


@given(keyed, st.data())
def test_every_single_wrong_digit_is_caught(numbered: Numbered, data: st.DataObject) -> None:
    number, read = numbered
    assert is_taken(read, number)
    place = data.draw(st.sampled_from([i for i, character in enumerate(number) if character.isdigit()]))
    digit = data.draw(st.sampled_from("0123456789").filter(lambda d: d != number[place]))
    assert not is_taken(read, number[:place] + digit + number[place + 1 :])


@given(keyed, st.data())
def test_every_swap_of_two_neighbours_is_caught(numbered: Numbered, data: st.DataObject) -> None:
    number, read = numbered
    swaps = [i for i in range(len(number) - 1) if number[i] != number[i + 1] and number[i : i + 2].isdigit()]
    if not swaps:
        return
    place = data.draw(st.sampled_from(swaps))
    assert not is_taken(read, number[:place] + number[place + 1] + number[place] + number[place + 2 :])
