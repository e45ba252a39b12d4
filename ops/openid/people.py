"""Who can sign in at the local provider, as Pro Santé Connect would tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ops.demo.directory import DemoProfessional, DemoStructure
from services.runtime.errors import DmpError
from services.runtime.identifiers import parse_health_id

_PROFESSIONS = "1.2.250.1.213.1.1.5.5"


def userinfo(professional: DemoProfessional, structures: tuple[DemoStructure, ...], sub: str) -> dict[str, Any]:
    """The UserInfo of a professional, in the form of Pro Santé Connect's `scope_all`."""
    first = structures[0] if structures else None
    expertise = professional.specialty.code.partition("/")[2]
    pharmacist = professional.profession_code == "21"
    return {
        "sub": sub,
        "SubjectNameID": professional.idnps,
        "preferred_username": professional.idnps,
        "given_name": professional.given,
        "family_name": professional.family,
        "email_verified": False,
        "SubjectOrganization": first.name if first else "",
        "SubjectOrganizationID": first.idnst if first else "",
        "SubjectRole": [f"{professional.profession_code}^{_PROFESSIONS}"],
        "PSI_Locale": "1.2.250.1.213.1.3.1.1",
        "UITVersion": "1.0",
        "Palier_Authentification": "APPPRIP3^1.2.250.1.213.1.5.1.1.1",
        "Mode_Acces_Raison": "",
        "Acces_Regulation_Medicale": "FAUX",
        "otherIds": [{"identifiant": professional.idnps, "origine": "RPPS", "qualite": 1}],
        "SubjectRefPro": {
            "codeCivilite": "M",
            "exercices": [
                {
                    "codeProfession": professional.profession_code,
                    "codeCategorieProfessionnelle": "C",
                    "nomDexercice": professional.family,
                    "prenomDexercice": professional.given,
                    "codeTypeSavoirFaire": "S" if expertise and not pharmacist else "",
                    "codeSavoirFaire": "" if pharmacist else expertise,
                    "activities": [_activity(each, expertise if pharmacist else "") for each in structures],
                }
            ],
        },
    }


def is_health_id(text: str) -> bool:
    """Whether a patient may sign in with this: a health id that passes its check."""
    try:
        parse_health_id(text, "sub")
    except DmpError:
        return False
    return True


def professionals() -> Mapping[str, dict[str, Any]]:
    """The demo's professionals by IDNPS, the first of them also allowed to regulate."""
    from ops.demo_platform import demo_cast

    cast = demo_cast()
    found = {}
    for number, professional in enumerate(cast.professionals):
        told = userinfo(professional, tuple(cast.structures[:2]), f"f:local:{professional.idnps}")
        told["Acces_Regulation_Medicale"] = "VRAI" if number == 0 else "FAUX"
        found[professional.idnps] = told
    return found


def _activity(structure: DemoStructure, section: str) -> dict[str, str]:
    return {
        "codeModeExercice": "L",
        "codeSecteurDactivite": "SA07",
        "codeRole": "",
        "codeSectionPharmacien": section,
        "numeroSiretSite": "",
        "numeroFinessSite": structure.idnst.removeprefix("1") if structure.idnst.startswith("1") else "",
        "ancienIdentifiantDeLaStructure": "" if structure.idnst.startswith("1") else structure.idnst,
        "raisonSocialeSite": structure.name,
        "enseigneCommercialeSite": "",
    }
