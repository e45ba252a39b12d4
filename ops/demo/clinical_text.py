"""What demo documents say: sentences, analyses, medicines, vaccines.

Here live tables and the drawing of sentences from them. The sentences are our own and speak of nobody. Codes are LOINC
for analyses and ATC for medicines and vaccines.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple


class Analysis(NamedTuple):
    """A biology analysis: LOINC code, French name, UCUM unit, normal range, decimals."""

    loinc: str
    name: str
    unit: str
    low: float
    high: float
    decimals: int


class Medicine(NamedTuple):
    """A medicine: ATC code, substance and form, usual dose."""

    atc: str
    name: str
    dose: str


class Vaccine(NamedTuple):
    """A vaccine: ATC code and French name."""

    atc: str
    name: str


ANALYSES: Final = (
    Analysis("718-7", "Hémoglobine", "g/dL", 12.0, 17.0, 1),
    Analysis("789-8", "Érythrocytes", "10*6/uL", 4.0, 5.9, 2),
    Analysis("6690-2", "Leucocytes", "10*3/uL", 4.0, 10.0, 1),
    Analysis("777-3", "Plaquettes", "10*3/uL", 150, 400, 0),
    Analysis("1988-5", "Protéine C réactive", "mg/L", 0.1, 5.0, 1),
    Analysis("14749-6", "Glucose", "mmol/L", 3.9, 6.1, 1),
    Analysis("4548-4", "Hémoglobine A1c", "%", 4.0, 6.0, 1),
    Analysis("14682-9", "Créatinine", "umol/L", 45, 104, 0),
    Analysis("2951-2", "Sodium", "mmol/L", 136, 145, 0),
    Analysis("2823-3", "Potassium", "mmol/L", 3.5, 5.1, 1),
    Analysis("14647-2", "Cholestérol total", "mmol/L", 3.2, 5.2, 2),
    Analysis("14646-4", "Cholestérol HDL", "mmol/L", 1.0, 2.2, 2),
    Analysis("22748-8", "Cholestérol LDL", "mmol/L", 1.0, 3.4, 2),
    Analysis("14927-8", "Triglycérides", "mmol/L", 0.4, 1.7, 2),
    Analysis("1742-6", "Alanine aminotransférase", "U/L", 7, 45, 0),
    Analysis("1920-8", "Aspartate aminotransférase", "U/L", 8, 40, 0),
    Analysis("2324-2", "Gamma-glutamyltransférase", "U/L", 8, 61, 0),
    Analysis("2276-4", "Ferritine", "ng/mL", 20, 250, 0),
    Analysis("3016-3", "Thyréostimuline", "m[IU]/L", 0.27, 4.20, 2),
)
MEDICINES: Final = (
    Medicine("N02BE01", "paracétamol 1 g, comprimé", "1 comprimé"),
    Medicine("C09AA05", "ramipril 5 mg, comprimé", "1 comprimé"),
    Medicine("A10BA02", "metformine 850 mg, comprimé pelliculé", "1 comprimé"),
    Medicine("C10AA05", "atorvastatine 20 mg, comprimé pelliculé", "1 comprimé"),
    Medicine("B01AC06", "acide acétylsalicylique 75 mg, poudre", "1 sachet"),
    Medicine("H03AA01", "lévothyroxine 75 microgrammes, comprimé", "1 comprimé"),
    Medicine("A02BC01", "oméprazole 20 mg, gélule gastro-résistante", "1 gélule"),
    Medicine("J01CA04", "amoxicilline 1 g, comprimé dispersible", "1 comprimé"),
    Medicine("R03AC02", "salbutamol 100 microgrammes, suspension pour inhalation", "2 bouffées"),
    Medicine("N06AB06", "sertraline 50 mg, gélule", "1 gélule"),
    Medicine("C07AB07", "bisoprolol 2,5 mg, comprimé", "1 comprimé"),
    Medicine("C08CA01", "amlodipine 5 mg, gélule", "1 gélule"),
)
VACCINES: Final = (
    Vaccine("J07CA09", "vaccin hexavalent"),
    Vaccine("J07AL02", "vaccin pneumococcique conjugué"),
    Vaccine("J07AH08", "vaccin méningococcique ACWY conjugué"),
    Vaccine("J07BD52", "vaccin rougeole, oreillons, rubéole"),
    Vaccine("J07CA02", "vaccin diphtérie, tétanos, coqueluche, poliomyélite"),
    Vaccine("J07BM03", "vaccin papillomavirus, 9 valences"),
    Vaccine("J07BB02", "vaccin grippal"),
    Vaccine("J07BN01", "vaccin contre la COVID-19 à ARNm"),
)
TIMINGS: Final = ("le matin", "le soir au coucher", "matin et soir", "trois fois par jour au cours des repas")

_SENTENCES: Final = (
    "L’examen retrouve une pression artérielle à {a} sur {b} mmHg et une fréquence cardiaque à {c} par minute.",
    "L’auscultation cardiaque est régulière, sans souffle perçu ; l’auscultation pulmonaire est claire et symétrique.",
    "L’abdomen est souple, dépressible, indolore dans son ensemble, sans masse palpable ni organomégalie.",
    "Le poids est de {c} kg, stable depuis la dernière consultation, et la taille n’a pas été mesurée de nouveau.",
    "La tolérance du traitement est bonne ; aucun effet indésirable n’est signalé depuis {d} semaines.",
    "La douleur est cotée à {e} sur 10 au repos et augmente à la mobilisation, sans irradiation particulière.",
    "Il n’existe ni fièvre, ni frissons, ni altération de l’état général au cours des {d} derniers jours.",
    "Le bilan biologique de contrôle est prescrit dans {d} semaines, à jeun, avec une fonction rénale.",
    "Les antécédents familiaux sont relus avec le patient et ne modifient pas la conduite à tenir proposée.",
    "L’examen neurologique ne montre pas de déficit sensitif ou moteur ; les réflexes sont présents et symétriques.",
    "La saturation en oxygène est de 9{e} % en air ambiant, sans signe de lutte respiratoire.",
    "Une activité physique adaptée, de {c} minutes trois fois par semaine, est conseillée et expliquée.",
    "La vaccination est à jour pour les rappels recommandés à l’âge du patient, selon le carnet présenté.",
    "Une consultation spécialisée est demandée ; un courrier est remis en main propre au patient ce jour.",
    "L’électrocardiogramme enregistre un rythme sinusal à {c} par minute, sans trouble de la repolarisation.",
    "Les règles hygiéno-diététiques sont rappelées, ainsi que les signes qui doivent faire consulter sans attendre.",
    "Le sommeil est décrit comme réparateur et l’appétit conservé ; le moral est jugé bon par le patient.",
    "L’imagerie réalisée il y a {d} mois est relue et ne met pas en évidence d’élément nouveau.",
    "Le prochain rendez-vous est fixé dans {d} semaines, ou plus tôt si les symptômes réapparaissent.",
    "Aucune allergie médicamenteuse n’est connue à ce jour ; l’interrogatoire est renouvelé avant prescription.",
)


def sentence(rng: random.Random) -> str:
    """Draw one sentence of a medical narrative."""
    return rng.choice(_SENTENCES).format(
        a=rng.randint(105, 150), b=rng.randint(60, 95), c=rng.randint(50, 99), d=rng.randint(2, 12), e=rng.randint(1, 9)
    )


def paragraph(rng: random.Random, sentences: int) -> str:
    """Draw a paragraph of so many sentences."""
    return " ".join(sentence(rng) for _ in range(sentences))
