"""Code systems and assigning authorities: the URLs that FHIR uses and the OIDs that the record keeps. A table, no I/O.

A system comes in as `urn:oid:…`, as a bare OID, or as one of the URLs below; it goes out as the first URL of its OID,
else as `urn:oid:…`. A URL that is not in the table is refused: keeping it would lose what it means.
Sources: NOS of the ANS (mos.esante.gouv.fr), HL7 terminology, IHE format codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LOINC: Final = "2.16.840.1.113883.6.1"
DOCUMENT_CLASSES: Final = "1.2.250.1.213.1.1.4.1"
COMPLEMENTARY_TYPES: Final = "1.2.250.1.213.1.1.4.12"
FORMATS_IHE: Final = "1.3.6.1.4.1.19376.1.2.3"
FORMATS_FRENCH: Final = "1.2.250.1.213.1.1.4.2.282"
FORMATS_DICOM: Final = "1.2.840.10008.2.6.1"
IDNPS: Final = "1.2.250.1.71.4.2.1"
IDNST: Final = "1.2.250.1.71.4.2.2"

_NOS: Final = "https://mos.esante.gouv.fr/NOS"


def _nos(number: str, name: str) -> str:
    return f"{_NOS}/TRE_{number}-{name}/FHIR/TRE-{number}-{name}"


URLS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        LOINC: ("http://loinc.org", _nos("A04", "Loinc")),
        "2.16.840.1.113883.6.96": ("http://snomed.info/sct",),
        "2.16.840.1.113883.6.3": ("http://hl7.org/fhir/sid/icd-10",),
        "2.16.840.1.113883.5.25": ("http://terminology.hl7.org/CodeSystem/v3-Confidentiality",),
        FORMATS_IHE: (
            "http://ihe.net/fhir/ihe.formatcode.fhir/CodeSystem/formatcode",
            _nos("A11", "IheFormatCode"),
        ),
        FORMATS_FRENCH: (_nos("A06", "FormatCodeComplementaire"),),
        FORMATS_DICOM: (_nos("A09", "DICOMuidRegistry"),),
        DOCUMENT_CLASSES: (_nos("A03", "ClasseDocument"),),
        COMPLEMENTARY_TYPES: (_nos("A05", "TypeDocComplementaire"),),
        "1.2.250.1.213.1.1.4.13": (_nos("A07", "StatutVisibiliteDocument"),),
        "1.2.250.1.213.1.1.4.6": (_nos("A00", "ProducteurDocNonPS"),),
        "1.2.250.1.213.1.1.4.9": (_nos("A01", "CadreExercice"),),
        "1.2.250.1.213.1.1.4.5": (_nos("A02", "ProfessionSavFaire-CISIS"),),
        "1.2.250.1.71.4.2.4": (_nos("R02", "SecteurActivite"),),
        "1.2.250.1.213.1.6.1.107": (_nos("R85", "RolePriseCharge"),),
        "1.2.250.1.213.1.6.1.109": (_nos("R95", "UsagerTitre"),),
    }
)
"""Every URL of an OID; the first is the one that we write."""

VISIBILITY: Final = (URLS["1.2.250.1.213.1.1.4.13"][0], "urn:oid:1.2.250.1.213.1.1.4.13")
"""The system of the visibility flags, as it is written and as it may come."""

_OIDS: Final[Mapping[str, str]] = MappingProxyType({url: oid for oid, urls in URLS.items() for url in urls})

TYPE_SYSTEMS: Final = frozenset({LOINC, COMPLEMENTARY_TYPES})
CLASS_SYSTEMS: Final = frozenset({DOCUMENT_CLASSES})
FORMAT_SYSTEMS: Final = frozenset({FORMATS_IHE, FORMATS_FRENCH, FORMATS_DICOM})

PROFESSIONAL_DOMAINS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"https://rpps.esante.gouv.fr": (IDNPS, "8"), "https://finess.esante.gouv.fr": (IDNST, "1")}
)
"""Domains of numbers that become an IDNPS or an IDNST when their prefix is put before them."""

_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+")
_LONGEST_OID: Final = 128


def is_oid(text: str) -> bool:
    """Whether this is a dotted OID of at most 128 characters."""
    return len(text) <= _LONGEST_OID and _OID.fullmatch(text) is not None


def to_oid(system: str) -> str | None:
    """The OID of a system as FHIR writes it; None when it is none that we know."""
    bare = system.removeprefix("urn:oid:")
    if is_oid(bare):
        return bare
    return _OIDS.get(system)


def to_uri(oid: str) -> str:
    """The URI of a code system by its OID."""
    urls = URLS.get(oid)
    return urls[0] if urls else domain_uri(oid)


def domain_uri(oid: str) -> str:
    """The URI of an assigning authority by its OID."""
    return f"urn:oid:{oid}"
