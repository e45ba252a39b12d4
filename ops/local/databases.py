"""One database and one role for each service: the role owns its database and can connect to no other."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ops.local.state import ServiceName, State, write_private

_ROLE_EXISTS = "SELECT 1 FROM pg_roles WHERE rolname = $1"
_DATABASE_EXISTS = "SELECT 1 FROM pg_database WHERE datname = $1"
_CLOSE_SHARED = "REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC"


def database_name(service: ServiceName) -> str:
    """Name of the service's database and of its role."""
    return f"dmp_{service}"


async def provision(superuser_dsn: str, state: State, services: Sequence[ServiceName]) -> None:
    """Creates what is missing and sets each role's password to the one of the state. Idempotent.

    Names come from a closed list and passwords are hexadecimal: neither needs quoting beyond what is written here,
    and DDL takes no parameters.
    """
    connection = await asyncpg.connect(superuser_dsn)
    try:
        await connection.execute(_CLOSE_SHARED)
        for service in services:
            name = database_name(service)
            verb = "ALTER" if await connection.fetchval(_ROLE_EXISTS, name) else "CREATE"
            await connection.execute(f"{verb} ROLE {name} LOGIN PASSWORD '{state.password(name)}'")
            if not await connection.fetchval(_DATABASE_EXISTS, name):
                await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
            await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    finally:
        await connection.close()


def write_dsn(state: State, service: ServiceName, dsn: str) -> None:
    """Puts the DSN where the service's settings look for it (`dsn_file`)."""
    write_private(state.secret(f"{database_name(service)}.dsn"), dsn)
