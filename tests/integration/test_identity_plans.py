"""Every statement of identity's request path goes through an index that begins with its distribution key."""

from __future__ import annotations

from datetime import UTC, datetime

from services.identity.store import directory as directory_store
from services.identity.store import links as link_store
from services.identity.store import people as store
from tests.identity_service import People

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
STATEMENTS = (
    (store.OWNERS, ([b"x" * 32] * 3,)),
    (store.PEOPLE, ([1, 2, 3],)),
    (store.BLOCKS, ([1, 2, 3],)),
    (store.LOCK_PERSON, (1,)),
    (store.HISTORY, (1, 5, 10)),
    (store.VERSION_AT, (1, LONG_AGO)),
    (store.AFTER, (1, 10)),
    (link_store.SETS, ([1, 2, 3],)),
    (link_store.LEDGER, ([1, 2, 3],)),
    (link_store.PAIRS, ("open", LONG_AGO, 0, 0, 20)),
    (link_store.PAIRS_AMONG, ([1, 2, 3], "same")),
    (directory_store.PRACTITIONERS, (["1", "2"],)),
    (directory_store.STRUCTURES, (["1", "2"],)),
    (directory_store.FIND_PRACTITIONERS, ("A", "B", "A", "", "", "", "", "", True, 50)),
    (directory_store.FIND_STRUCTURES, ("A", "B", "A", "", "", "", True, 50)),
    (directory_store.FIND_STRUCTURES_OF_PLACE, ("75", "76", "", "", "", True, 50)),
    (directory_store.ROLES_OF_PRACTITIONER, ("1", "", "", "", True, 50)),
    (directory_store.ROLES_OF_STRUCTURE, ("1", "", True, 50)),
)
_MANY = """
WITH numbered AS (SELECT number, sha256(number::text::bytea) AS digest FROM generate_series(1, 5000) AS number),
people AS (INSERT INTO person SELECT number, 'provisional', digest, now() FROM numbered),
versions AS (INSERT INTO person_history SELECT number, 1, 'provisional', digest, now(), now() FROM numbered),
identifiers AS (INSERT INTO identifier SELECT digest, number FROM numbered),
places AS (INSERT INTO link_set SELECT number, NULL, number, 1, ARRAY[number] FROM numbered),
ledger AS (INSERT INTO link_ledger SELECT number, number, number + 1, 1, 'linked', now(), digest FROM numbered),
pairs AS (INSERT INTO possible_duplicate SELECT number, number + 1, 25, 'open', now() FROM numbered),
practitioners AS (INSERT INTO practitioner SELECT number::text, 'n', 'g', md5(number::text), 'G', '10', '{}', '{}',
                  true, now() FROM numbered),
structures AS (INSERT INTO structure SELECT number::text, 'n', md5(number::text), 'SA01', lpad(number::text, 5, '0'),
               'c', true, now() FROM numbered),
roles AS (INSERT INTO practitioner_role SELECT number::text, number::text, '10', '', '', true, now() FROM numbered)
INSERT INTO match_block SELECT number, number FROM numbered
"""


async def test_every_statement_of_the_request_path_uses_its_index(people: People) -> None:
    await people.pool.execute(_MANY)
    await people.pool.execute("ANALYZE")
    for statement, arguments in STATEMENTS:
        async with people.pool.acquire() as conn, conn.transaction():
            await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {statement}", *arguments))
        assert "Index" in plan, statement
        assert "Seq Scan" not in plan, plan
