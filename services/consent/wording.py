"""What the rules say in words, in English for operators and in French for patients. Data and its filling in; pure.

A rule's words are chosen by what it did (`Applied`), so that an explanation says what the decision did and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dmp.consent.v1 import consent_pb2 as pb
from services.consent.decision import Applied, Case, Rule


@dataclass(frozen=True, slots=True)
class Words:
    """One rule applied, in words, and where it is written."""

    rule: Rule
    outcome: int
    english: str
    french: str
    source: str


_PASSED: Final = pb.RULE_OUTCOME_PASSED
_REFUSED: Final = pb.RULE_OUTCOME_REFUSED
_NARROWED: Final = pb.RULE_OUTCOME_NARROWED

_TEXTS: Final[Mapping[tuple[Rule, int], tuple[str, str]]] = {
    (Rule.CONTEXT, _PASSED): (
        "Who acts is known well enough to decide.",
        "La personne qui agit est suffisamment identifiée.",
    ),
    (Rule.CONTEXT, _REFUSED): (
        "Who acts is not known well enough: something that this kind of caller must state is missing.",
        "La personne qui agit n'est pas suffisamment identifiée : une information obligatoire manque.",
    ),
    (Rule.PURPOSE, _PASSED): (
        "The purpose is care, or the patient's own.",
        "La finalité est le soin, ou la demande du patient lui-même.",
    ),
    (Rule.PURPOSE, _REFUSED): (
        "The purpose is not care: insurers, employers and others never have access.",
        "La finalité n'est pas le soin : les assureurs, les employeurs et d'autres n'ont jamais accès.",
    ),
    (Rule.BINDING, _PASSED): (
        "The caller's session allows this dossier.",
        "La session de l'appelant permet ce dossier.",
    ),
    (Rule.BINDING, _REFUSED): (
        "The caller's session is bound to another dossier.",
        "La session de l'appelant est liée à un autre dossier.",
    ),
    (Rule.HOST, _PASSED): (
        "The caller takes over no host's dossiers, or this dossier is of that host.",
        "L'appelant ne reprend les dossiers d'aucun hébergeur, ou ce dossier est de cet hébergeur.",
    ),
    (Rule.HOST, _REFUSED): (
        "The caller takes over the dossiers of another host.",
        "L'appelant reprend les dossiers d'un autre hébergeur.",
    ),
    (Rule.DOSSIER, _PASSED): ("The dossier exists.", "Le dossier existe."),
    (Rule.DOSSIER, _REFUSED): (
        "There is no dossier, or what it held was destroyed.",
        "Il n'y a pas de dossier, ou son contenu a été détruit.",
    ),
    (Rule.BLOCKED, _PASSED): (
        "The patient has not blocked the caller or the caller's structure.",
        "Le patient n'a bloqué ni l'appelant ni sa structure.",
    ),
    (Rule.BLOCKED, _REFUSED): (
        "The patient has blocked the caller or the caller's structure, whatever the mode.",
        "Le patient a bloqué l'appelant ou sa structure, quel que soit le mode d'accès.",
    ),
    (Rule.REPRESENTATION, _PASSED): (
        "Nobody acts for the patient, or the representation is in force.",
        "Personne n'agit au nom du patient, ou la représentation est en vigueur.",
    ),
    (Rule.REPRESENTATION, _REFUSED): (
        "The caller does not represent the patient, or not now.",
        "L'appelant ne représente pas le patient, ou ne le représente pas actuellement.",
    ),
    (Rule.STATE, _PASSED): (
        "The dossier is open, or may be read from its archive.",
        "Le dossier est ouvert, ou consultable dans ses archives.",
    ),
    (Rule.STATE, _REFUSED): ("The dossier is closed.", "Le dossier est fermé."),
    (Rule.RIGHT, _PASSED): (
        "The rights table gives {row} this: {function} is “{word}”.",
        "La matrice d'habilitation le permet à {row} : {function} vaut « {word} ».",
    ),
    (Rule.RIGHT, _REFUSED): (
        "The rights table does not give {row} this: {function} is “{word}”.",
        "La matrice d'habilitation ne le permet pas à {row} : {function} vaut « {word} ».",
    ),
    (Rule.REASON, _PASSED): (
        "The emergency has its reason, or there is none to give.",
        "Le motif de l'urgence est donné, ou aucun n'est requis.",
    ),
    (Rule.REASON, _REFUSED): (
        "Break-glass needs a reason, and none was given.",
        "Le bris de glace exige un motif, et aucun n'a été donné.",
    ),
    (Rule.OPPOSITION, _PASSED): (
        "The patient has not opposed this mode of access, or it opens nothing here.",
        "Le patient ne s'est pas opposé à ce mode d'accès, ou ce mode n'ouvre rien ici.",
    ),
    (Rule.OPPOSITION, _REFUSED): (
        "The patient opposed access in this emergency mode.",
        "Le patient s'est opposé à l'accès dans ce mode d'urgence.",
    ),
    (Rule.AUTHORIZATION, _PASSED): (
        "An authorisation is valid, or none is needed for this.",
        "Une autorisation est valide, ou aucune n'est requise pour cela.",
    ),
    (Rule.AUTHORIZATION, _REFUSED): (
        "Neither the caller nor the caller's structure has a valid authorisation.",
        "Ni l'appelant ni sa structure n'a d'autorisation valide.",
    ),
    (Rule.DOCUMENT, _PASSED): (
        "Nothing hides this document from the caller.",
        "Rien ne cache ce document à l'appelant.",
    ),
    (Rule.DOCUMENT, _REFUSED): (
        "This document is hidden from the caller, or is not one that the caller may do this to.",
        "Ce document est caché à l'appelant, ou n'est pas de ceux sur lesquels il peut agir ainsi.",
    ),
    (Rule.MASKED, _NARROWED): (
        "Masked documents are left out, but those that the caller authored where the table says so.",
        "Les documents masqués sont exclus, sauf ceux dont l'appelant est l'auteur quand la matrice le prévoit.",
    ),
    (Rule.TYPES, _NARROWED): (
        "Types of document that the caller's profession may not read are left out.",
        "Les types de documents interdits à la profession de l'appelant sont exclus.",
    ),
    (Rule.VISIBILITY, _NARROWED): (
        "Some documents, or their content, are left out: not yet visible, hidden from representatives, not one's own.",
        "Des documents, ou leur contenu, sont exclus : pas encore visibles, cachés aux représentants, ou d'autrui.",
    ),
}
_SOURCES: Final[Mapping[Rule, str]] = {
    Rule.CONTEXT: "domain §2 (TD0.1)",
    Rule.PURPOSE: "domain §3",
    Rule.BINDING: "domain §2 (TD0.1)",
    Rule.HOST: "domain §6",
    Rule.DOSSIER: "domain §2 (TD0.2)",
    Rule.BLOCKED: "domain §3",
    Rule.REPRESENTATION: "domain §3",
    Rule.STATE: "domain §3",
    Rule.REASON: "domain §3",
    Rule.OPPOSITION: "domain §3",
    Rule.AUTHORIZATION: "domain §3",
    Rule.DOCUMENT: "domain §3",
    Rule.MASKED: "functional_rights TD3.2 read_masked_ps",
    Rule.TYPES: "document_type_denials",
    Rule.VISIBILITY: "domain §3",
}
_NO_ROW: Final = ("nobody of this kind", "cette catégorie d'appelant")


def in_words(applied: Applied, case: Case) -> Words:
    """A rule that was applied to a case, once the case was decided."""
    english, french = _TEXTS[applied.rule, applied.outcome]
    function = "" if case.function is None else f"{case.function.transaction} {case.function.action}"
    values = {"function": function or "-", "word": case.word.value}
    source = _SOURCES.get(applied.rule, "")
    if applied.rule is Rule.RIGHT:
        source = f"functional_rights {function} {case.row}".rstrip()
    return Words(
        applied.rule,
        applied.outcome,
        english.format(row=case.row or _NO_ROW[0], **values),
        french.format(row=case.row or _NO_ROW[1], **values),
        source,
    )
