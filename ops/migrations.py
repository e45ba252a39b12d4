"""Which migrations belong to which database."""

from __future__ import annotations

from pathlib import Path

from ops.local.state import ServiceName
from services.runtime import postgres

_ROOT = Path(__file__).resolve().parents[1]


def directory(service: ServiceName) -> Path:
    """The migrations of a service."""
    return _ROOT / "gateway" / "migrations" if service == "gateway" else _ROOT / "services" / service / "migrations"


async def migrate(service: ServiceName, dsn: str) -> list[str]:
    """Bring the database of a service to its newest schema; the names of what was applied."""
    return await postgres.migrate(dsn, directory(service), service=service)
