"""Demo CDA R2 documents: a French header (CI-SIS) around a body of `cda_sections`.

Here lives one pure function, `cda_document`, and the kinds of document that it knows. The documents are of our own
making: they follow the CDA R2 schema's order and the published templates' shape, and claim no schematron conformance.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from enum import Enum
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from ops.demo import cda_sections
from ops.demo.cda_sections import Section
from ops.demo.directory import DemoProfessional, DemoStructure
from ops.demo.french_names import Place
from ops.demo.people import DemoPerson
from services.document.codes import DOCUMENT_TYPES, LOINC, Coded
from services.document.hl7_time import PARIS, format_timestamp
from services.identity.professional_ids import IDNPS_OID, IDNST_OID

_OTHER_TYPES: Final = "1.2.250.1.213.1.1.4.12"
_HL7_FRANCE: Final = "2.16.840.1.113883.2.8.2.1"
_CI_SIS_HEADER: Final = "1.2.250.1.213.1.1.1.1"
_UUID_ARC: Final = "2.25"
"""The OID arc under which any UUID is an OID (ITU-T X.667)."""

_EARLIEST: Final = datetime(2022, 1, 3, 8, 0, tzinfo=PARIS)
_DAYS: Final = 1090
"""Documents are dated within about three years of the earliest day."""


class DocumentKind(Enum):
    """The kinds of demo document: type code, system of the code, template of the model (empty: none is published)."""

    CONSULTATION = ("11488-4", LOINC, "")
    BIOLOGY = ("11502-2", LOINC, "1.2.250.1.213.1.1.1.55")
    PRESCRIPTION = ("57833-6", LOINC, "1.2.250.1.213.1.1.1.39")
    DISPENSATION = ("60593-1", LOINC, "1.2.250.1.213.1.1.1.54")
    IMAGING = ("18748-4", LOINC, "1.2.250.1.213.1.1.1.45")
    VACCINATION_HISTORY = ("11369-6", LOINC, "1.2.250.1.213.1.1.1.37")
    VACCINATION_NOTE = ("87273-9", LOINC, "1.2.250.1.213.1.1.1.46")
    HOSPITAL_REPORT = ("34112-3", LOINC, "")
    DISCHARGE_LETTER = ("11490-0", LOINC, "1.2.250.1.213.1.1.1.29")
    TRANSFER_NOTE = ("18761-7", LOINC, "1.2.250.1.213.1.1.1.21")
    MEDICAL_SUMMARY = ("60591-5", LOINC, "1.2.250.1.213.1.1.1.13")
    SYNTHESIS = ("SYNTH", _OTHER_TYPES, "")

    @property
    def type_code(self) -> Coded:
        """The type of the document."""
        return Coded(self.value[0], self.value[1])

    @property
    def title(self) -> str:
        """The type's French label."""
        return DOCUMENT_TYPES[self.type_code].label

    @property
    def template(self) -> str | None:
        """The OID of the template that the body is shaped after."""
        return self.value[2] or None

    @property
    def profession_code(self) -> str:
        """The profession that writes this kind: pharmacists dispense, physicians write the rest."""
        return "21" if self is DocumentKind.DISPENSATION else "10"


_NARRATIVES: Final = {
    DocumentKind.CONSULTATION: {
        "29299-5": "Motif de consultation",
        "10164-2": "Histoire de la maladie",
        "29545-1": "Examen clinique",
        "51847-2": "Conclusion et conduite à tenir",
    },
    DocumentKind.IMAGING: {
        "55115-0": "Demande d’examen",
        "55111-9": "Technique de l’examen",
        "59776-5": "Résultats",
        "19005-8": "Conclusion",
    },
    DocumentKind.HOSPITAL_REPORT: {
        "46241-6": "Motif d’hospitalisation",
        "8648-8": "Évolution pendant le séjour",
        "11535-2": "Diagnostic de sortie",
        "8653-8": "Consignes de sortie",
    },
    DocumentKind.DISCHARGE_LETTER: {
        "46241-6": "Motif d’hospitalisation",
        "8648-8": "Synthèse médicale du séjour",
        "10183-2": "Traitements à la sortie",
        "18776-5": "Suites à donner",
    },
    DocumentKind.TRANSFER_NOTE: {
        "42349-1": "Motif d’adressage",
        "11450-4": "Problèmes en cours",
        "10160-0": "Traitements au long cours",
    },
    DocumentKind.MEDICAL_SUMMARY: {
        "11450-4": "Problèmes actifs",
        "11348-0": "Antécédents",
        "48765-2": "Allergies et intolérances",
        "10160-0": "Traitements au long cours",
    },
    DocumentKind.SYNTHESIS: {"11450-4": "Problèmes actifs", "51847-2": "Synthèse", "18776-5": "Points de vigilance"},
}


def cda_document(
    person: DemoPerson,
    professional: DemoProfessional,
    structure: DemoStructure,
    kind: DocumentKind,
    seed: int,
    *,
    target_bytes: int = 0,
    version: int = 1,
    at: datetime | None = None,
) -> bytes:
    """Write a CDA R2 document, in UTF-8. The same arguments give the same bytes.

    `target_bytes` lengthens the document with remarks to at least that size (at most 1 kB more), in text that
    compresses about ten times. Versions of one (person, kind, seed) share a setId, and each replaces the one before it.
    `at` is the time of writing (aware); without it one is drawn from the seed. Raises ValueError for a version below 1.
    """
    if version < 1:
        raise ValueError("versions start at 1")
    rng = random.Random(f"document/{seed}/{kind.name}/{person.nir}/{version}")
    written = at or _EARLIEST + timedelta(days=rng.randrange(_DAYS), minutes=5 * rng.randrange(120))
    header = "".join(
        (
            _document_part(person, kind, seed, version, written),
            _patient(person),
            _people_in_charge(professional, structure, written),
            _act(professional, structure, kind, written),
            _replaced(person, kind, seed, version),
            _encounter(structure, written),
        )
    )
    body = "".join(section.xml() for section in _sections(rng, kind, written))
    size = len(_whole(header, body).encode())
    if size < target_bytes:
        body += cda_sections.remarks(rng, target_bytes - size)
    return _whole(header, body).encode()


def _whole(header: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f"{header}<component><structuredBody>\n{body}</structuredBody></component>\n</ClinicalDocument>\n"
    )


def _sections(rng: random.Random, kind: DocumentKind, at: datetime) -> list[Section]:
    match kind:
        case DocumentKind.BIOLOGY:
            return cda_sections.biology(rng, at)
        case DocumentKind.PRESCRIPTION:
            return cda_sections.prescription(rng, at)
        case DocumentKind.DISPENSATION:
            return cda_sections.dispensation(rng, at)
        case DocumentKind.VACCINATION_HISTORY:
            return cda_sections.vaccinations(rng, at, most=6)
        case DocumentKind.VACCINATION_NOTE:
            return cda_sections.vaccinations(rng, at, most=1)
        case _:
            return cda_sections.narrative(rng, _NARRATIVES[kind])


def _oid(person: DemoPerson, kind: DocumentKind, seed: int, what: str) -> str:
    return f"{_UUID_ARC}.{random.Random(f'{what}/{seed}/{kind.name}/{person.nir}').getrandbits(128)}"


def _document_part(person: DemoPerson, kind: DocumentKind, seed: int, version: int, at: datetime) -> str:
    type_code, template = kind.type_code, f'<templateId root="{kind.template}"/>' if kind.template else ""
    return (
        '<realmCode code="FR"/><typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>\n'
        f'<templateId root="{_HL7_FRANCE}"/><templateId root="{_CI_SIS_HEADER}"/>{template}\n'
        f'<id root="{_oid(person, kind, seed, f"document {version}")}"/>\n'
        f'<code code="{type_code.code}" displayName={quoteattr(kind.title)} codeSystem="{type_code.system}"/>\n'
        f'<title>{escape(kind.title)}</title>\n<effectiveTime value="{format_timestamp(at)}"/>\n'
        '<confidentialityCode code="N" displayName="Normal" codeSystem="2.16.840.1.113883.5.25"/>'
        '<languageCode code="fr-FR"/>\n'
        f'<setId root="{_oid(person, kind, seed, "set")}"/><versionNumber value="{version}"/>\n'
    )


def _patient(person: DemoPerson) -> str:
    names = [f'<family qualifier="BR">{escape(person.birth_family)}</family>']
    if person.used_family:
        names.append(f'<family qualifier="CL">{escape(person.used_family)}</family>')
    names.append(f"<given>{escape(' '.join(person.given))}</given>")
    names.append(f'<given qualifier="BR">{escape(person.first_given)}</given>')
    if person.used_given:
        names.append(f'<given qualifier="CL">{escape(person.used_given)}</given>')
    label = "Masculin" if person.sex == "M" else "Féminin"
    return (
        f'<recordTarget><patientRole><id root="{person.nir_oid}" extension="{person.nir}"/>'
        f'{_address(person.street, person.city)}<telecom nullFlavor="NASK"/>\n'
        f'<patient classCode="PSN"><name>{"".join(names)}</name><administrativeGenderCode code="{person.sex}" '
        f'displayName="{label}" codeSystem="2.16.840.1.113883.5.1"/><birthTime value="{person.birth_date:%Y%m%d}"/>'
        f"<birthplace><place><addr><county>{person.birth_place.code}</county>"
        f"<city>{escape(person.birth_place.name)}</city></addr></place></birthplace>"
        "</patient></patientRole></recordTarget>\n"
    )


def _people_in_charge(professional: DemoProfessional, structure: DemoStructure, at: datetime) -> str:
    entity = _entity(professional) + _organization(structure, "representedOrganization", practice_setting=False)
    time = f'<time value="{format_timestamp(at)}"/>'
    return (
        f"<author>{time}<assignedAuthor>{entity}</assignedAuthor></author>\n"
        f"<custodian><assignedCustodian>{_organization(structure, 'representedCustodianOrganization')}"
        "</assignedCustodian></custodian>\n"
        f'<legalAuthenticator>{time}<signatureCode code="S"/><assignedEntity>{entity}</assignedEntity>'
        "</legalAuthenticator>\n"
    )


def _act(professional: DemoProfessional, structure: DemoStructure, kind: DocumentKind, at: datetime) -> str:
    code = kind.type_code
    started = format_timestamp(at - timedelta(minutes=20))
    return (
        f'<documentationOf><serviceEvent><code code="{code.code}" displayName={quoteattr(kind.title)} '
        f'codeSystem="{code.system}"/><effectiveTime><low value="{started}"/><high value="{format_timestamp(at)}"/>'
        f'</effectiveTime><performer typeCode="PRF"><assignedEntity>{_entity(professional)}'
        f"{_organization(structure, 'representedOrganization', practice_setting=True)}"
        "</assignedEntity></performer></serviceEvent></documentationOf>\n"
    )


def _replaced(person: DemoPerson, kind: DocumentKind, seed: int, version: int) -> str:
    if version == 1:
        return ""
    return (
        '<relatedDocument typeCode="RPLC"><parentDocument>'
        f'<id root="{_oid(person, kind, seed, f"document {version - 1}")}"/>'
        f'<setId root="{_oid(person, kind, seed, "set")}"/><versionNumber value="{version - 1}"/>'
        "</parentDocument></relatedDocument>\n"
    )


def _encounter(structure: DemoStructure, at: datetime) -> str:
    return (
        '<componentOf><encompassingEncounter><code code="AMB" displayName="Ambulatoire" '
        f'codeSystem="2.16.840.1.113883.5.4"/><effectiveTime><high value="{format_timestamp(at)}"/></effectiveTime>'
        f'<location><healthCareFacility><code code="{structure.facility_type.code}" '
        f'displayName={quoteattr(structure.facility_label)} codeSystem="{structure.facility_type.system}"/>'
        f"<location><name>{escape(structure.name)}</name></location></healthCareFacility></location>"
        "</encompassingEncounter></componentOf>\n"
    )


def _entity(professional: DemoProfessional) -> str:
    suffix = f"<suffix>{professional.title}</suffix>" if professional.title else ""
    return (
        f'<id root="{IDNPS_OID}" extension="{professional.idnps}"/><code code="{professional.specialty.code}" '
        f'displayName={quoteattr(professional.specialty_label)} codeSystem="{professional.specialty.system}"/>'
        f'<addr nullFlavor="NASK"/><telecom nullFlavor="NASK"/><assignedPerson><name><prefix>{professional.civility}'
        f"</prefix><given>{escape(professional.given)}</given><family>{escape(professional.family)}</family>{suffix}"
        "</name></assignedPerson>"
    )


def _organization(structure: DemoStructure, element: str, *, practice_setting: bool = False) -> str:
    setting = (
        f'<standardIndustryClassCode code="{structure.practice_setting.code}" '
        f'displayName={quoteattr(structure.setting_label)} codeSystem="{structure.practice_setting.system}"/>'
        if practice_setting
        else ""
    )
    return (
        f'<{element}><id root="{IDNST_OID}" extension="{structure.idnst}"/><name>{escape(structure.name)}</name>'
        f'<telecom nullFlavor="NASK"/>{_address(structure.street, structure.city)}{setting}</{element}>'
    )


def _address(street: str, city: Place) -> str:
    return (
        f"<addr><streetAddressLine>{escape(street)}</streetAddressLine>"
        f"<postalCode>{city.postcode}</postalCode><city>{escape(city.name)}</city></addr>"
    )
