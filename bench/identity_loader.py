"""A register of any size in minutes: people generated in parallel, sealed and digested as the service does, copied in.

Every person is whole: a record that opens, a wrapped key, digests of the INS and of the blocks. Rows are packed into
PostgreSQL's binary COPY format here, because asyncpg's own encoding would take most of the time. What is generated for
a chunk depends on the seed and the chunk's number alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final

import asyncpg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.blocking import blocks
from services.identity.civil_identity import PatientIdentifier, trusted_traits
from services.identity.digests import Digests
from services.identity.nir import TEST_NIR_OID, nir_key
from services.runtime.dossier_keys import DossierKeys
from services.runtime.keyring import Keyring

CHUNK: Final = 20_000
SECRET: Final = bytes(range(32))
"""The bench's own keyring; it guards nobody."""
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_OLDEST: Final = date(1930, 1, 1)
_DAYS: Final = 34_000
_ONSETS: Final = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "t",
    "tr",
    "v",
)
_VOWELS: Final = ("a", "e", "i", "o", "u", "ou", "an", "on", "au", "eu")
_ENDINGS: Final = ("ard", "aud", "el", "er", "et", "ez", "ier", "in", "is", "on", "ot", "y")
_TABLES: Final = ("person", "dossier_key", "identifier", "match_block")


def keyring() -> Keyring:
    """The bench's keyring."""
    return Keyring({1: SECRET}, current=1, digests=[1])


def _names(count: int, seed: int) -> tuple[str, ...]:
    """Distinct names; the earlier, the more frequent they are drawn."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 1, 2))))
        found[(syllables + rng.choice(_ENDINGS)).capitalize()] = None
    return tuple(found)


_FAMILIES: Final = _names(30_000, 1)
_GIVEN: Final = _names(600, 2)
_PLACES: Final = tuple(f"{random.Random(number).randrange(1, 96):02d}{number % 900:03d}" for number in range(3_000))


def people(chunk: int, seed: int) -> Iterator[tuple[pb.Traits, Identifier]]:
    """The people of a chunk, without end, each with an INS of its own among the first CHUNK."""
    rng = random.Random(seed * 1_000_003 + chunk)
    drawn = rng.random
    number = chunk * CHUNK
    while True:
        # The square makes the frequencies of names and places as uneven as real ones are.
        born = _OLDEST + timedelta(days=int(drawn() * _DAYS))
        woman = drawn() < 0.5
        first = _GIVEN[int(drawn() ** 2 * len(_GIVEN))]
        traits = pb.Traits(
            birth_name=_FAMILIES[int(drawn() ** 2 * len(_FAMILIES))],
            birth_given_names=f"{first} {_GIVEN[int(drawn() * len(_GIVEN))]}",
            first_birth_given_name=first,
            sex=pb.SEX_FEMALE if woman else pb.SEX_MALE,
            birth_date=born.isoformat(),
            birth_place=_PLACES[int(drawn() ** 2 * len(_PLACES))],
        )
        yield traits, Identifier(system=TEST_NIR_OID, value=_ins(woman, number))
        number += 1


def _ins(woman: bool, number: int) -> str:
    """Unique by the number, with its key; it says nothing of the person, which is the same to the register."""
    month, rest = number % 12 + 1, number // 12
    payload = f"{2 if woman else 1}{rest % 100:02d}{month:02d}{rest // 100 % 100:02d}{rest // 10_000:06d}"
    return f"{payload}{nir_key(payload):02d}"


@dataclass(frozen=True, slots=True)
class Packed:
    """The rows of a chunk, by table, in COPY's binary format without signature and end."""

    person: bytes
    dossier_key: bytes
    identifier: bytes
    match_block: bytes


def pack(chunk: int, count: int, seed: int) -> Packed:
    """The first `count` people of a chunk."""
    rng = random.Random(seed * 7_000_003 + chunk)
    ring = keyring()
    digests, keys = Digests(ring), DossierKeys(ring, "identity")
    made = struct.pack(">iq", 8, int((datetime.now(UTC) - _EPOCH).total_seconds() * 1_000_000))
    random_bytes = os.urandom(count * 56)
    rows: tuple[list[bytes], ...] = ([], [], [], [])
    record = pb.PersonVersion()
    for number, (traits, ins) in enumerate(islice(people(chunk, seed), count)):
        drawn = random_bytes[number * 56 : number * 56 + 56]
        health_id = rng.getrandbits(63) or 1
        bound = health_id.to_bytes(8, "big")
        record.person.traits.CopyFrom(traits)
        del record.person.identifiers[:]
        record.person.identifiers.append(ins)
        sealed = _sealed(drawn[:32], drawn[32:44], record.SerializeToString(), b"dmp/identity/person/v2/" + bound)
        packed_id = struct.pack(">iq", 8, health_id)
        rows[0].append(
            b"\0\x06" + packed_id + b"\0\0\0\x0bprovisional" + _bytes(sealed) + made + b"\0\0\0\x08" + bytes(7) + b"\1"
            + b"\xff\xff\xff\xff"
        )  # fmt: skip
        wrapped = ring.wrap(drawn[:32], keys.binding(health_id))
        rows[1].append(b"\0\x04" + packed_id + _bytes(wrapped) + made + b"\xff\xff\xff\xff")
        own = digests.identifier(PatientIdentifier(ins.system, ins.value))
        rows[2].append(b"\0\x02" + _bytes(own) + packed_id)
        rows[3].extend(
            b"\0\x02" + struct.pack(">iq", 8, block) + packed_id
            for block in digests.blocks_all(blocks(trusted_traits(traits)))
        )
    return Packed(*(b"".join(each) for each in rows))


def _sealed(key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
    """As services.runtime.sealing.seal, with a nonce drawn before."""
    return b"\x01" + nonce + AESGCM(key).encrypt(nonce, plain, b"\x01" + aad)


def _bytes(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


async def load(dsn: str, count: int, seed: int, workers: int) -> None:
    """Empties the register, and fills it with `count` people in one transaction; keys are built at its end, the largest
    first, since what sorting it needs of the disk is given back before the others take theirs."""
    connection = await asyncpg.connect(dsn, server_settings={"maintenance_work_mem": "1GB"}, command_timeout=7200)
    loop = asyncio.get_running_loop()
    todo = [(chunk, min(CHUNK, count - chunk * CHUNK)) for chunk in range((count + CHUNK - 1) // CHUNK)]
    try:
        with ProcessPoolExecutor(workers) as pool:
            async with connection.transaction():
                await connection.execute(f"TRUNCATE {', '.join(_TABLES)}, outbox, idempotency, rematch_due")
                await connection.execute("TRUNCATE possible_duplicate, registration_lock, link_set")
                keys = await _without_keys(connection)
                waiting = [loop.run_in_executor(pool, pack, *each, seed) for each in todo[: workers * 3]]
                following = iter(todo[workers * 3 :])
                while waiting:
                    packed = await waiting.pop(0)
                    if (more := next(following, None)) is not None:
                        waiting.append(loop.run_in_executor(pool, pack, *more, seed))
                    for table in _TABLES:
                        await _copy(connection, table, getattr(packed, table))
                for statement in keys:
                    await connection.execute(statement)
        for table in _TABLES:
            await connection.execute(f"ANALYZE {table}")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def read_keys(dsn: str) -> None:
    """Reads the keys that a registration looks in, as a server that has run for a day has them in memory: the smaller
    ones into its own, the largest into the system's."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        await connection.execute("SELECT pg_prewarm('match_block_pkey', 'read')")
        for key in ("dossier_key_pkey", "person_pkey", "identifier_pkey"):
            await connection.execute("SELECT pg_prewarm($1::text::regclass)", key)
    finally:
        await connection.close()


async def _without_keys(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Drops the primary keys, and gives the statements that make them again."""
    found = await connection.fetch(
        "SELECT conrelid::regclass::text AS relation, conname, pg_get_constraintdef(oid) AS definition "
        "FROM pg_constraint WHERE contype = 'p' AND conrelid::regclass::text = ANY($1::text[]) "
        "ORDER BY conrelid::regclass::text = 'match_block' DESC",
        list(_TABLES),
    )
    for row in found:
        await connection.execute(f"ALTER TABLE {row['relation']} DROP CONSTRAINT {row['conname']}")
    return [f"ALTER TABLE {row['relation']} ADD CONSTRAINT {row['conname']} {row['definition']}" for row in found]


async def _copy(connection: asyncpg.Connection[asyncpg.Record], table: str, rows: bytes) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield _SIGNATURE
        for start in range(0, len(rows), 1 << 20):
            yield rows[start : start + (1 << 20)]
        yield _END

    await connection.copy_to_table(table, source=source(), format="binary", freeze=True)
