"""The migration runner: numbered SQL files, each applied once, in order, in a transaction of its own.

Lives here: reading a directory of migrations, applying it, checking a database against it. May not live here: the SQL
of any service; the tables that services share are in ``sql/`` and enter a migration by an include line.

A file is called ``NNNN_purpose.sql``. The number is an order and nothing else: gaps mean nothing (document's go on at
0020 after 0003, where its structured reading was begun beside its submissions), and a new file takes one above all that
are there, since a file below what a database has applied is refused. Two comment lines mean something:

- ``-- include: runtime/outbox.sql`` is replaced by that file of ``services/runtime/sql``;
- ``-- citus: table, column`` distributes the table by the column where the extension citus is installed (``reference``
  as the column makes a reference table), and does nothing elsewhere.

What was applied is in ``schema_migration``, with the SHA-256 of the text *after* inclusion: neither a migration nor
an included file may change once applied.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from asyncpg.pool import PoolConnectionProxy

_log = logging.getLogger(__name__)

SHARED_SQL = Path(__file__).parent / "sql"

_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_INCLUDE = re.compile(r"^-- include:\s*runtime/(?P<file>[a-z_]+\.sql)\s*$", re.MULTILINE)
_CITUS = re.compile(r"^-- citus:\s*(?P<table>[a-z_]+)\s*,\s*(?P<column>[a-z_]+)\s*$", re.MULTILINE)
_MALFORMED = re.compile(r"^--\s*(include|citus)\s*:.*$", re.MULTILINE | re.IGNORECASE)

# Any fixed number: keeps two runners on one database apart. A session lock, on this runner's own connection only.
_LOCK = 0x444D504D494752  # "DMPMIGR"

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    version int PRIMARY KEY,
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_TABLE_EXISTS = "SELECT to_regclass('schema_migration') IS NOT NULL"
_APPLIED = "SELECT version, name, sha256 FROM schema_migration ORDER BY version"
_RECORD = "INSERT INTO schema_migration (version, name, sha256) VALUES ($1, $2, $3)"
_HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
# A migration that cannot have its lock gives up, rather than make every request queue behind it.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '5s'"


class MigrationError(Exception):
    """A directory of migrations that is wrong in itself, or that does not fit what the database has applied."""


class SchemaOutOfDate(MigrationError):
    """The database lacks migrations that this program needs, or has other ones; the service must not start."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration, with its includes in place."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()

    @property
    def distributions(self) -> list[tuple[str, str]]:
        """The (table, column) pairs of its ``-- citus:`` lines, in order."""
        return [(found["table"], found["column"]) for found in _CITUS.finditer(self.sql)]

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


@dataclass(frozen=True, slots=True)
class Applied:
    """A row of ``schema_migration``."""

    version: int
    name: str
    sha256: bytes

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


def read_migrations(directory: Path) -> list[Migration]:
    """The migrations of ``directory`` by ascending version. Raises MigrationError if one is misnamed or malformed."""
    found: dict[int, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is called NNNN_purpose.sql")
        migration = Migration(int(match["version"]), match["name"], _read_with_includes(path))
        if other := found.get(migration.version):
            raise MigrationError(f"{migration} and {other} have the same number")
        found[migration.version] = migration
    if not found:
        raise MigrationError(f"no migrations in {directory}")
    return [found[version] for version in sorted(found)]


def _read_with_includes(path: Path) -> str:
    def included(match: re.Match[str]) -> str:
        shared = SHARED_SQL / match["file"]
        if not shared.is_file():
            raise MigrationError(f"{path.name}: there is no {match['file']} to include")
        return shared.read_text(encoding="utf-8")

    sql = _INCLUDE.sub(included, path.read_text(encoding="utf-8"))
    for line in _MALFORMED.findall(_CITUS.sub("", sql)):
        raise MigrationError(f"{path.name}: malformed '-- {line}:' line")
    return sql


def outstanding(migrations: Sequence[Migration], applied: Iterable[Applied], *, newer_allowed: bool) -> list[Migration]:
    """Those of ``migrations`` still to apply. Pure.

    Raises MigrationError if what was applied differs from the directory: a changed text, a gap that has since been
    filled, a version that the directory does not know (unless it is newer than all it knows and ``newer_allowed``).
    """
    known = {migration.version: migration for migration in migrations}
    last_known = max(known)
    done: set[int] = set()
    for row in applied:
        migration = known.get(row.version)
        if migration is None:
            if row.version > last_known and newer_allowed:
                continue
            raise MigrationError(f"the database has {row}, unknown to this program: it is older than the database")
        if migration.name != row.name or migration.sha256 != row.sha256:
            raise MigrationError(f"{migration} is not what was applied as {row}: add a migration, never change one")
        done.add(row.version)
    missing = [migration for migration in migrations if migration.version not in done]
    if missing and done and missing[0].version < max(done):
        raise MigrationError(f"{missing[0]} is numbered below {max(done):04}, which is already applied: renumber it")
    return missing


async def migrate(dsn: str, directory: Path, *, service: str) -> list[str]:
    """Applies what is outstanding and returns the names of what it applied, in order. Safe to run at once from many.

    ``service`` shows in ``application_name``. Raises MigrationError (nothing was applied), or what asyncpg raises for
    a migration that fails (that one is rolled back, those before it stay).
    """
    migrations = read_migrations(directory)
    connection = await asyncpg.connect(dsn, server_settings={"application_name": f"{service}-migrate"})
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(_CREATE_TABLE)
        todo = outstanding(migrations, await _applied(connection), newer_allowed=False)
        citus = bool(await connection.fetchval(_HAS_CITUS))
        for migration in todo:
            await _apply(connection, migration, citus=citus)
            _log.info("migration applied", extra={"service": service, "migration": str(migration)})
        return [str(migration) for migration in todo]
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration, *, citus: bool) -> None:
    async with connection.transaction():
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute(migration.sql)
        if citus:
            for table, column in migration.distributions:
                if column == "reference":
                    await connection.execute("SELECT create_reference_table($1::regclass)", table)
                else:
                    await connection.execute("SELECT create_distributed_table($1::regclass, $2)", table, column)
        await connection.execute(_RECORD, migration.version, migration.name, migration.sha256)


async def check_migrations(pool: asyncpg.Pool[asyncpg.Record], directory: Path) -> None:
    """Raises SchemaOutOfDate unless every migration of ``directory`` is applied, unchanged. For a service's start.

    A *newer* database is let through with a warning: during a rollout the migrations run first, and by the rule
    expand → backfill → contract the programs still running (and restarting) work with what they add.
    """
    migrations = read_migrations(directory)
    async with pool.acquire() as connection:
        rows = await _applied(connection) if await connection.fetchval(_TABLE_EXISTS) else []
    try:
        missing = outstanding(migrations, rows, newer_allowed=True)
    except MigrationError as error:
        raise SchemaOutOfDate(str(error)) from error
    if missing:
        names = ", ".join(str(migration) for migration in missing)
        raise SchemaOutOfDate(f"the database lacks {names}: run the migrations first")
    if rows and rows[-1].version > migrations[-1].version:
        _log.warning("the database is newer than this program", extra={"migration": str(rows[-1])})


async def _applied(
    connection: asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record],
) -> list[Applied]:
    return [Applied(row["version"], row["name"], row["sha256"]) for row in await connection.fetch(_APPLIED)]
