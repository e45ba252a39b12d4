"""What the header of a CDA says, as document metadata; and where metadata that came with it say something else.

Pure. Reading the header is `cda`, the rules of codes are `codes`, filling what is missing is `metadata`. Where a
correspondence is not evident it follows CI-SIS ("correspondance entre l'en-tête CDA et les métadonnées XDS").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from dmp.common.v1 import coding_pb2
from dmp.document.v1 import document_pb2
from dmp.identity.v1 import identity_pb2
from services.document import codes
from services.document.cda import CdaAuthor, CdaHeader, CdaOrganization, CdaPatient, Code, InstanceId
from services.document.codes import Violation
from services.document.hl7_time import Precision
from services.document.times import instant, timestamp
from services.document.unique_ids import canonical, spellings

_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+")
_INS: Final = frozenset(f"1.2.250.1.213.1.4.{arc}" for arc in ("2", "8", "9", "10", "11"))
"""Domains of the national identifiers: INS-C, NIR, NIA, test and demonstration NIR (domain.md §1)."""
_MOST_EVENT_CODES: Final = 64
_LEVELS: Final = frozenset({"N", "R", "V"})
_SEXES: Final = {"M": identity_pb2.SEX_MALE, "F": identity_pb2.SEX_FEMALE, "U": identity_pb2.SEX_UNKNOWN}
_UNITS: Final = {
    Precision.DAY: timedelta(days=1),
    Precision.HOUR: timedelta(hours=1),
    Precision.MINUTE: timedelta(minutes=1),
    Precision.SECOND: timedelta(seconds=1),
    Precision.FRACTION: timedelta(seconds=1),
}


def document_of(header: CdaHeader) -> document_pb2.Document:
    """The metadata that the header states; what it does not say is left out."""
    patient = header.patient
    template_ids = (template.root for template in header.template_ids)
    format_code = codes.format_of_cda(template_ids, header.body.media_type if header.body else None)
    document = document_pb2.Document(
        unique_id=canonical(header.document_id.unique_id),
        language=header.language or "",
        title=header.title or "",
        authors=[_author(author) for author in header.authors],
        type_code=_coding(header.type_code),
        format_code=coding_pb2.Coding(system=format_code.system, code=format_code.code),
        event_codes=[_coding(code) for code in header.event_codes[:_MOST_EVENT_CODES]],
        create_time=timestamp(header.effective_time),
        source_patient_info=_source_patient_info(patient),
    )
    if header.legal_authenticator is not None:
        document.legal_authenticator.CopyFrom(_author(header.legal_authenticator))
    start, stop = _act(header)
    document.service_start_time.CopyFrom(timestamp(start))
    if stop is not None:
        document.service_stop_time.CopyFrom(timestamp(stop))
    if header.custodian is not None:
        _name_institution(document.custodian, header.custodian)
    if header.confidentiality is not None:
        document.confidentiality.append(_coding(header.confidentiality))
    if (facility := header.facility_type) is not None:
        document.facility_type.CopyFrom(_coding(facility))
    if (setting := _practice_setting(header)) is not None:
        document.practice_setting.CopyFrom(_coding(setting))
    if (identifier := _source_patient_id(patient)) is not None:
        document.source_patient_id.CopyFrom(identifier)
    return document


def _act(header: CdaHeader) -> tuple[datetime, datetime | None]:
    """When the act began and ended. One that began at no stated time began when the document was written, but not after
    its end; one that ended on the day on which it began, the hour not stated, did not end before."""
    start, stop, precision = header.service_start, header.service_stop, header.service_stop_precision
    if start is None:
        start = header.effective_time if stop is None else min(header.effective_time, stop)
    elif stop is not None and stop < start and within(timestamp(start), stop, precision):
        stop = start
    return start, stop


def claim_of(patient: CdaPatient) -> identity_pb2.PatientClaim:
    """What the recordTarget says of the patient, for identity to verify."""
    info = _source_patient_info(patient)
    return claim_of_info(info)


def claim_of_info(info: document_pb2.SourcePatientInfo) -> identity_pb2.PatientClaim:
    """What a source patient info says of the patient, for identity to verify."""
    return identity_pb2.PatientClaim(
        identifiers=info.identifiers,
        family_names=info.family_names,
        given_names=info.given_names,
        sex=_SEXES.get(info.sex.upper(), identity_pb2.SEX_UNSPECIFIED),
        birth_date=info.birth_date,
    )


def disagreements(given: document_pb2.Document, header: CdaHeader) -> Iterator[Violation]:
    """Where metadata say something else than the document that they describe. Titles and labels may differ."""
    if given.unique_id and canonical(given.unique_id) not in spellings(header.document_id):
        yield _differs("unique_id", "id")
    if given.HasField("type_code") and not _same(given.type_code, header.type_code):
        yield _differs("type_code", "code")
    if given.language and header.language and given.language.lower() != header.language.lower():
        yield _differs("language", "languageCode")
    if header.confidentiality is not None:
        levels = {code.code for code in given.confidentiality} & _LEVELS
        if levels and levels != {header.confidentiality.code}:
            yield _differs("confidentiality", "confidentialityCode")
    yield from _different_times(given, header)
    yield from _different_people(given, header)
    facility, setting = header.facility_type, header.practice_setting
    if given.HasField("facility_type") and facility and not _same(given.facility_type, facility):
        yield _differs("facility_type", "componentOf/encompassingEncounter/location/healthCareFacility/code")
    if given.HasField("practice_setting") and setting and not _same(given.practice_setting, setting):
        yield _differs("practice_setting", "documentationOf/serviceEvent/performer")


def _different_times(given: document_pb2.Document, header: CdaHeader) -> Iterator[Violation]:
    if given.HasField("create_time") and not within(
        given.create_time, header.effective_time, header.effective_time_precision
    ):
        yield _differs("create_time", "effectiveTime")
    if given.HasField("service_start_time") and not within(
        given.service_start_time, header.service_start, header.service_start_precision
    ):
        yield _differs("service_start_time", "documentationOf/serviceEvent")
    if given.HasField("service_stop_time") and not within(
        given.service_stop_time, header.service_stop, header.service_stop_precision
    ):
        yield _differs("service_stop_time", "documentationOf/serviceEvent")


def _different_people(given: document_pb2.Document, header: CdaHeader) -> Iterator[Violation]:
    written = {(a.identifier.root, a.identifier.extension) for a in header.authors if a.identifier}
    for index, author in enumerate(given.authors):
        if author.HasField("id") and (author.id.system, author.id.value) not in written:
            yield _differs(f"authors[{index}].id", "author")
    vouched = header.legal_authenticator
    claimed = given.legal_authenticator.id
    signed = vouched.identifier if vouched else None
    if claimed.value and signed and (claimed.system, claimed.value) != (signed.root, signed.extension):
        yield _differs("legal_authenticator.id", "legalAuthenticator")
    if given.HasField("source_patient_id"):
        named = {(identifier.root, identifier.extension) for identifier in header.patient.identifiers}
        if (given.source_patient_id.system, given.source_patient_id.value) not in named:
            yield _differs("source_patient_id", "recordTarget/patientRole/id")


def within(given: Timestamp, stated: datetime | None, precision: Precision | None) -> bool:
    """Whether an instant lies in what was stated of it: a day when only the day was stated, anywhere if nothing was."""
    if stated is None or precision is None:
        return True
    moment = instant(given).astimezone(stated.tzinfo)
    if precision is Precision.YEAR:
        return moment.year == stated.year
    if precision is Precision.MONTH:
        return (moment.year, moment.month) == (stated.year, stated.month)
    return timedelta() <= moment - stated < _UNITS[precision]


def _differs(field: str, element: str) -> Violation:
    return Violation(field, "differs_from_document", f"the document says something else in ClinicalDocument/{element}")


def _same(given: coding_pb2.Coding, stated: Code) -> bool:
    return given.code == stated.code and given.system in ("", stated.system)


def _coding(code: Code) -> coding_pb2.Coding:
    return coding_pb2.Coding(system=code.system, code=code.code, display=(code.display or "")[:255])


def _identifier(identifier: InstanceId | None) -> coding_pb2.Identifier | None:
    """An identifier as metadata can write it: an OID and a value; None for others (UUID roots, no extension)."""
    if identifier is None or identifier.extension is None or not _OID.fullmatch(identifier.root):
        return None
    return coding_pb2.Identifier(system=identifier.root, value=identifier.extension)


def _author(author: CdaAuthor) -> coding_pb2.Author:
    name = " ".join(part for part in (author.given, author.family) if part) or author.software or ""
    written = coding_pb2.Author(name=name, family_name=author.family or "")
    if author.given:
        written.given_names.append(author.given)
    if (identifier := _identifier(author.identifier)) is not None:
        written.id.CopyFrom(identifier)
    if author.specialty is not None:
        written.specialty.CopyFrom(_coding(author.specialty))
    if author.organization is not None:
        _name_institution(written, author.organization)
    return written


def _name_institution(written: coding_pb2.Author, organization: CdaOrganization) -> None:
    written.institution_name = organization.name or ""
    if (institution := _identifier(organization.identifier)) is not None:
        written.institution_id.CopyFrom(institution)


def _practice_setting(header: CdaHeader) -> Code | None:
    """That of the principal act, else of whoever answers for the document, else of an author."""
    if header.practice_setting is not None:
        return header.practice_setting
    people = (header.legal_authenticator, *header.authors)
    settings = (person.organization.practice_setting for person in people if person and person.organization)
    return next((setting for setting in settings if setting is not None), None)


def _source_patient_id(patient: CdaPatient) -> coding_pb2.Identifier | None:
    """The producer's own identifier of the patient, else the first that there is."""
    stated = _identifiers(patient)
    return next((identifier for identifier in stated if identifier.system not in _INS), stated[0] if stated else None)


def _source_patient_info(patient: CdaPatient) -> document_pb2.SourcePatientInfo:
    born = patient.birth_date
    return document_pb2.SourcePatientInfo(
        identifiers=_identifiers(patient),
        family_names=_stated(patient.birth_family, patient.used_family),
        given_names=_stated(patient.birth_given, *patient.given, patient.used_given),
        sex=patient.sex,
        birth_date=born.isoformat() if isinstance(born, date) else born or "",
    )


def _identifiers(patient: CdaPatient) -> list[coding_pb2.Identifier]:
    return [written for identifier in patient.identifiers if (written := _identifier(identifier)) is not None]


def _stated(*names: str | None) -> Iterable[str]:
    return dict.fromkeys(name for name in names if name)
