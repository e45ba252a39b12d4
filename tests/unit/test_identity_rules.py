"""Who is the same person, and whom a document is about: the rules, case by case."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp.common.v1 import error_reason_pb2 as reasons
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import blocks
from services.identity.civil_identity import (
    PatientIdentifier,
    Traits,
    name_prefixes,
    normalise_name,
    read_traits,
    same_traits,
    sought,
)
from services.identity.digests import Digests
from services.identity.nir import INSC_OID, NIA_OID, NIR_OID, TEST_NIR_OID
from services.identity.registration_rules import RegisteredPerson, RegistrationRefused, Wish, find_registered
from services.identity.verification_rules import Claim, KnownPerson, is_about
from services.runtime.errors import DmpError
from tests.identity_service import KEYRING, traits

NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
OWN = PatientIdentifier(TEST_NIR_OID, "279035121518989")
OTHERS = PatientIdentifier(TEST_NIR_OID, "277076322082910")
IPP = PatientIdentifier("1.2.250.1.999.1", "IPP-1")


def stated(*args: str, **changes: str) -> Traits:
    return read_traits(traits(*args, **changes), NOW)  # type: ignore[arg-type]


def registered(health_id: int, *identifiers: PatientIdentifier, who: Traits | None = None) -> RegisteredPerson:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    return RegisteredPerson(health_id, who or stated(), identifiers, pb.IDENTITY_STATUS_PROVISIONAL, made)


def wish(*identifiers: PatientIdentifier, who: Traits | None = None) -> Wish:
    return Wish(who or stated(), identifiers, pb.IDENTITY_STATUS_PROVISIONAL)


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pat-Trois", "PAT TROIS"),
        ("François", "FRANCOIS"),
        ("D'Artagnan", "d’artagnan"),
        ("Lœtitia", "LOETITIA"),
        ("  Le   Goff ", "le goff"),
        ("Noe\u0308l", "NOËL"),
        ("Strauß", "STRAUSS"),
        ("Søren Łukasz", "soren lukasz"),
        ("Đorđe Þór", "DORDE THOR"),
        ("Ǿ", "o"),
    ],
)
def test_case_accents_hyphens_and_apostrophes_make_no_other_name(one: str, other: str) -> None:
    assert normalise_name(one) == normalise_name(other)


@given(st.text())
def test_normalising_twice_is_normalising_once(name: str) -> None:
    assert normalise_name(normalise_name(name)) == normalise_name(name)


def test_people_are_searched_by_three_letters_of_each_family_name() -> None:
    assert name_prefixes(stated("Le Goff", used_name="Éluard")) == {"LEG", "ELU"}


def test_an_unknown_birth_place_agrees_with_any_and_two_known_ones_do_not() -> None:
    assert same_traits(stated(), stated(birth_place="99999"))
    assert not same_traits(stated(), stated(birth_place="63220"))


def test_traits_and_identifiers_never_show_in_a_repr() -> None:
    assert "Dominique" not in repr((stated(), OWN, registered(1, OWN), wish(OWN)))
    assert OWN.value not in repr((OWN, registered(1, OWN), wish(OWN)))


# --- registration ------------------------------------------------------------------------------------------------


def test_nobody_alike_is_a_new_person() -> None:
    assert find_registered(wish(OWN), {}, []) is None


def test_the_owner_of_a_number_with_the_same_traits_is_the_person() -> None:
    person = registered(1, OWN)
    assert find_registered(wish(OWN, IPP), {OWN: person}, [person]) is person


@pytest.mark.parametrize(
    ("asked", "owners", "alike", "reason"),
    [
        (
            wish(OWN, who=stated("Autre")),
            {OWN: registered(1, OWN)},
            [],
            reasons.ERROR_REASON_PERSON_CONFLICT,
        ),
        (
            wish(OWN, IPP),
            {OWN: registered(1, OWN), IPP: registered(2, IPP)},
            [],
            reasons.ERROR_REASON_PERSON_CONFLICT,
        ),
        (wish(OWN), {}, [registered(1, OTHERS)], reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE),
        (
            wish(PatientIdentifier(NIA_OID, OWN.value)),
            {},
            [registered(1, OTHERS)],
            reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE,
        ),
        (wish(), {}, [registered(1), registered(2)], reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE),
        (
            wish(OWN, IPP),
            {IPP: registered(1, OTHERS, IPP)},
            [],
            reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE,
        ),
        (
            wish(OWN, PatientIdentifier(NIR_OID, OWN.value)),
            {OWN: registered(1, OWN, PatientIdentifier(NIR_OID, OTHERS.value))},
            [],
            reasons.ERROR_REASON_PERSON_CONFLICT,
        ),
        (
            wish(who=stated(birth_place="")),
            {},
            [registered(1, who=stated(birth_place=""))],
            reasons.ERROR_REASON_PERSON_POSSIBLE_DUPLICATE,
        ),
    ],
)
def test_what_is_doubtful_is_left_to_a_human(
    asked: Wish,
    owners: dict[PatientIdentifier, RegisteredPerson],
    alike: list[RegisteredPerson],
    reason: int,
) -> None:
    with pytest.raises(RegistrationRefused) as caught:
        find_registered(asked, owners, alike)
    assert caught.value.reason == reason
    assert caught.value.health_id in (1, 2)


@pytest.mark.parametrize(("asked", "known"), [(wish(OWN), ()), (wish(), (OWN,)), (wish(IPP), (OWN,)), (wish(), ())])
def test_the_same_certain_traits_where_one_has_no_number_are_one_person(
    asked: Wish, known: tuple[PatientIdentifier, ...]
) -> None:
    person = registered(1, *known)
    assert find_registered(asked, {}, [person]) is person


# --- verification ------------------------------------------------------------------------------------------------

PERSON = KnownPerson(1, stated(used_name="Decourcy", used_given_name="Domi"), (OWN, IPP))


def says(
    *identifiers: PatientIdentifier,
    family: tuple[str, ...] = (),
    given: tuple[str, ...] = (),
    sex: int = pb.SEX_UNSPECIFIED,
    birth_date: str = "",
    invented: frozenset[str] = frozenset(),
) -> Claim:
    return Claim(identifiers, invented, family, given, sex, birth_date)


def test_the_persons_own_number_is_a_match() -> None:
    assert is_about(says(OWN), PERSON, {OWN: 1})
    assert is_about(says(OWN, family=("Quelqu'un d'autre",)), PERSON, {OWN: 1})


@pytest.mark.parametrize("known", ["", "1979", "1979-03"])
def test_a_birth_date_known_in_part_contradicts_no_whole_one_and_identifies_nobody(known: str) -> None:
    person = KnownPerson(1, stated(birth_date=known), (OWN,))
    assert is_about(says(OWN, birth_date="1979-03-28"), person, {OWN: 1})
    assert is_about(says(OWN, birth_date="1980-03-28"), person, {OWN: 1}) == (not known)
    traits_agree = says(family=("Pat-Trois",), given=("Dominique",), birth_date="1979-03-28")
    assert not is_about(traits_agree, person, {}), "a year is no birth date to know somebody by"


def test_who_is_born_where_the_day_has_begun_is_born_today() -> None:
    assert stated(birth_date="2026-11-22").birth_date == "2026-11-22"
    night = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)
    assert read_traits(traits(birth_date="2026-11-23"), night).birth_date == "2026-11-23", "half past midnight in Paris"
    assert read_traits(traits(birth_date="2026-11-23"), NOW.replace(hour=12)).birth_date, "midnight in Wallis"
    for future in ("2026-11-23", "2026-12"):
        with pytest.raises(DmpError) as caught:
            stated(birth_date=future)
        assert caught.value.fields[0].rule == "date.past"


@pytest.mark.parametrize("birth_date", ["1979-03-28", "1979-03", "1979", ""])
def test_a_birth_date_may_be_stated_in_part(birth_date: str) -> None:
    assert is_about(says(OWN, birth_date=birth_date), PERSON, {OWN: 1})


@pytest.mark.parametrize(
    "contradiction",
    [
        says(OWN, birth_date="1979-03-29"),
        says(OWN, birth_date="1980"),
        says(OWN, sex=pb.SEX_MALE),
    ],
)
def test_a_contradicting_birth_date_or_sex_is_a_mismatch_even_with_the_number(contradiction: Claim) -> None:
    assert not is_about(contradiction, PERSON, {OWN: 1})


def test_an_unknown_sex_contradicts_nothing() -> None:
    assert is_about(says(OWN, sex=pb.SEX_UNKNOWN), PERSON, {OWN: 1})


def test_another_persons_number_is_a_mismatch_whatever_else_agrees() -> None:
    claim = says(OTHERS, family=("Pat-Trois",), given=("Dominique",), birth_date="1979-03-28")
    assert not is_about(claim, PERSON, {OTHERS: 2})
    assert not is_about(says(OWN, OTHERS), PERSON, {OWN: 1, OTHERS: 2})


def test_a_number_that_nobody_has_is_a_mismatch_for_a_person_who_has_another() -> None:
    traits_agree = {"family": ("Pat-Trois",), "given": ("Dominique",), "birth_date": "1979-03-28"}
    assert not is_about(says(OTHERS, **traits_agree), PERSON, {})  # type: ignore[arg-type]
    assert not is_about(says(invented=frozenset({TEST_NIR_OID}), **traits_agree), PERSON, {})  # type: ignore[arg-type]
    without = KnownPerson(1, PERSON.traits, (IPP,))
    assert is_about(says(OTHERS, **traits_agree), without, {})  # type: ignore[arg-type]


def test_a_local_number_counts_only_where_no_national_one_is_known() -> None:
    assert is_about(says(IPP), PERSON, {IPP: 1})
    assert not is_about(says(IPP), PERSON, {IPP: 2})
    assert is_about(says(OWN, IPP), PERSON, {OWN: 1, IPP: 2})


@pytest.mark.parametrize("family", ["PAT TROIS", "decourcy"])
@pytest.mark.parametrize("given_name", ["DOMINIQUE", "Domi", "DOMINIQUE MARIE-LOUISE"])
def test_without_a_known_number_name_given_name_and_birth_date_must_all_agree(family: str, given_name: str) -> None:
    assert is_about(says(family=("X", family), given=(given_name,), birth_date="1979-03-28"), PERSON, {})


@pytest.mark.parametrize(
    "claim",
    [
        says(),
        says(family=("Pat-Trois",), given=("Dominique",)),
        says(family=("Pat-Trois",), given=("Dominique",), birth_date="1979-03"),
        says(family=("Pat-Trois",), given=("Marie-Louise",), birth_date="1979-03-28"),
        says(family=("Trois",), given=("Dominique",), birth_date="1979-03-28"),
        says(family=("",), given=("",), birth_date="1979-03-28"),
        says(family=("Pat-Trois",), given=("Dominique",), birth_date="1979-03-28", sex=pb.SEX_MALE),
    ],
)
def test_too_little_or_different_is_a_mismatch(claim: Claim) -> None:
    assert not is_about(claim, PERSON, {})


# --- identifiers -------------------------------------------------------------------------------------------------


def test_a_number_is_looked_up_with_its_key_however_it_is_written() -> None:
    for written in ("279035121518989", "2790351215189", "2 79 03 51 215 189 89"):
        assert sought(TEST_NIR_OID, written) == OWN


@pytest.mark.parametrize(
    ("system", "value"), [(TEST_NIR_OID, "279035121518988"), (NIR_OID, "x"), (INSC_OID, "0" * 22), (INSC_OID, "é")]
)
def test_a_number_that_cannot_be_is_nobodys(system: str, value: str) -> None:
    assert sought(system, value) is None


def test_digests_of_one_value_under_two_systems_or_uses_have_nothing_in_common() -> None:
    digests = Digests(KEYRING)
    production = PatientIdentifier(NIR_OID, OWN.value)
    found = {digests.identifier(OWN), digests.identifier(production), *digests.blocks_all(blocks(stated()))}
    assert len(found) == 2 + len(blocks(stated()))


def test_the_route_of_a_registration_is_of_the_request_and_a_positive_bigint() -> None:
    digests = Digests(KEYRING)
    assert digests.route("a", "b") == digests.route("a", "b") != digests.route("a\0b", "")
    assert 0 <= digests.route("a", "b") < 2**63
