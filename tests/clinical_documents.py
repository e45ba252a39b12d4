"""Structured bodies of our own making for CDA documents, one for each construct that readers know. Strings only."""

from __future__ import annotations

LOINC = "2.16.840.1.113883.6.1"
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def section(
    code: str, entries: str = "", *, title: str = "", text: str = "", inner: str = "", template: str = ""
) -> str:
    """A section in its component."""
    shown = f"<text>{text}</text>" if text else ""
    template = f'<templateId root="{template}"/>' if template else ""
    return (
        f'<component><section {XSI}>{template}<code code="{code}" codeSystem="{LOINC}"/><title>{title}</title>'
        f"{shown}{entries}{inner}</section></component>"
    )


def entry(act: str) -> str:
    """An act as an entry."""
    return f"<entry>{act}</entry>"


def result(
    code: str = "3016-3",
    value: str = '<value xsi:type="PQ" value="1.950" unit="m[IU]/L"/>',
    *,
    time: str = "20240104131933+0100",
    more: str = "",
    negated: bool = False,
) -> str:
    """A laboratory observation."""
    negation = ' negationInd="true"' if negated else ""
    return (
        f'<observation classCode="OBS" moodCode="EVN"{negation}><templateId root="1.3.6.1.4.1.19376.1.3.1.6"/>'
        f'<code code="{code}" codeSystem="{LOINC}" displayName="Essai {code}"/><statusCode code="completed"/>'
        f'<effectiveTime value="{time}"/>{value}{more}</observation>'
    )


def laboratory(*observations: str, code: str = "18719-5", around: str = "") -> str:
    """A laboratory section with these observations in one act."""
    inside = "".join(f'<entryRelationship typeCode="COMP">{each}</entryRelationship>' for each in observations)
    act = (
        f'<act classCode="ACT" moodCode="EVN"><code code="{code}" codeSystem="{LOINC}" displayName="Biochimie"/>'
        f'<statusCode code="completed"/>{around}{inside}</act>'
    )
    return section(code, entry(act), title="BIOCHIMIE", template="1.3.6.1.4.1.19376.1.3.3.2.1")


def product(name: str = "PARACÉTAMOL 500 mg", code: str = "63107752", more: str = "") -> str:
    """A manufactured product."""
    return (
        f'<manufacturedProduct><manufacturedMaterial><code code="{code}" codeSystem="1.2.250.1.213.2.3.1"'
        f' displayName="{name}"><translation code="N02BE01" codeSystem="2.16.840.1.113883.6.73"/></code>'
        f"<name>{name}</name>{more}</manufacturedMaterial></manufacturedProduct>"
    )


def prescription(*acts: str) -> str:
    """The section of prescribed medicines."""
    return section("57828-6", "".join(map(entry, acts)), title="Prescription")


def prescribed(inner: str = "", *, mood: str = "INT", named: str = "") -> str:
    """A prescribed medicine."""
    return (
        f'<substanceAdministration classCode="SBADM" moodCode="{mood}"><id root="1.2.3" extension="item-1"/>'
        f'<statusCode code="completed"/><effectiveTime xsi:type="IVL_TS"><low value="20240101"/>'
        f'<high value="20240106"/></effectiveTime><consumable>{named or product()}</consumable>{inner}'
        "</substanceAdministration>"
    )


def dispensed(inner: str = "") -> str:
    """The section of dispensed medicines with one of them."""
    act = (
        '<supply classCode="SPLY" moodCode="EVN"><id root="1.2.3" extension="supply-1"/>'
        f'<quantity value="2" unit="30009000"/><product>{product()}</product>{inner}</supply>'
    )
    return section("60590-7", entry(act), title="Médicaments délivrés")


def vaccinated(
    name: str = "VACCIN TÉTANIQUE", time: str = "2009", *, mood: str = "EVN", inner: str = "", negated: bool = False
) -> str:
    """A vaccination."""
    return (
        f'<substanceAdministration classCode="SBADM" moodCode="{mood}" negationInd="{str(negated).lower()}">'
        '<templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.12"/><code code="BOOSTER" codeSystem="2.16.840.1.113883.5.4"/>'
        f'<statusCode code="completed"/><effectiveTime value="{time}"/><consumable>{product(name, "68747507")}'
        f"</consumable>{inner}</substanceAdministration>"
    )


def vaccinations(*acts: str) -> str:
    """The section of vaccinations."""
    return section("11369-6", "".join(map(entry, acts)), title="Historique des vaccinations")


def problem(code: str = "I20.0", *, status: str = "active", low: str = "20190811", inner: str = "") -> str:
    """A problem concern with one problem."""
    return (
        '<act classCode="ACT" moodCode="EVN"><templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.5.1"/>'
        '<code nullFlavor="NA"/>'
        f'<statusCode code="{status}"/><effectiveTime><low value="{low}"/></effectiveTime>'
        '<entryRelationship typeCode="SUBJ"><observation classCode="OBS" moodCode="EVN">'
        '<code code="282291009" codeSystem="2.16.840.1.113883.6.96"/><statusCode code="completed"/>'
        f'<effectiveTime><low value="{low}"/></effectiveTime><value xsi:type="CD" code="{code}"'
        f' codeSystem="2.16.840.1.113883.6.3" displayName="Angine"/>{inner}</observation></entryRelationship></act>'
    )


def imaging_header(study: str = "1.2.3.4.5", accession: str = "A-1", issuer: str = "1.2.250.1.9") -> str:
    """The parts of a header that name an imaging examination."""
    root = f'root="{issuer}" extension="{accession}"' if issuer else f'extension="{accession}"'
    return (
        f'<inFulfillmentOf xmlns:ps3-20="urn:dicom-org:ps3-20"><order><id root="1.2.250.1.8" extension="O-1"/>'
        f"<ps3-20:accessionNumber {root}/></order></inFulfillmentOf>"
        f'<documentationOf><serviceEvent><id root="{study}"/><code code="24727-0" codeSystem="{LOINC}"'
        ' displayName="CT tête"><translation code="CT" codeSystem="1.2.840.10008.2.16.4"><qualifier>'
        '<name code="121139" codeSystem="1.2.840.10008.2.16.4"/></qualifier></translation></code>'
        '<effectiveTime><low value="20210108102500+0100"/></effectiveTime></serviceEvent></documentationOf>'
    )
