"""Where people can be written to. Contacts leave this database for one use: the audit service, about to send a notice,
asks for mail addresses and forgets them. Those of patients are sealed with the rest of a person; those of professionals
are in the directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.identity.records import open_person
from services.identity.store import directory as directory_store
from services.identity.store import people as store
from services.runtime.dossier_keys import DossierKeys
from services.runtime.postgres import Pool, translate

READER: Final = "audit"
"""The only service that may ask."""


async def emails(pool: Pool, keys: DossierKeys, health_ids: Sequence[int]) -> list[str]:
    """The address of each person, in order; empty for one who gave none, is unknown, or whose record is destroyed."""
    try:
        async with pool.acquire() as conn:
            people = await store.people(conn, set(health_ids))
            opened = await keys.for_read(conn, list(people))
    except Exception as error:  # a boundary: whatever the database's fault is, nothing is told
        raise translate(error) from error
    found: list[str] = []
    for health_id in health_ids:
        known = health_id in people and health_id in opened
        contact = open_person(people[health_id], opened).contact if known else None
        found.append(contact.email if contact is not None else "")
    return found


async def professional_emails(pool: Pool, idnps: Sequence[str]) -> list[str]:
    """The address of each professional, in order; empty for one without, who may not practise, or who is unknown."""
    try:
        rows = await directory_store.practitioners(pool, sorted(set(idnps)))
    except Exception as error:  # a boundary, as above
        raise translate(error) from error
    known = {row.idnps: row.email for row in rows if row.active}
    return [known.get(each, "") for each in idnps]
