"""What was done, in words for the patient: attempted (« n’a pas pu … »), done once, done {n} times. Pure data.

Every action that can stand in the trail of a dossier is here; a test holds the table and the registry of actions
(services.runtime.names) together.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Words(NamedTuple):
    """An action: to do it, did it, did it {n} times."""

    attempt: str
    once: str
    several: str


def _times(attempt: str, done: str) -> Words:
    """What is counted by the times that it was done."""
    return Words(attempt, done, f"{done} {{n}} fois")


_W = Words
WORDS: Final[dict[str, Words]] = {
    "authorization.block": _W("bloquer un professionnel", "a bloqué un professionnel", "a bloqué {n} professionnels"),
    "authorization.expire": _W(
        "mettre fin à une autorisation échue",
        "a constaté la fin d’une autorisation",
        "a constaté la fin de {n} autorisations",
    ),
    "authorization.grant": _W(
        "enregistrer une autorisation d’accès",
        "a enregistré une autorisation d’accès",
        "a enregistré {n} autorisations d’accès",
    ),
    "authorization.list": _times(
        "consulter la liste des personnes autorisées", "a consulté la liste des personnes autorisées"
    ),
    "authorization.remove_attending": _times(
        "mettre fin à un rôle de médecin traitant", "a mis fin à un rôle de médecin traitant"
    ),
    "authorization.revoke": _W(
        "retirer une autorisation d’accès", "a retiré une autorisation d’accès", "a retiré {n} autorisations d’accès"
    ),
    "authorization.unblock": _W(
        "débloquer un professionnel", "a débloqué un professionnel", "a débloqué {n} professionnels"
    ),
    "clinical.imaging": _times("consulter vos examens d’imagerie", "a consulté vos examens d’imagerie"),
    "clinical.medications": _times("consulter vos médicaments", "a consulté vos médicaments"),
    "clinical.pathway": _times("consulter votre parcours de soins", "a consulté votre parcours de soins"),
    "clinical.reread": _times("relire le contenu de vos documents", "a relu le contenu de vos documents"),
    "clinical.results": _times("consulter vos résultats d’analyses", "a consulté vos résultats d’analyses"),
    "clinical.summaries": _times("consulter vos synthèses médicales", "a consulté vos synthèses médicales"),
    "clinical.vaccinations": _times("consulter vos vaccinations", "a consulté vos vaccinations"),
    "consent.check": _times("vérifier un droit d’accès", "a vérifié un droit d’accès"),
    "consent.explain": _times(
        "demander l’explication d’un droit d’accès", "a demandé l’explication d’un droit d’accès"
    ),
    "consent.attending": _times("chercher les médecins traitants", "a cherché les médecins traitants"),
    "consent.held": _times("chercher les dossiers qui lui sont ouverts", "a cherché les dossiers qui lui sont ouverts"),
    "consent.history": _times("consulter l’historique de vos choix", "a consulté l’historique de vos choix"),
    "content.move": _times("déplacer le contenu d’un document", "a déplacé le contenu de documents"),
    "content.rewrap": _times("renouveler la protection de vos documents", "a renouvelé la protection de vos documents"),
    "content.sweep": _times("nettoyer le stockage des documents", "a nettoyé le stockage des documents"),
    "content.verify": _times("vérifier l’intégrité de vos documents", "a vérifié l’intégrité de vos documents"),
    "document.archive": _W("archiver un document", "a archivé un document", "a archivé {n} documents"),
    "document.change": _W("modifier un document", "a modifié un document", "a modifié {n} documents"),
    "document.changes": _times("suivre les nouveautés de votre dossier", "a suivi les nouveautés de votre dossier"),
    "document.delete": _W("supprimer un document", "a supprimé un document", "a supprimé {n} documents"),
    "document.deprecate": _W("retirer un document", "a retiré un document", "a retiré {n} documents"),
    "document.destroy": _times("détruire vos documents", "a détruit vos documents"),
    "document.get": _W("voir la fiche d’un document", "a vu la fiche d’un document", "a vu la fiche de {n} documents"),
    "document.get_set": _W("voir un lot de documents", "a vu un lot de documents", "a vu {n} lots de documents"),
    "document.list_folders": _times("voir vos classeurs", "a vu vos classeurs"),
    "document.list_sets": _times("voir vos lots de documents", "a vu vos lots de documents"),
    "document.mask": _W(
        "masquer un document aux professionnels",
        "a masqué un document aux professionnels",
        "a masqué {n} documents aux professionnels",
    ),
    "document.open": _times("préparer l’envoi d’un document", "a préparé l’envoi d’un document"),
    "document.read": _W("lire un document", "a lu un document", "a lu {n} documents"),
    "document.resolve": _times("retrouver un document par sa référence", "a retrouvé un document par sa référence"),
    "document.search": _times("rechercher des documents", "a recherché des documents"),
    "document.show_patient": _W(
        "vous rendre un document visible", "vous a rendu un document visible", "vous a rendu {n} documents visibles"
    ),
    "document.show_representatives": _W(
        "rendre un document visible à vos représentants",
        "a rendu un document visible à vos représentants",
        "a rendu {n} documents visibles à vos représentants",
    ),
    "document.submit": _times("ajouter des documents", "a ajouté des documents"),
    "document.unarchive": _W("désarchiver un document", "a désarchivé un document", "a désarchivé {n} documents"),
    "document.unmask": _W(
        "démasquer un document aux professionnels",
        "a démasqué un document aux professionnels",
        "a démasqué {n} documents aux professionnels",
    ),
    "document.upload": _times("envoyer le contenu d’un document", "a envoyé le contenu d’un document"),
    "document.versions": _times("voir les versions d’un document", "a vu les versions d’un document"),
    "document.waiting": _W(
        "signaler qu’un document vous attend",
        "a signalé qu’un document vous attend",
        "a signalé que {n} documents vous attendent",
    ),
    "dossier.check": _times("vérifier l’existence de votre dossier", "a vérifié l’existence de votre dossier"),
    "dossier.close": _times("fermer votre dossier médical partagé", "a fermé votre dossier médical partagé"),
    "dossier.death": _times("enregistrer un décès", "a enregistré un décès"),
    "dossier.destroy": _times("détruire votre dossier", "a détruit votre dossier"),
    "dossier.list_accessible": _times(
        "lister les dossiers qui lui sont ouverts", "a listé les dossiers qui lui sont ouverts, dont le vôtre"
    ),
    "dossier.list_recent": _times(
        "lister ses dossiers selon leur dernier document",
        "a listé ses dossiers selon leur dernier document, dont le vôtre",
    ),
    "host.list_dossiers": _times(
        "lister les dossiers de votre hébergeur", "a listé les dossiers de votre hébergeur, dont le vôtre"
    ),
    "dossier.merge": _times("réunir deux de vos dossiers", "a réuni deux de vos dossiers"),
    "dossier.move": _times("changer l’hébergeur de votre dossier", "a changé l’hébergeur de votre dossier"),
    "dossier.take_in": _times(
        "reprendre votre dossier d’un autre hébergeur", "a repris votre dossier d’un autre hébergeur"
    ),
    "dossier.open": _times("ouvrir votre dossier médical partagé", "a ouvert votre dossier médical partagé"),
    "dossier.oppose": _times(
        "enregistrer votre opposition à l’ouverture d’un dossier",
        "a enregistré votre opposition à l’ouverture d’un dossier",
    ),
    "dossier.part": _times("séparer deux dossiers réunis", "a séparé deux dossiers réunis"),
    "dossier.reopen": _times("rouvrir votre dossier médical partagé", "a rouvert votre dossier médical partagé"),
    "dossier.request_destruction": _times(
        "demander la destruction de votre dossier", "a demandé la destruction de votre dossier"
    ),
    "dossier.update_preferences": _times("changer vos choix pour les urgences", "a changé vos choix pour les urgences"),
    "dossier.withdraw_destruction": _times(
        "renoncer à la destruction de votre dossier", "a renoncé à la destruction de votre dossier"
    ),
    "dossier.withdraw_opposition": _times(
        "lever votre opposition à l’ouverture d’un dossier", "a levé votre opposition à l’ouverture d’un dossier"
    ),
    "duplicate.decide": _times("traiter un doublon possible", "a traité un doublon possible"),
    "duplicate.list": _times("voir les doublons possibles", "a vu les doublons possibles"),
    "event.report": _W(
        "signaler un événement de son logiciel",
        "a signalé un événement de son logiciel",
        "a signalé {n} événements de son logiciel",
    ),
    "gateway.call": _times("appeler le service", "a appelé le service"),
    "links.apply": _times("relier vos dossiers", "a relié vos dossiers"),
    "notice.read": _times("lire les avis qui vous sont adressés", "a lu les avis qui vous sont adressés"),
    "person.compare": _times("comparer votre identité à une autre", "a comparé votre identité à une autre"),
    "person.contact": _times("lire l’adresse où vous écrire", "a lu l’adresse où vous écrire"),
    "person.create": _times("enregistrer votre identité", "a enregistré votre identité"),
    "person.crossreference": _times("retrouver vos identifiants", "a retrouvé vos identifiants"),
    "person.find": _times("vous rechercher sans votre numéro INS", "vous a recherché sans votre numéro INS"),
    "person.history": _times("voir l’historique de votre identité", "a vu l’historique de votre identité"),
    "person.identifier": _times("modifier vos identifiants", "a modifié vos identifiants"),
    "person.insi": _times("interroger le téléservice INSi", "a interrogé le téléservice INSi"),
    "person.link": _times("rapprocher deux de vos identités", "a rapproché deux de vos identités"),
    "person.match": _times("rechercher votre identité par vos traits", "a recherché votre identité par vos traits"),
    "person.read": _times("lire votre identité", "a lu votre identité"),
    "person.resolve": _times("vous retrouver par un identifiant", "vous a retrouvé par un identifiant"),
    "person.search": _times("rechercher votre identité", "a recherché votre identité"),
    "person.split": _times("séparer deux identités confondues", "a séparé deux identités confondues"),
    "person.unlink": _times(
        "annuler le rapprochement de deux identités", "a annulé le rapprochement de deux identités"
    ),
    "person.update": _times("modifier votre identité", "a modifié votre identité"),
    "person.verify": _times("vérifier l’identité du patient", "a vérifié l’identité du patient"),
    "representative.end": _times("mettre fin à une représentation", "a mis fin à une représentation"),
    "representative.expire": _times("constater la fin d’une représentation", "a constaté la fin d’une représentation"),
    "representative.list": _times("voir vos représentants", "a vu vos représentants"),
    "representative.list_represented": _times(
        "voir les personnes que vous représentez", "a vu les personnes que vous représentez"
    ),
    "representative.register": _W(
        "enregistrer un représentant", "a enregistré un représentant", "a enregistré {n} représentants"
    ),
    "trace.count": _times("compter les accès à votre dossier", "a compté les accès à votre dossier"),
    "trace.expire": _times(
        "effacer les détails d’accès trop anciens", "a effacé les détails d’accès gardés assez longtemps"
    ),
    "trace.export": _times("exporter l’historique des accès", "a exporté l’historique des accès"),
    "trace.read": _times("consulter l’historique des accès", "a consulté l’historique des accès"),
    "trace.receipt": _W("demander une preuve d’accès", "a demandé une preuve d’accès", "a demandé {n} preuves d’accès"),
    "unusual.decide": _times("traiter un accès inhabituel", "a traité un accès inhabituel"),
    "unusual.read": _times("voir les accès inhabituels", "a vu les accès inhabituels"),
}

OF_THE_PLATFORM: Final = frozenset(
    {
        "audit.append",
        "contracts.read",
        "denial.apply",
        "relay.calls",
        "log.adopt",
        "log.check",
        "log.read",
        "partner.register",
        "partner.resume",
        "partner.rotate",
        "partner.show",
        "partner.suspend",
        "partner.usage",
        "directory.import",
        "directory.read",
        "domain.list",
        "domain.set",
        "keys.rotate",
        "rights.diff",
        "rights.get",
        "rights.list",
        "rights.replace",
        "session.end",
        "session.open",
        "session.theft",
        "token.introspect",
        "token.issue",
        "token.revoke",
    }
)
"""Actions about no dossier: they stand in nobody's trail."""
