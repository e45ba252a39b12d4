"""What every test may use: a real PostgreSQL, started once for the whole run, and fresh databases in it.

Lives here: fixtures of the machine, and a database with the tables of the runtime. Fixtures of one service live beside
its tests.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import settings

from ops.local import postgres_install
from ops.local.state import State
from services.runtime.postgres import Pool, connect, migrate
from tests.ports import free_port

# The machine may be busy: how long one example takes says nothing about the code.
settings.register_profile("dmp", deadline=None)
settings.load_profile("dmp")

_LOOPBACK = "127.0.0.1"
# As in production but for durability, which costs time and which no test of one process can see. (What a crash of the
# server keeps is tested on the local stack, which is durable.)
_SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=64MB",
    "max_connections=100",
    "jit=off",
    "timezone=UTC",
    "autovacuum_naptime=5s",
)


class PostgresServer:
    """The cluster of this test run; gone, with all its databases, when the run ends."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, password: str) -> None:
        self.process = process
        self.port = port
        self._password = password
        self._numbers = itertools.count(1)

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{self._password}@{_LOOPBACK}:{self.port}/{database}"

    def create_database(self) -> str:
        """The DSN of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def wait_until_ready(self, log: Path) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                self._execute("SELECT 1")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                threading.Event().wait(0.05)
            else:
                return
        raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")

    def _execute(self, statement: str) -> None:
        """Runs one statement on a thread of its own: the caller may or may not be inside an event loop."""

        async def execute() -> None:
            connection = await asyncpg.connect(self.url("postgres"))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        failures: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(execute())
            except BaseException as failure:  # noqa: BLE001 (handed to the calling thread, which raises it)
                failures.append(failure)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this run's own, on a free port, run by an unprivileged user when we are root."""
    root = Path(tempfile.mkdtemp(prefix="dmp-test-"))
    root.chmod(0o755)  # the unprivileged user passes through; the data directory itself stays private
    state = State.open(root / "state")
    placement = postgres_install.place(state)
    password = secrets.token_hex(16)
    try:
        _initialise(placement, root, password)
        port = free_port()
        sockets = postgres_install.socket_directory(state, placement)
        log = root / "postgres.log"
        options = (*_SETTINGS, f"listen_addresses={_LOOPBACK}", f"port={port}", f"unix_socket_directories={sockets}")
        account = placement.account
        with log.open("wb") as output:
            process = subprocess.Popen(
                [placement.program("postgres"), "-D", str(placement.data), *(f"-c{option}" for option in options)],
                cwd=placement.home,
                env={"LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,  # Ctrl-C ends the tests first
            )
        try:
            server = PostgresServer(process, port, password)
            server.wait_until_ready(log)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=10)
    finally:
        postgres_install.remove(state)
        shutil.rmtree(root)


def _initialise(placement: postgres_install.Placement, root: Path, password: str) -> None:
    secret = root / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    placement.give(secret)
    options = ["--no-sync", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"]
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    argv = [placement.program("initdb"), *options, *locale, "-D", str(placement.data)]
    outcome = postgres_install.run_as(placement.account, argv, placement.home)
    if outcome.returncode != 0:
        raise RuntimeError(f"initdb failed: {outcome.stderr}")


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> Callable[[], str]:
    """Makes a fresh empty database at each call and returns its DSN: one for a test, a module, or as many as needed."""
    return postgres_server.create_database


@pytest.fixture(scope="session")
def _runtime_database(postgres_url: Callable[[], str]) -> str:
    return postgres_url()


@pytest.fixture
async def runtime_dsn(_runtime_database: str, tmp_path: Path) -> str:
    """A database that holds the tables that services share, all empty (outbox, idempotency, lease, dossier_key)."""
    connection = await asyncpg.connect(_runtime_database)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")  # quicker than another database
    await connection.close()
    directory = tmp_path / "migrations"
    directory.mkdir()
    includes = (f"-- include: runtime/{name}.sql\n" for name in ("outbox", "idempotency", "lease", "dossier_key"))
    (directory / "0001_runtime.sql").write_text("".join(includes))
    await migrate(_runtime_database, directory, service="test")
    return _runtime_database


@pytest.fixture
async def runtime_pool(runtime_dsn: str) -> AsyncIterator[Pool]:
    """A pool on ``runtime_dsn``, as a service has it."""
    pool = await connect(runtime_dsn, min_size=1, max_size=4, name="dmp-test")
    yield pool
    await pool.close()
