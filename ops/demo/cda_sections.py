"""The bodies of demo CDA documents: narrative sections, and the coded entries that the base services show.

Here live pure functions from a seeded generator to XML text, escaped. The header is `cda_document`'s.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from ops.demo.clinical_text import ANALYSES, MEDICINES, TIMINGS, VACCINES, Analysis, Medicine, paragraph
from services.document.hl7_time import format_timestamp

_LOINC: Final = '"2.16.840.1.113883.6.1" codeSystemName="LOINC"'
_ATC: Final = '"2.16.840.1.113883.6.73" codeSystemName="ATC"'


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its LOINC code and title, its narrative block and its entries, both XML."""

    code: str
    title: str
    narrative: str
    entries: str = ""

    def xml(self) -> str:
        """Write the section as a component of a structured body."""
        return (
            f"<component><section><code code={quoteattr(self.code)} displayName={quoteattr(self.title)} "
            f"codeSystem={_LOINC}/><title>{escape(self.title)}</title><text>{self.narrative}</text>"
            f"{self.entries}</section></component>\n"
        )


def narrative(rng: random.Random, titles: dict[str, str]) -> list[Section]:
    """Draw a section of one to three paragraphs for each (LOINC code, title)."""
    return [
        Section(
            code,
            title,
            "".join(f"<paragraph>{escape(paragraph(rng, 3))}</paragraph>" for _ in range(rng.randint(1, 3))),
        )
        for code, title in titles.items()
    ]


def biology(rng: random.Random, at: datetime) -> list[Section]:
    """Draw structured results: one observation with value, interpretation and reference range per analysis."""
    chosen = sorted(rng.sample(ANALYSES, rng.randint(6, len(ANALYSES))))
    results = [(analysis, _value(rng, analysis)) for analysis in chosen]
    rows = "".join(
        f'<tr><td><content ID="res-{number}">{escape(analysis.name)}</content></td>'
        f"<td>{value:.{analysis.decimals}f} {escape(analysis.unit)}</td>"
        f"<td>{analysis.low} à {analysis.high}</td></tr>"
        for number, (analysis, value) in enumerate(results)
    )
    observations = "".join(
        _observation(analysis, value, number, at) for number, (analysis, value) in enumerate(results)
    )
    entry = (
        '<entry typeCode="DRIV"><templateId root="1.3.6.1.4.1.19376.1.3.1"/>'
        f'<act classCode="ACT" moodCode="EVN"><code code="18719-5" displayName="Biochimie" codeSystem={_LOINC}/>'
        f'<statusCode code="completed"/>{observations}</act></entry>'
    )
    return [Section("18719-5", "Biochimie", _table("Analyse", "Résultat", "Valeurs de référence", rows=rows), entry)]


def prescription(rng: random.Random, at: datetime) -> list[Section]:
    """Draw prescribed medicines: substanceAdministration in mood INT."""
    lines = _treatment(rng)
    entries = "".join(
        '<entry><substanceAdministration classCode="SBADM" moodCode="INT">'
        f'<templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.7"/><id root={quoteattr(_uuid(rng))}/>'
        f'<text><reference value="#med-{number}"/></text><statusCode code="completed"/>'
        f'<effectiveTime xsi:type="IVL_TS"><low value="{at:%Y%m%d}"/>'
        f'<high value="{at + timedelta(days=days):%Y%m%d}"/></effectiveTime>'
        f"<consumable>{_product(medicine.atc, medicine.name)}</consumable></substanceAdministration></entry>"
        for number, (medicine, _, days) in enumerate(lines)
    )
    return [Section("57828-6", "Prescription de médicaments", _medicines_table(lines), entries)]


def dispensation(rng: random.Random, at: datetime) -> list[Section]:
    """Draw dispensed medicines: supply in mood EVN, with the quantity in boxes."""
    lines = _treatment(rng)
    entries = "".join(
        '<entry><supply classCode="SPLY" moodCode="EVN"><templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.7.3"/>'
        f'<id root={quoteattr(_uuid(rng))}/><text><reference value="#med-{number}"/></text>'
        f'<effectiveTime value="{format_timestamp(at)}"/><quantity value="{1 + days // 30}" unit="30009000"/>'
        f"<product>{_product(medicine.atc, medicine.name)}</product></supply></entry>"
        for number, (medicine, _, days) in enumerate(lines)
    )
    return [Section("60590-7", "Médicaments délivrés", _medicines_table(lines), entries)]


def vaccinations(rng: random.Random, at: datetime, *, most: int) -> list[Section]:
    """Draw one to `most` administered vaccines, with their lot."""
    chosen = rng.sample(VACCINES, rng.randint(1, most))
    given = [(vaccine, at - timedelta(days=rng.randrange(0, 3650) if most > 1 else 0)) for vaccine in chosen]
    rows = "".join(
        f'<tr><td>{day:%d/%m/%Y}</td><td><content ID="vac-{number}">{escape(vaccine.name)}</content></td></tr>'
        for number, (vaccine, day) in enumerate(given)
    )
    entries = "".join(
        '<entry><substanceAdministration classCode="SBADM" moodCode="EVN" negationInd="false">'
        '<templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.12"/>'
        f'<id root={quoteattr(_uuid(rng))}/><code code="IMMUNIZ" codeSystem="2.16.840.1.113883.5.4"/>'
        f'<text><reference value="#vac-{number}"/></text><statusCode code="completed"/>'
        f'<effectiveTime value="{day:%Y%m%d}"/>'
        f"<consumable>{_product(vaccine.atc, vaccine.name, lot=f'D{rng.randrange(10**6):06d}')}</consumable>"
        "</substanceAdministration></entry>"
        for number, (vaccine, day) in enumerate(given)
    )
    return [Section("11369-6", "Vaccinations", _table("Date", "Vaccin", rows=rows), entries)]


def remarks(rng: random.Random, length: int) -> str:
    """Write a section of dated remarks that takes about `length` bytes, or nothing where that is too little."""
    room = length - len(_remarks(()).encode())
    items: list[str] = []
    while room > 0:
        day = f"{rng.randrange(1, 29):02}/{rng.randrange(1, 13):02}/{rng.randrange(2015, 2025)}"
        item = (
            f'<item><content ID="rem-{rng.getrandbits(32):08x}">{day}</content> : '
            f"{escape(paragraph(rng, rng.randint(1, 3)))}</item>\n"
        )
        items.append(item)
        room -= len(item.encode())
    return _remarks(items) if items else ""


def _remarks(items: Sequence[str]) -> str:
    return Section("48767-8", "Commentaires", f"<list>{''.join(items)}</list>").xml()


def _value(rng: random.Random, analysis: Analysis) -> float:
    spread = analysis.high - analysis.low
    return max(analysis.low / 2, rng.gauss((analysis.low + analysis.high) / 2, spread / 3))


def _observation(analysis: Analysis, value: float, number: int, at: datetime) -> str:
    flag = "L" if value < analysis.low else "H" if value > analysis.high else "N"
    unit = quoteattr(analysis.unit)
    return (
        '<entryRelationship typeCode="COMP"><observation classCode="OBS" moodCode="EVN">'
        '<templateId root="1.3.6.1.4.1.19376.1.3.1.6"/>'
        f"<code code={quoteattr(analysis.loinc)} displayName={quoteattr(analysis.name)} codeSystem={_LOINC}>"
        f'<originalText><reference value="#res-{number}"/></originalText></code><statusCode code="completed"/>'
        f'<effectiveTime value="{format_timestamp(at)}"/>'
        f'<value xsi:type="PQ" value="{value:.{analysis.decimals}f}" unit={unit}/>'
        f'<interpretationCode code="{flag}" codeSystem="2.16.840.1.113883.5.83"/>'
        '<referenceRange typeCode="REFV"><observationRange classCode="OBS" moodCode="EVN.CRT">'
        f'<value xsi:type="IVL_PQ"><low value="{analysis.low}" unit={unit}/><high value="{analysis.high}" unit={unit}/>'
        '</value><interpretationCode code="N" codeSystem="2.16.840.1.113883.5.83"/></observationRange>'
        "</referenceRange></observation></entryRelationship>"
    )


def _treatment(rng: random.Random) -> list[tuple[Medicine, str, int]]:
    """Draw medicines with their timing and a duration in days."""
    chosen = rng.sample(MEDICINES, rng.randint(1, 6))
    return [(medicine, rng.choice(TIMINGS), rng.choice((5, 7, 30, 90))) for medicine in chosen]


def _medicines_table(lines: list[tuple[Medicine, str, int]]) -> str:
    rows = "".join(
        f'<tr><td><content ID="med-{number}">{escape(medicine.name)}</content></td>'
        f"<td>{escape(medicine.dose)} {escape(timing)}</td><td>{days} jours</td></tr>"
        for number, (medicine, timing, days) in enumerate(lines)
    )
    return _table("Médicament", "Posologie", "Durée", rows=rows)


def _table(*titles: str, rows: str) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    return f'<table border="0"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _product(atc: str, name: str, *, lot: str | None = None) -> str:
    lot_number = f"<lotNumberText>{escape(lot)}</lotNumberText>" if lot else ""
    return (
        '<manufacturedProduct><templateId root="1.3.6.1.4.1.19376.1.5.3.1.4.7.2"/><manufacturedMaterial>'
        f"<code code={quoteattr(atc)} displayName={quoteattr(name)} codeSystem={_ATC}/><name>{escape(name)}</name>"
        f"{lot_number}</manufacturedMaterial></manufacturedProduct>"
    )


def _uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032X}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-A{digits[17:20]}-{digits[20:]}"
