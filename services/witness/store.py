"""What a witness remembers: the newest checkpoint that it cosigned, of each log. SQLite, durable when it answers."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS cosigned (
    origin TEXT PRIMARY KEY,
    tree_size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note BLOB NOT NULL
) STRICT
"""
_READ: Final = "SELECT tree_size, root, note FROM cosigned WHERE origin = ?"
_BEGIN: Final = "INSERT INTO cosigned (origin, tree_size, root, note) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_SWAP: Final = "UPDATE cosigned SET tree_size = ?, root = ?, note = ? WHERE origin = ? AND tree_size = ? AND root = ?"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The newest checkpoint cosigned for a log; `note` is what was answered, with our signature."""

    size: int
    root: bytes
    note: bytes


class WitnessStore:
    """One file, one process. Calls take a millisecond, most of it until the disk has it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """The store in this file, made if absent. sqlite3.Error when it cannot be used."""
        connection = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = DELETE")
        # EXTRA: the directory is synced too once the journal is gone, else a power cut may bring the journal back, and
        # with it the older size.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute(_SCHEMA)
        return cls(connection)

    def newest(self, origin: str) -> Cosigned | None:
        """The newest checkpoint cosigned for a log."""
        row = self._connection.execute(_READ, (origin,)).fetchone()
        return None if row is None else Cosigned(*row)

    def swap(self, origin: str, old: Cosigned | None, new: Cosigned) -> bool:
        """Keeps `new` if `old` is still the newest; durable when it returns True."""
        if old is None:
            cursor = self._connection.execute(_BEGIN, (origin, new.size, new.root, new.note))
        else:
            cursor = self._connection.execute(_SWAP, (new.size, new.root, new.note, origin, old.size, old.root))
        return cursor.rowcount == 1

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
