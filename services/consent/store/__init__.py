"""Every statement of the consent service, and nothing else: rows in, values out.

All of the request path name the dossier (for lists: the grantee or the person) first, so each touches the rows of its
dossiers only, through an index. Facts are read in one statement, hence in one snapshot, on the primary; there is no
other source of a decision.

    facts       what decisions rest on, read in batches
    dossiers    a dossier held for a change, and the changes
    history     the events of a dossier
    lists       who may enter a dossier, and which dossiers one may enter
    deadlines   what becomes due by the passing of time
    rights      the versions of the rights tables
"""

from __future__ import annotations

from services.consent.store.deadlines import (
    DUE,
    Deadline,
    What,
    clear_deadline,
    drop_dossier,
    due_deadlines,
    set_deadline,
    undelivered,
)
from services.consent.store.dossiers import (
    AUTHORIZATIONS,
    BLOCKS,
    LOCK,
    REPRESENTATIONS,
    STATE,
    authorise,
    block,
    dossier_state,
    end_representation,
    insert_dossier,
    lock_dossier,
    next_epoch,
    represent,
    revoke,
    save_dossier,
    unblock,
)
from services.consent.store.facts import (
    FACTS,
    STANDINGS,
    Asked,
    Known,
    read_facts,
    read_standings,
)
from services.consent.store.history import (
    EVENTS,
    EVENTS_UNTIL,
    LAST_OF_KIND,
    HistoryEntry,
    Recorded,
    events,
    events_until,
    last_of_kind,
    remember,
)
from services.consent.store.lists import (
    ACCESSIBLE,
    GRANTEES,
    GRANTEES_OF_MANY,
    HELD,
    LINKED,
    OF_HOST,
    REPRESENTATIVES,
    REPRESENTATIVES_OF_MANY,
    REPRESENTED,
    AccessiblePosition,
    GranteeRow,
    accessible,
    grantees,
    grantees_of_many,
    held,
    linked,
    of_host,
    representatives,
    representatives_of_many,
    represented,
)
from services.consent.store.rights import (
    StoredRights,
    add_rights,
    read_rights,
    rights_in_force,
    rights_versions,
)

__all__ = [
    "ACCESSIBLE",
    "AUTHORIZATIONS",
    "BLOCKS",
    "DUE",
    "EVENTS",
    "EVENTS_UNTIL",
    "FACTS",
    "GRANTEES",
    "GRANTEES_OF_MANY",
    "HELD",
    "LAST_OF_KIND",
    "LINKED",
    "LOCK",
    "OF_HOST",
    "REPRESENTATIONS",
    "REPRESENTATIVES",
    "REPRESENTATIVES_OF_MANY",
    "REPRESENTED",
    "STANDINGS",
    "STATE",
    "AccessiblePosition",
    "Asked",
    "Deadline",
    "GranteeRow",
    "HistoryEntry",
    "Known",
    "Recorded",
    "StoredRights",
    "What",
    "accessible",
    "add_rights",
    "authorise",
    "block",
    "clear_deadline",
    "dossier_state",
    "drop_dossier",
    "due_deadlines",
    "end_representation",
    "events",
    "events_until",
    "grantees",
    "grantees_of_many",
    "held",
    "insert_dossier",
    "last_of_kind",
    "linked",
    "lock_dossier",
    "next_epoch",
    "of_host",
    "read_facts",
    "read_rights",
    "read_standings",
    "remember",
    "represent",
    "representatives",
    "representatives_of_many",
    "represented",
    "revoke",
    "rights_in_force",
    "rights_versions",
    "save_dossier",
    "set_deadline",
    "unblock",
    "undelivered",
]
