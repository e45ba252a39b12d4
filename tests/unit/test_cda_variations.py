"""Documents as they are written in the field: each is taken with what its header says, or refused with the field and
the rule. Variations of one document (`cda_variations`), along what CDA R2 and CI-SIS allow and producers do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import pytest

from services.document.preparation import Prepared
from services.document.reading import reader
from services.runtime.errors import DmpError
from tests.cda_variations import NAMED, PLAIN, accepted, put

_XSI: Final = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
_ACT: Final = '<effectiveTime><low value="20240102100000+0100"/></effectiveTime>'


def prepared(document: str | bytes) -> Prepared:
    """As `accepted`; what it says can be read."""
    made = accepted(document)
    content = document.encode() if isinstance(document, str) else document
    assert reader.read(content, made.document).unread == 0
    return made


def put_all(pattern: str, new: str, document: str = PLAIN) -> str:
    """The document with whatever matches written otherwise."""
    changed, count = re.subn(pattern, new, document, flags=re.DOTALL)
    assert count
    return changed


def effective(value: str) -> str:
    return put('<effectiveTime value="20240102101500+0100"/>', f'<effectiveTime value="{value}"/>')


def act(period: str) -> str:
    return put(_ACT, f"<effectiveTime>{period}</effectiveTime>")


def after_language(more: str) -> str:
    return put('<languageCode code="fr-FR"/>', f'<languageCode code="fr-FR"/>{more}')


def title(made: Prepared) -> str:
    return made.document.title


def created(made: Prepared) -> str:
    return made.document.create_time.ToJsonString()


def acted(made: Prepared) -> tuple[str, str]:
    stop = made.document.service_stop_time.ToJsonString() if made.document.HasField("service_stop_time") else ""
    return made.document.service_start_time.ToJsonString(), stop


def cda_set(made: Prepared) -> tuple[str, int]:
    return made.document.set_id, made.document.set_version


def authors(made: Prepared) -> list[str]:
    return [author.name for author in made.document.authors]


def signed(made: Prepared) -> str:
    return made.document.legal_authenticator.name


def patient(made: Prepared) -> tuple[list[str], list[str], str, int]:
    info = made.document.source_patient_info
    return [each.value for each in info.identifiers], list(info.family_names), info.birth_date, made.claims[0].sex


def language(made: Prepared) -> str:
    return made.document.language


def level(made: Prepared) -> list[str]:
    return [code.code for code in made.document.confidentiality]


def parents(made: Prepared) -> list[tuple[str, str]]:
    assert made.header is not None
    return [(parent.relation, parent.document_id.unique_id) for parent in made.header.parents]


def named(made: Prepared) -> str:
    return made.document.unique_id


_KNOWN: Final = (["279035121518989", "LOCAL-1"], ["PATIENTE"], "1979-03-28", 1)
_LOCAL: Final = '<id root="1.2.3.4.5" extension="LOCAL-1"/>'
_UUID: Final = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
_ALL: Final[dict[str, tuple[str | bytes, Callable[[Prepared], Any], Any]]] = {
    # --- what is missing or unknown ---
    "author without identifier": (
        put_all(r'<assignedAuthor><id root="[^"]*" extension="[^"]*"/>', '<assignedAuthor><id nullFlavor="UNK"/>'),
        authors,
        ["Anne MARTIN"],
    ),
    "author at an unknown time": (
        put_all(r'<author><time value="[^"]*"/>', '<author><time nullFlavor="NA"/>'),
        authors,
        ["Anne MARTIN"],
    ),
    "three authors": (put_all(r"(<author>.*?</author>)", r"\1\1\1"), authors, ["Anne MARTIN"] * 3),
    "a device": (
        put_all(
            r"<author>.*?</author>",
            '<author><time value="20240102"/><assignedAuthor><id root="1.2.3" extension="D"/><assignedAuthoringDevice>'
            "<softwareName>LGC</softwareName></assignedAuthoringDevice></assignedAuthor></author>",
        ),
        authors,
        ["LGC"],
    ),
    "nobody signed": (put_all(r"<legalAuthenticator>.*?</legalAuthenticator>", ""), signed, "Anne MARTIN"),
    "unknown confidentiality": (
        put_all(r"<confidentialityCode [^>]*/>", '<confidentialityCode nullFlavor="NI"/>'),
        level,
        ["N"],
    ),
    "unknown language": (put('code="fr-FR"', 'nullFlavor="NI"'), language, "fr-FR"),
    "short language": (put('code="fr-FR"', 'code="fr"'), language, "fr"),
    "no title": (put_all(r"<title>.*?</title>", ""), title, "CR ou fiche de consultation ou de visite"),
    "unknown sex and birth": (
        put_all(
            r'code="F" codeSystem="2.16.840.1.113883.5.1"/><birthTime value="19790328"/>',
            'nullFlavor="UNK"/><birthTime nullFlavor="UNK"/>',
        ),
        patient,
        (_KNOWN[0], _KNOWN[1], "", 3),
    ),
    "the first name withheld": (put("<patient><name>", '<patient><name nullFlavor="MSK"/><name>'), patient, _KNOWN),
    "no qualifiers": (put('<family qualifier="BR">', "<family>"), patient, _KNOWN),
    "more identifiers, one withheld": (
        put(_LOCAL, f'<id nullFlavor="MSK" root="1.2.3.4.6"/>{_LOCAL}<id root="2.16.1" extension="a"/>'),
        patient,
        ([*_KNOWN[0], "a"], *_KNOWN[1:]),
    ),
    # --- times ---
    **{
        f"written {value!r}": (effective(value), created, expected)
        for value, expected in {
            "2024": "2023-12-31T23:00:00Z",
            "202401": "2023-12-31T23:00:00Z",
            "20240102": "2024-01-01T23:00:00Z",
            "2024010210": "2024-01-02T09:00:00Z",
            "202401021015+0100": "2024-01-02T09:15:00Z",
            "20240102101500+01": "2024-01-02T09:15:00Z",
            "20240102101500-0500": "2024-01-02T15:15:00Z",
            "20240102101500.123+0100": "2024-01-02T09:15:00.123Z",
            "20240102101500.123456789+0100": "2024-01-02T09:15:00.123456Z",
            " 20240102101500+0100 ": "2024-01-02T09:15:00Z",
        }.items()
    },
    "no act": (put_all("<documentationOf>.*?</documentationOf>", ""), acted, ("2024-01-02T09:15:00Z", "")),
    "the first act unknown": (
        put(
            "<documentationOf>",
            '<documentationOf><serviceEvent><effectiveTime nullFlavor="UNK"/></serviceEvent>'
            "</documentationOf><documentationOf>",
        ),
        acted,
        ("2024-01-02T09:00:00Z", ""),
    ),
    "an act as one moment": (put(_ACT, '<effectiveTime value="20240101"/>'), acted, ("2023-12-31T23:00:00Z", "")),
    "an act that ended on its day": (
        act('<low value="20240102100000+0100"/><high value="20240102"/>'),
        acted,
        ("2024-01-02T09:00:00Z", "2024-01-02T09:00:00Z"),
    ),
    "an act of which the end alone is known, before the document": (
        act('<low nullFlavor="UNK"/><high value="20240101120000+0100"/>'),
        acted,
        ("2024-01-01T11:00:00Z", "2024-01-01T11:00:00Z"),
    ),
    "an act of which the end alone is known, after the document": (
        act('<low nullFlavor="UNK"/><high value="20240103"/>'),
        acted,
        ("2024-01-02T09:15:00Z", "2024-01-02T23:00:00Z"),
    ),
    "a period by its middle": (
        put(_ACT, f'<effectiveTime xsi:type="IVL_TS" {_XSI}><center value="20240102"/></effectiveTime>'),
        acted,
        ("2024-01-02T09:15:00Z", ""),
    ),
    # --- identifiers, sets, parents ---
    "a UUID": (put(f'<id root="{NAMED}"/>', f'<id root="{_UUID}" extension="12"/>'), named, f"{_UUID}^12"),
    "an extension": (
        put(f'<id root="{NAMED}"/>', '<id root="1.2.250" extension="ABC/1"/>'),
        named,
        "1.2.250^ABC/1",
    ),
    "a version without set": (after_language('<versionNumber value="2"/>'), cda_set, ("", 0)),
    "a set without version": (after_language('<setId root="1.2.3"/>'), cda_set, ("", 0)),
    "an unknown set": (after_language('<setId nullFlavor="NI"/><versionNumber value="1"/>'), cda_set, ("", 0)),
    "a version with a nought": (
        after_language('<setId root="1.2.3"/><versionNumber value="02"/>'),
        cda_set,
        ("1.2.3", 2),
    ),
    "all relations": (
        after_language(
            "".join(
                f'<relatedDocument typeCode="{kind}"><parentDocument><id root="1.2.3.{number}"/></parentDocument>'
                "</relatedDocument>"
                for number, kind in enumerate(("RPLC", "APND", "XFRM"))
            )
        ),
        parents,
        [("RPLC", "1.2.3.0"), ("APND", "1.2.3.1"), ("XFRM", "1.2.3.2")],
    ),
    "fifty templates": (
        put("<typeId", "".join(f'<templateId root="1.2.3.{n}"/>' for n in range(50)) + "<typeId"),
        named,
        NAMED,
    ),
    # --- XML ---
    "other namespaces": (
        put('xmlns="urn:hl7-org:v3"', f'xmlns="urn:hl7-org:v3" xmlns:sdtc="urn:hl7-org:sdtc" {_XSI}').replace(
            "<birthTime", '<sdtc:deceasedInd value="false"/><birthTime'
        ),
        patient,
        _KNOWN,
    ),
    "prefixes": (
        put_all(r"<(/?)([A-Za-z])", r"<\1c:\2", PLAIN.partition("?>")[2]).replace("xmlns=", "xmlns:c="),
        named,
        NAMED,
    ),
    "a type by its name": (
        put("<assignedPerson>", f'<assignedPerson xsi:type="POCD_MT000040.Person" {_XSI}>'),
        named,
        NAMED,
    ),
    "a stylesheet named": (
        put("?>", '?><?xml-stylesheet type="text/xsl" href="cda.xsl"?><!-- by X -->'),
        named,
        NAMED,
    ),
    "comments and instructions": (
        put("<title>", "<!-- c --><?x y?><title><!-- a -->1. "),
        title,
        "1. Consultation du 2 janvier",
    ),
    "CDATA": (put_all("<title>.*?</title>", "<title><![CDATA[A & B <x>]]></title>"), title, "A & B <x>"),
    "references": (put_all("<title>.*?</title>", "<title>A &amp; B &#233; &#xE9;</title>"), title, "A & B é é"),
    "XML 1.1": (put('version="1.0"', 'version="1.1"'), named, NAMED),
    "no declaration": (PLAIN.partition("?>")[2], named, NAMED),
    "a byte order mark": ("\ufeff" + PLAIN, named, NAMED),
    **{
        f"in {declared}": (
            put("Consultation du 2", "Traité le 2").replace('encoding="UTF-8"', f'encoding="{declared}"').encode(codec),
            title,
            "Traité le 2 janvier",
        )
        for declared, codec in {
            "ISO-8859-1": "latin1",
            "latin-1": "latin1",
            "ISO8859-1": "latin1",
            "iso-8859-15": "iso-8859-15",
            "windows-1252": "cp1252",
            "UTF-16": "utf-16",
            "UTF-16LE": "utf-16-le",
            "UTF-16BE": "utf-16-be",
        }.items()
    },
}


@pytest.mark.parametrize("name", _ALL)
def test_a_variation_is_taken_with_what_it_says(name: str) -> None:
    document, shown, expected = _ALL[name]
    assert shown(prepared(document)) == expected


_REFUSED: Final[dict[str, tuple[str | bytes, str, str]]] = {
    "no time": (put('value="20240102101500+0100"', 'nullFlavor="UNK"'), "required", "effectiveTime"),
    "no type": (put_all(r'<code code="11488-4"[^>]*/>', '<code nullFlavor="UNK"/>'), "required", "code"),
    "no identifier": (put(f'<id root="{NAMED}"/>', '<id nullFlavor="UNK"/>'), "required", "ClinicalDocument/id"),
    "no patient": (
        put_all(r'<id root="1.2.250.1.213.1.4.11" [^>]*/>' + re.escape(_LOCAL), '<id nullFlavor="UNK"/>'),
        "required",
        "patientRole/id",
    ),
    "two patients": (put_all("(<recordTarget>.*?</recordTarget>)", r"\1\1"), "once", "recordTarget"),
    "two authors, nobody signed": (
        put_all("(<author>.*?</author>)", r"\1\1", put_all("<legalAuthenticator>.*?</legalAuthenticator>", "")),
        "required",
        "legal_authenticator",
    ),
    "no facility": (put_all("<location>.*?</location>", ""), "required", "facility_type"),
    "no encounter": (put_all("<componentOf>.*?</componentOf>", ""), "required", "facility_type"),
    "an end before the beginning": (
        act('<low value="20240102100000+0100"/><high value="20240101"/>'),
        "order",
        "service_stop_time",
    ),
    "a day that does not exist": (effective("20241301"), "timestamp", "effectiveTime"),
    "a time as XML Schema writes it": (effective("2024-01-02T10:15:00Z"), "timestamp", "effectiveTime"),
    "another relation": (
        after_language(
            '<relatedDocument typeCode="REFR"><parentDocument><id root="1.2"/></parentDocument></relatedDocument>'
        ),
        "code",
        "relatedDocument",
    ),
    "an unknown parent": (
        after_language(
            '<relatedDocument typeCode="RPLC"><parentDocument><id nullFlavor="UNK"/></parentDocument></relatedDocument>'
        ),
        "required",
        "parentDocument/id",
    ),
    **{
        f"version {value}": (
            after_language(f'<setId root="1.2.3"/><versionNumber value="{value}"/>'),
            "version",
            "versionNumber",
        )
        for value in ("0", "+1", "1.0", "-1", "99999999999", "²")
    },
    "an entity that nobody declared": (put("<title>", "<title>&nbsp;"), "well_formed", "content"),
    "a DOCTYPE": (put("?>", "?><!DOCTYPE ClinicalDocument>"), "doctype", "content"),
    "a blank before the declaration": ("\n" + PLAIN, "well_formed", "content"),
    "bytes of another encoding": (put("Consultation du", "Traité du").encode("latin1"), "well_formed", "content"),
    "an encoding that hides markup": (put("UTF-8", "UTF-7"), "encoding", "content"),
    "UTF-32": (PLAIN.encode("utf-32"), "encoding", "content"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_variation_is_refused_by_its_field_and_rule(name: str) -> None:
    document, rule, where = _REFUSED[name]
    with pytest.raises(DmpError) as refused:
        prepared(document)
    (field,) = refused.value.fields
    assert field.rule == rule
    assert where in f"{field.field} {field.description}"
