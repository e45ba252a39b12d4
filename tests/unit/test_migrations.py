"""Migrations on disk: how they are named and read, and when a database does not fit them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from services.runtime.migrations import (
    SHARED_SQL,
    Applied,
    Migration,
    MigrationError,
    outstanding,
    read_migrations,
)


def write(directory: Path, **files: str) -> Path:
    for name, sql in files.items():
        (directory / f"{name.removeprefix('m')}.sql").write_text(sql)
    return directory


def applied(*migrations: Migration) -> list[Applied]:
    return [Applied(migration.version, migration.name, migration.sha256) for migration in migrations]


A = Migration(1, "tables", "CREATE TABLE a ()")
B = Migration(2, "more", "CREATE TABLE b ()")
C = Migration(3, "most", "CREATE TABLE c ()")


def test_migrations_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, m0010_last="SELECT 10", m0002_then="SELECT 2", m0001_first="SELECT 1")
    assert [str(migration) for migration in read_migrations(tmp_path)] == ["0001_first", "0002_then", "0010_last"]


def test_an_include_is_part_of_the_text_and_of_the_checksum(tmp_path: Path) -> None:
    write(tmp_path, m0001_tables="-- include: runtime/outbox.sql\nCREATE TABLE a ();\n")
    migration = read_migrations(tmp_path)[0]
    shared = (SHARED_SQL / "outbox.sql").read_text()
    assert shared in migration.sql
    assert "-- include" not in migration.sql
    assert migration.sha256 == hashlib.sha256(migration.sql.encode()).digest()
    assert migration.distributions == [("outbox", "health_id"), ("outbox_parked", "health_id")]


def test_citus_lines_name_what_is_distributed(tmp_path: Path) -> None:
    write(tmp_path, m0001_tables="-- citus: dossier, health_id\n-- citus: catalogue, reference\nSELECT 1;\n")
    assert read_migrations(tmp_path)[0].distributions == [("dossier", "health_id"), ("catalogue", "reference")]


@pytest.mark.parametrize(
    ("name", "sql", "complaint"),
    [
        ("1_tables", "SELECT 1", "NNNN_purpose"),
        ("0001-tables", "SELECT 1", "NNNN_purpose"),
        ("0001_Tables", "SELECT 1", "NNNN_purpose"),
        ("0001_tables", "-- include: runtime/absent.sql", "no absent.sql"),
        ("0001_tables", "-- include: ../outbox.sql", "malformed"),
        ("0001_tables", "-- citus: dossier", "malformed"),
        ("0001_tables", "--citus: dossier, health_id", "malformed"),
    ],
)
def test_what_would_be_silently_ignored_is_refused(tmp_path: Path, name: str, sql: str, complaint: str) -> None:
    (tmp_path / f"{name}.sql").write_text(sql)
    with pytest.raises(MigrationError, match=complaint):
        read_migrations(tmp_path)


def test_two_migrations_of_one_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="same number"):
        read_migrations(write(tmp_path, m0001_one="SELECT 1", m0001_other="SELECT 1"))


def test_a_directory_without_migrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="no migrations"):
        read_migrations(tmp_path)


def test_what_is_not_yet_applied_is_outstanding() -> None:
    assert outstanding([A, B, C], applied(A), newer_allowed=False) == [B, C]
    assert outstanding([A, B], applied(A, B), newer_allowed=False) == []
    assert outstanding([A], [], newer_allowed=False) == [A]


@pytest.mark.parametrize("newer_allowed", [True, False])
def test_a_migration_changed_or_renamed_after_it_was_applied_is_refused(newer_allowed: bool) -> None:
    changed = Applied(1, "tables", hashlib.sha256(b"CREATE TABLE z ()").digest())
    renamed = Applied(1, "tablets", A.sha256)
    for row in (changed, renamed):
        with pytest.raises(MigrationError, match="0001_tables is not what was applied"):
            outstanding([A, B], [row], newer_allowed=newer_allowed)


def test_a_database_newer_than_the_program_is_let_through_only_to_run() -> None:
    assert outstanding([A], applied(A, B), newer_allowed=True) == []
    with pytest.raises(MigrationError, match="0002_more, unknown to this program"):
        outstanding([A], applied(A, B), newer_allowed=False)


@pytest.mark.parametrize("newer_allowed", [True, False])
def test_a_version_missing_from_the_middle_is_refused(newer_allowed: bool) -> None:
    with pytest.raises(MigrationError, match="0002_more, unknown"):
        outstanding([A, C], applied(A, B), newer_allowed=newer_allowed)


def test_a_migration_numbered_below_an_applied_one_is_refused() -> None:
    with pytest.raises(MigrationError, match="numbered below 0003"):
        outstanding([A, B, C], applied(A, C), newer_allowed=False)
