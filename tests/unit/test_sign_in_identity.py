"""Who signed in, as Pro Santé Connect and the patients' issuer tell it, and what software may make of it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from dmp.common.v1 import access_pb2, context_pb2
from gateway.oauth import identity, iua
from gateway.oauth.identity import Chosen, Identity, IdentityRefused
from gateway.partners.mapping import registration_of, scopes_of_profiles
from gateway.registration import allowed_redirect
from ops.local.registrations import METHODS
from ops.partner_commands import read_partner
from services.runtime.errors import DmpError
from services.runtime.identifiers import format_health_id, is_fictitious, new_health_id
from tests.oauth_software import key_set, new_key

USERINFO: Final[dict[str, Any]] = {
    "Secteur_Activite": "SA07^1.2.250.1.71.4.2.4",
    "sub": "f:550dc1c8-d97b-4b1e-ac8c-8eb4471cf9dd:899700218896",
    "SubjectNameID": "899700218896",
    "given_name": "ROBERT",
    "family_name": "SPECIALISTE",
    "Acces_Regulation_Medicale": "FAUX",
    "SubjectRefPro": {
        "codeCivilite": "M",
        "exercices": [
            {
                "codeProfession": "10",
                "codeCategorieProfessionnelle": "C",
                "codeTypeSavoirFaire": "S",
                "codeSavoirFaire": "SM26",
                "activities": [
                    {"numeroFinessSite": "990000001", "raisonSocialeSite": "CABINET"},
                    {"numeroSiretSite": "12345678901234", "raisonSocialeSite": "CLINIQUE"},
                    {"ancienIdentifiantDeLaStructure": "499700218896007"},
                    {},
                ],
            },
            {"codeProfession": "21", "codeSavoirFaire": "", "activities": [{"codeSectionPharmacien": "A"}]},
            {"codeProfession": "60"},
        ],
    },
}
"""In the form of Pro Santé Connect's documentation; nobody's."""


def robert() -> Identity:
    return identity.professional(USERINFO)


def test_a_professional_is_known_by_roles_and_places() -> None:
    who = robert()
    assert who.subject == "899700218896"
    assert who.name == "ROBERT SPECIALISTE"
    assert [role.specialty for role in who.roles] == ["G15_10/SM26", "G15_21/A", "G15_60"]
    assert [place.id for place in who.roles[0].structures] == ["1990000001", "312345678901234", "499700218896007"]
    assert not who.regulation


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("SubjectNameID",), ""),
        (("SubjectNameID",), None),
        (("SubjectNameID",), 5),
        (("SubjectNameID",), "a\0b"),
        (("SubjectRefPro",), None),
        (("SubjectRefPro",), []),
        (("SubjectRefPro", "exercices"), []),
        (("SubjectRefPro", "exercices"), "x"),
        (("SubjectRefPro", "exercices", 0), "x"),
        (("SubjectRefPro", "exercices", 0, "codeProfession"), ""),
        (("SubjectRefPro", "exercices", 0, "codeSavoirFaire"), {}),
    ],
)
def test_what_the_provider_tells_wrongly_signs_nobody_in(path: tuple[Any, ...], value: object) -> None:
    told: Any = copy.deepcopy(USERINFO)
    place = told
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(IdentityRefused):
        identity.professional(told)


def test_software_chooses_among_what_was_told() -> None:
    first = identity.statement(robert(), Chosen())
    assert (first.profession, first.structure, first.structure_name) == ("10", "1990000001", "CABINET")
    chosen = identity.statement(robert(), Chosen(structure="312345678901234", access_mode="normal"))
    assert chosen.structure_name == "CLINIQUE"
    assert identity.statement(robert(), Chosen(profession="60")).specialty == "G15_60"
    assert identity.statement(robert(), Chosen(profession="21", secret_connection=True)).secret_connection


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (Chosen(subject="899700218897"), "subject"),
        (Chosen(actor="structure"), "actor"),
        (Chosen(profession="40"), "profession"),
        (Chosen(specialty="G15_10/SM04"), "specialty"),
        (Chosen(profession="60", structure="1990000001"), "structure"),
        (Chosen(access_mode="regulation"), "access_mode"),
        (Chosen(authentication_mode="indirect"), "authentication_mode"),
    ],
)
def test_software_cannot_choose_what_was_not_told(wish: Chosen, field: str) -> None:
    with pytest.raises(DmpError) as refused:
        identity.statement(robert(), wish)
    assert [violation.field for violation in refused.value.fields] == [f"extensions.dmp.{field}"]


def test_who_may_regulate_may_state_it() -> None:
    regulator = identity.professional(USERINFO | {"Acces_Regulation_Medicale": "VRAI"})
    assert identity.statement(regulator, Chosen(access_mode="regulation")).access_mode == "regulation"


def test_a_patient_is_a_health_id_and_for_another_dossier_a_representative() -> None:
    own, child = new_health_id(), new_health_id()
    who = identity.patient({"sub": format_health_id(own), "name": "never read"})
    assert identity.statement(who, Chosen()).actor == "patient"
    assert identity.statement(who, Chosen()).patient_health_id == own
    other = identity.statement(who, Chosen(patient_health_id=child))
    assert (other.actor, other.subject, other.patient_health_id) == ("representative", format_health_id(own), child)
    for wish in (Chosen(access_mode="break_glass"), Chosen(profession="10"), Chosen(secret_connection=True)):
        with pytest.raises(DmpError):
            identity.statement(who, wish)
    with pytest.raises(DmpError):
        identity.statement(who, Chosen(actor="patient", patient_health_id=child))
    for wrong in ("", "1" * 21, None, 5, "899700218896"):
        with pytest.raises(IdentityRefused):
            identity.patient({"sub": wrong})


def test_no_patient_s_name_is_in_a_token() -> None:
    actor = context_pb2.ActingContext(
        actor_kind=context_pb2.ACTOR_KIND_PATIENT, subject="1", subject_name="A NAME", client_id="portal"
    )
    assert "A NAME" not in json.dumps(iua.claims(actor))


def test_profiles_give_their_transactions_and_no_others() -> None:
    methods = list(METHODS.values())
    feeding = scopes_of_profiles(["feeding"], methods)
    consultation = scopes_of_profiles(["consultation"], methods)
    management = scopes_of_profiles(["management"], methods)
    assert {"ITI-65", "ITI-105", "TD0.2"} <= feeding
    assert "ITI-68" not in feeding
    assert "ITI-68" in consultation
    assert not {"ITI-65", "ITI-105"} & consultation, "though a reading method takes ITI-65 too"
    assert "TD1.1" in management
    assert "TD1.1" not in feeding | consultation
    assert scopes_of_profiles([], methods) == frozenset()
    assert not {"partner.write", "partner.suspend"} & (feeding | consultation | management)


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("https://software.example/callback", True),
        ("http://127.0.0.1:8450/callback", True),
        ("http://[::1]:1/x", True),
        ("http://software.example/callback", False),
        ("https://software.example/#x", False),
        ("https://user@software.example/", False),
        ("javascript:alert(1)", False),
        ("custom:/callback", False),
        ("https://", False),
        ("", False),
    ],
)
def test_where_a_code_may_be_sent(uri: str, allowed: bool) -> None:
    assert allowed_redirect(uri) == allowed


def test_fictitious_people_have_ids_of_their_own() -> None:
    assert all(is_fictitious(new_health_id(fictitious=True)) for _ in range(1000))
    assert not any(is_fictitious(new_health_id()) for _ in range(5000))
    assert new_health_id(fictitious=True) < 1 << 63


def test_the_registration_of_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/register-a-partner.md").read_text("utf-8")
    block = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert block is not None
    described = json.loads(block[1]) | {"jwks": json.loads(key_set(new_key()))}
    file = tmp_path / "example.json"
    file.write_text(json.dumps(described))
    registration = registration_of(read_partner(file), METHODS.values())
    assert registration.kind == "partner"
    assert registration.sandbox
    assert access_pb2.CALLER_KIND_PARTNER
