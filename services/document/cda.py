"""The header of a CDA R2 document, read from the bytes as received.

Here lives the way from bytes to a `CdaHeader`: the bounds (`xml_safety`), then the header's elements one by one
(`cda_element`). The body is checked to be well-formed and not otherwise looked at. Nothing here is executed, fetched or
included: stylesheets, XInclude and processing instructions are text. What may not live here: metadata rules (`codes`)
and anything about who sends the document.

A ClinicalDocument may be the root, or may lie inside one XSL stylesheet: the "self-presentable" documents of the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast, get_args
from xml.etree.ElementTree import Element

from services.document.cda_element import HL7, CdaElement
from services.document.cda_header import (
    CdaAuthor,
    CdaBody,
    CdaError,
    CdaHeader,
    CdaOrganization,
    CdaParent,
    CdaPatient,
    Code,
    InstanceId,
    Relation,
    Sex,
)
from services.document.hl7_time import Hl7Time
from services.document.inner_files import bare_media_type
from services.document.xml_head import Bodies, read_head
from services.document.xml_safety import MAX_BYTES, XmlRefused, to_utf8

__all__ = [
    "CdaAuthor",
    "CdaBody",
    "CdaError",
    "CdaHeader",
    "CdaOrganization",
    "CdaParent",
    "CdaPatient",
    "Code",
    "InstanceId",
    "read_header",
]

_DOCUMENT: Final = f"{HL7}ClinicalDocument"
_STYLESHEETS: Final = frozenset(
    {"{http://www.w3.org/1999/XSL/Transform}stylesheet", "{http://www.w3.org/1999/XSL/Transform}transform"}
)
_STRUCTURED, _NON_XML, _TEXT = (f"{HL7}{name}" for name in ("structuredBody", "nonXMLBody", "text"))


def _is_body(opened: Sequence[Element]) -> bool:
    """Whether the last of these elements, each in the one before, is where the body of the first begins."""
    tag = opened[-1].tag
    if tag == _STRUCTURED:
        return len(opened) == 3
    return tag == _TEXT and len(opened) > 1 and opened[-2].tag == _NON_XML


_BODIES: Final = Bodies(
    {"structuredBody": ("ClinicalDocument", "component"), "text": ("ClinicalDocument", "component", "nonXMLBody")},
    _is_body,
)
_FIRST_TAG: Final = _BODIES.first_tag
_MAX_VERSION: Final = 2**31 - 1


def read_header(content: bytes, *, max_bytes: int = MAX_BYTES) -> CdaHeader:
    """Read the header of the CDA R2 document in `content`, and check that all of it is well-formed XML.

    Required, as in the header of CI-SIS: id, code, effectiveTime, one recordTarget/patientRole with an id, one author.
    What is optional gives None when it is missing or has a nullFlavor; what is there and malformed is refused.

    Raises CdaError, and nothing else, whatever the bytes. Takes about 0.7 ms for 100 kB and holds the interpreter: read
    several megabytes in a thread.
    """
    try:
        head = read_head(to_utf8(content, max_bytes=max_bytes), _DOCUMENT, _BODIES, _FIRST_TAG)
    except XmlRefused as refused:
        raise CdaError("content", refused.rule, refused.description) from None
    if head.node is None:
        raise CdaError("content", "not_cda", "there is no ClinicalDocument of namespace urn:hl7-org:v3")
    if head.occurrences > 1:
        raise CdaError("content", "one_document", "there is more than one ClinicalDocument")
    wrapped = head.root != _DOCUMENT
    if wrapped and head.root not in _STYLESHEETS:
        raise CdaError("content", "root", "the root is neither ClinicalDocument nor an XSL stylesheet around it")
    return _header(CdaElement(head.node, "ClinicalDocument"), _body(head.body), wrapped=wrapped)


def _body(node: Element | None) -> CdaBody | None:
    if node is None:
        return None
    if node.tag == _STRUCTURED:
        return CdaBody(structured=True)
    return CdaBody(structured=False, media_type=bare_media_type(node.get("mediaType") or "") or None)


def _header(document: CdaElement, body: CdaBody | None, *, wrapped: bool) -> CdaHeader:
    effective = document.required("effectiveTime").timestamp()
    patient_role = document.required("recordTarget", once=True).required("patientRole", once=True)
    authors = tuple(_participant(author, "assignedAuthor") for author in document.every("author"))
    if not authors:
        raise CdaError("ClinicalDocument/author", "required", "a document has at least one author")
    authenticator = document.first("legalAuthenticator")
    custodian = document.first("custodian", "assignedCustodian", "representedCustodianOrganization")
    title = document.first("title")
    language = document.first("languageCode")
    events = [event for act in document.every("documentationOf") if (event := act.first("serviceEvent"))]
    start, stop, practice_setting = _principal_act(events)
    return CdaHeader(
        document_id=document.required("id", once=True).required_id(),
        set_id=document.optional_id("setId"),
        version_number=_version(document),
        parents=tuple(_parent(related) for related in document.every("relatedDocument")),
        template_ids=tuple(found for item in document.every("templateId") if (found := item.identifier())),
        type_code=document.required("code", once=True).required_code(),
        confidentiality=document.code("confidentialityCode"),
        language=language.attribute("code") if language else None,
        title=title.text() if title else None,
        effective_time=effective.instant,
        effective_time_precision=effective.precision,
        patient=_patient(patient_role),
        authors=authors,
        legal_authenticator=_participant(authenticator, "assignedEntity") if authenticator else None,
        custodian=_organization(custodian) if custodian else None,
        service_start=start.instant if start else None,
        service_start_precision=start.precision if start else None,
        service_stop=stop.instant if stop else None,
        service_stop_precision=stop.precision if stop else None,
        event_codes=_event_codes(events),
        practice_setting=practice_setting,
        facility_type=_facility_type(document),
        body=body,
        wrapped=wrapped,
    )


def _version(section: CdaElement) -> int | None:
    version = section.first("versionNumber")
    value = version.attribute("value") if version else None
    if version is None or value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and 1 <= int(value) <= _MAX_VERSION):
        raise CdaError(version.path, "version", "a version number is a whole number from 1 on")
    return int(value)


def _parent(related: CdaElement) -> CdaParent:
    relation = related.attribute("typeCode")
    if relation not in get_args(Relation):
        raise CdaError(f"{related.path}/@typeCode", "code", "a related document is RPLC, APND or XFRM")
    parent = related.required("parentDocument")
    return CdaParent(
        relation=cast("Relation", relation),
        document_id=parent.required("id").required_id(),
        set_id=parent.optional_id("setId"),
        version_number=_version(parent),
    )


def _patient(role: CdaElement) -> CdaPatient:
    identifiers = tuple(found for item in role.every("id") if (found := item.identifier()))
    if not identifiers:
        raise CdaError(f"{role.path}/id", "required", "the patient has at least one identifier")
    name = _name(role.first("patient"))
    family = _by_qualifier(name.every("family") if name else ())
    given = _by_qualifier(name.every("given") if name else ())
    birth_given = given.get("BR", ())
    gender = role.first("patient", "administrativeGenderCode")
    sex = gender.attribute("code") if gender else None
    birth_time = role.first("patient", "birthTime")
    place = role.first("patient", "birthplace", "place", "addr")
    return CdaPatient(
        identifiers=identifiers,
        birth_family=_first_of(family.get("BR", ()), family.get("", ())),
        used_family=_first_of(family.get("CL", ()), family.get("SP", ())),
        given=given.get("", ()) or birth_given,
        birth_given=_first_of(birth_given, given.get("", ())),
        used_given=_first_of(given.get("CL", ())),
        sex=cast("Sex", sex) if sex in get_args(Sex) else "U",
        birth_date=birth_time.birth_date() if birth_time else None,
        birth_place_code=place.text_of("county") if place else None,
        birth_place_name=place.text_of("city") if place else None,
    )


def _name(patient: CdaElement | None) -> CdaElement | None:
    """The first of the patient's names that is stated: others may be withheld (nullFlavor)."""
    names = patient.every("name") if patient else ()
    return next((name for name in names if not name.attribute("nullFlavor")), names[0] if names else None)


def _by_qualifier(parts: Sequence[CdaElement]) -> dict[str, tuple[str, ...]]:
    """Group the parts of a name: BR birth, CL used, SP spouse's, "" for those without a qualifier."""
    groups: dict[str, tuple[str, ...]] = {}
    for part in parts:
        text = part.text()
        if text is None:
            continue
        for qualifier in (part.attribute("qualifier") or "").split() or [""]:
            groups[qualifier] = (*groups.get(qualifier, ()), text)
    return groups


def _first_of(*candidates: Sequence[str]) -> str | None:
    return next((texts[0] for texts in candidates if texts), None)


def _participant(section: CdaElement, role: str) -> CdaAuthor:
    entity = section.required(role)
    name = entity.first("assignedPerson", "name")
    device = entity.first("assignedAuthoringDevice")
    organization = entity.first("representedOrganization")
    time = section.first("time")
    return CdaAuthor(
        identifier=entity.optional_id("id"),
        family=name.text_of("family") if name else None,
        given=name.text_of("given") if name else None,
        specialty=entity.code("code"),
        organization=_organization(organization) if organization else None,
        time=_participated(time) if time else None,
        software=(device.text_of("softwareName") or device.text_of("manufacturerModelName")) if device else None,
    )


def _participated(time: CdaElement) -> Hl7Time | None:
    """When somebody took part. Metadata have no place for it, so that one which is none does not refuse a document."""
    try:
        return time.timestamp() if time.attribute("value") else None
    except CdaError:
        return None


def _organization(section: CdaElement) -> CdaOrganization:
    return CdaOrganization(
        identifier=section.optional_id("id"),
        name=section.text_of("name"),
        practice_setting=section.code("standardIndustryClassCode"),
    )


def _principal_act(events: Sequence[CdaElement]) -> tuple[Hl7Time | None, Hl7Time | None, Code | None]:
    """Give start, stop and practice setting of the first act that has an effectiveTime (CI-SIS)."""
    for event in events:
        period = event.first("effectiveTime")
        if period is None or period.attribute("nullFlavor"):
            continue
        low, high = period.first("low"), period.first("high")
        start = low.timestamp() if low and low.attribute("value") else None
        stop = high.timestamp() if high and high.attribute("value") else None
        if start is None and period.attribute("value"):
            start = period.timestamp()
        organization = event.first("performer", "assignedEntity", "representedOrganization")
        return start, stop, organization.code("standardIndustryClassCode") if organization else None
    return None, None, None


def _event_codes(events: Sequence[CdaElement]) -> tuple[Code, ...]:
    codes: dict[tuple[str, str], Code] = {}
    for event in events:
        section = event.first("code")
        for coded in (section, *section.every("translation")) if section else ():
            code = coded.coded()
            if code is not None:
                codes.setdefault((code.system, code.code), code)
    return tuple(codes.values())


def _facility_type(document: CdaElement) -> Code | None:
    facility = document.first("componentOf", "encompassingEncounter", "location", "healthCareFacility")
    return facility.code("code") if facility else None
