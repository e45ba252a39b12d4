"""Who signed in, from what an OpenID provider tells, and the statement that a client makes of that person. Pure.

Professionals: the UserInfo of Pro Santé Connect (SubjectNameID, SubjectRefPro with its *exercices* and *activités*,
Acces_Regulation_Medicale). Patients and representatives: the subject is the 21-digit health id, and nothing else is
read. A client may choose among what the provider told, and add in which mode and to what end the person acts; it may
not say who the person is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmp.common.v1 import error_reason_pb2 as reasons
from gateway.registration import ActorName, AuthenticationName, ModeName, RealmName, Statement
from services.runtime.errors import DmpError, FieldViolation
from services.runtime.identifiers import parse_health_id

_MOST_ROLES = 16
_MOST_STRUCTURES = 64
_PHARMACIST = "21"


class IdentityRefused(Exception):
    """What the provider told cannot be used; the message says which part, never its value."""


class Structure(BaseModel):
    """Where a professional works: an IDNST and a name."""

    model_config = ConfigDict(frozen=True)
    id: str
    name: str = ""


class Role(BaseModel):
    """One *exercice professionnel*."""

    model_config = ConfigDict(frozen=True)
    profession: str
    specialty: str = ""
    structures: tuple[Structure, ...] = ()


class Identity(BaseModel):
    """Who signed in. `regulation`: may act as an emergency call centre."""

    model_config = ConfigDict(frozen=True)
    realm: RealmName
    subject: str
    name: str = ""
    roles: tuple[Role, ...] = ()
    regulation: bool = False


class Chosen(BaseModel):
    """What a client states of the person who signed in (`extensions.dmp`); absent parts follow from the sign-in."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    actor: ActorName | None = None
    subject: str | None = Field(default=None, max_length=64)
    profession: str | None = Field(default=None, max_length=8)
    specialty: str | None = Field(default=None, max_length=64)
    structure: str | None = Field(default=None, max_length=64)
    authentication_mode: AuthenticationName = "direct"
    access_mode: ModeName = "normal"
    break_glass_reason: str = Field(default="", max_length=500)
    purpose_of_use: str = Field(default="TREAT", max_length=32)
    patient_health_id: int = Field(default=0, ge=0, le=(1 << 63) - 1)
    secret_connection: bool = False
    occupational_physician: bool = False


def professional(claims: Mapping[str, Any]) -> Identity:
    """A professional, from Pro Santé Connect's UserInfo."""
    subject = _text(claims, "SubjectNameID", 64)
    if not subject:
        raise IdentityRefused("SubjectNameID")
    reference = claims.get("SubjectRefPro")
    practices = reference.get("exercices") if isinstance(reference, Mapping) else None
    if not isinstance(practices, list) or not practices:
        raise IdentityRefused("SubjectRefPro.exercices")
    roles = tuple(_role(each) for each in practices[:_MOST_ROLES])
    name = " ".join(part for part in (_text(claims, "given_name", 100), _text(claims, "family_name", 99)) if part)
    allowed = _text(claims, "Acces_Regulation_Medicale", 16).upper() == "VRAI"
    return Identity(realm="professionals", subject=subject, name=name, roles=roles, regulation=allowed)


def patient(claims: Mapping[str, Any]) -> Identity:
    """A patient or representative: the subject is a health id."""
    subject = claims.get("sub")
    try:
        parse_health_id(subject if isinstance(subject, str) else "", "sub")
    except DmpError:
        raise IdentityRefused("sub") from None
    return Identity(realm="patients", subject=str(subject))


def chosen(extensions: Mapping[str, Any]) -> Chosen:
    """What a client states; IdentityRefused naming the field and the rule."""
    try:
        return Chosen.model_validate(extensions.get("dmp", {}))
    except ValidationError as error:
        raise IdentityRefused(violations(error)) from None


def violations(error: ValidationError) -> str:
    """Fields and rules of a statement that is wrong, without any value."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[:8]
    return ", ".join(
        f"extensions.dmp.{'.'.join(str(part) for part in problem['loc'])}: {problem['type']}" for problem in found
    )


def statement(identity: Identity, wish: Chosen) -> Statement:
    """Who acts. GRANT_NOT_ALLOWED naming what the person who signed in is not."""
    if wish.authentication_mode != "direct":
        raise _not_theirs("authentication_mode")
    if wish.subject is not None and wish.subject != identity.subject:
        raise _not_theirs("subject")
    return _of_patient(identity, wish) if identity.realm == "patients" else _of_professional(identity, wish)


def _of_professional(identity: Identity, wish: Chosen) -> Statement:
    if wish.actor not in (None, "professional"):
        raise _not_theirs("actor")
    if wish.access_mode == "regulation" and not identity.regulation:
        raise _not_theirs("access_mode")
    role, where = _practice(identity, wish)
    return Statement(
        actor="professional",
        subject=identity.subject,
        subject_name=identity.name,
        profession=role.profession,
        specialty=role.specialty,
        structure=where.id if where else "",
        structure_name=where.name if where else "",
        access_mode=wish.access_mode,
        break_glass_reason=wish.break_glass_reason,
        purpose_of_use=wish.purpose_of_use,
        patient_health_id=wish.patient_health_id,
        secret_connection=wish.secret_connection,
        occupational_physician=wish.occupational_physician,
    )


def _practice(identity: Identity, wish: Chosen) -> tuple[Role, Structure | None]:
    """The role and the structure that the client chose; the first of those that fit."""
    roles = [role for role in identity.roles if wish.profession in (None, role.profession)]
    if not roles:
        raise _not_theirs("profession")
    roles = [role for role in roles if wish.specialty in (None, role.specialty)]
    if not roles:
        raise _not_theirs("specialty")
    if not wish.structure:
        return roles[0], next(iter(roles[0].structures), None)
    for role in roles:
        for where in role.structures:
            if where.id == wish.structure:
                return role, where
    raise _not_theirs("structure")


def _of_patient(identity: Identity, wish: Chosen) -> Statement:
    """The patient, or, for another's dossier, a representative: whether of that patient is for consent to say."""
    own = parse_health_id(identity.subject, "sub")
    about = wish.patient_health_id or own
    kind: Literal["patient", "representative"] = "patient" if about == own else "representative"
    if wish.actor not in (None, kind):
        raise _not_theirs("actor")
    for field in ("profession", "specialty", "structure"):
        if getattr(wish, field):
            raise _not_theirs(field)
    if wish.access_mode != "normal":
        raise _not_theirs("access_mode")
    if wish.secret_connection or wish.occupational_physician:
        raise _not_theirs("secret_connection" if wish.secret_connection else "occupational_physician")
    return Statement(actor=kind, subject=identity.subject, purpose_of_use=wish.purpose_of_use, patient_health_id=about)


def _role(practice: object) -> Role:
    """A role; its speciality in the form of author specialities (`G15_10/SM26`): profession and *savoir-faire*, or
    the section of the order for a pharmacist."""
    if not isinstance(practice, Mapping) or not _text(practice, "codeProfession", 8):
        raise IdentityRefused("SubjectRefPro.exercices.codeProfession")
    activities = practice.get("activities", practice.get("activites", ()))
    places = activities if isinstance(activities, list) else []
    found = [place for place in map(_structure, places[:_MOST_STRUCTURES]) if place is not None]
    profession, expertise = _text(practice, "codeProfession", 8), _text(practice, "codeSavoirFaire", 32)
    if not expertise and profession == _PHARMACIST:
        sections = (_text(place, "codeSectionPharmacien", 8) for place in places if isinstance(place, Mapping))
        expertise = next(filter(None, sections), "")
    specialty = f"G15_{profession}/{expertise}" if expertise else f"G15_{profession}"
    return Role(profession=profession, specialty=specialty, structures=tuple(found))


def _structure(activity: object) -> Structure | None:
    """The IDNST of a place of work: its FINESS, else its SIRET, else the identifier that it had before."""
    if not isinstance(activity, Mapping):
        return None
    finess, siret = _text(activity, "numeroFinessSite", 16), _text(activity, "numeroSiretSite", 16)
    former = _text(activity, "ancienIdentifiantDeLaStructure", 32)
    id_ = f"1{finess}" if finess else f"3{siret}" if siret else former
    if not id_:
        return None
    name = _text(activity, "raisonSocialeSite", 200) or _text(activity, "enseigneCommercialeSite", 200)
    return Structure(id=id_, name=name)


def _text(claims: Mapping[str, Any], name: str, longest: int) -> str:
    value = claims.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise IdentityRefused(name)
    return value.strip()[:longest]


def _not_theirs(field: str) -> DmpError:
    violation = FieldViolation(f"extensions.dmp.{field}", "sign_in", "not of the person who signed in")
    return DmpError(reasons.ERROR_REASON_GRANT_NOT_ALLOWED, fields=[violation])
