"""Redis, for what may vanish: quotas, one-time hints, live notifications. The platform is correct without it.

Every use names what to answer when Redis is gone, and never waits long for it. What is kept there, and the scripts that
run there, belong to whoever uses it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

T = TypeVar("T")

TIMEOUT: Final = 0.25
"""Seconds to connect, and for an answer."""
TRY_AGAIN_AFTER: Final = 1.0
"""Seconds during which nobody waits for a Redis that did not answer."""

_CONNECTIONS: Final = 16

_log = structlog.get_logger("redis")


def _client(url: str, timeout: float) -> redis.asyncio.Redis:
    """A client whose connections are few, shared, and given up on quickly."""
    pool: redis.asyncio.BlockingConnectionPool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.asyncio.Redis.from_pool(pool)


class Redis:
    """A Redis that may be gone. While it is, one use a second tries it again and the others fall back at once."""

    def __init__(
        self,
        url: str | None,
        *,
        timeout: float = TIMEOUT,
        try_again_after: float = TRY_AGAIN_AFTER,
        fell_back: Callable[[], None] | None = None,
    ) -> None:
        """Connects when first used; `url` None means there is none. `fell_back` is told of each fallback."""
        self._client = None if url is None else _client(url, timeout)
        self._timeout = timeout
        self._try_again_after = try_again_after
        self._fell_back = fell_back
        self._gone_until = 0.0
        self._available = url is not None

    @property
    def available(self) -> bool:
        """Whether the last use was answered (true before the first, false without Redis)."""
        return self._available

    async def use(self, command: Callable[[redis.asyncio.Redis], Awaitable[T]], fallback: T) -> T:
        """What `command` answers, or `fallback` when Redis does not answer in time.

        The command may have been carried out even when the fallback is returned.
        """
        now = time.monotonic()
        if self._client is None or now < self._gone_until:
            return self._fall_back(fallback)
        if not self._available:
            self._gone_until = now + self._try_again_after  # the others need not wait for this attempt
        try:
            async with asyncio.timeout(2 * self._timeout):
                answer = await command(self._client)
        except ResponseError as error:  # it answers, but not to this: out of memory, read-only, a wrong command
            _log.warning("redis_refused", error_type=type(error).__name__)
            return self._fall_back(fallback)
        except (RedisError, OSError, TimeoutError) as error:
            if self._available:
                _log.warning("redis_gone", error_type=type(error).__name__)
            self._available = False
            self._gone_until = time.monotonic() + self._try_again_after
            return self._fall_back(fallback)
        if not self._available:
            _log.info("redis_back")
        self._available = True
        self._gone_until = 0.0
        return answer

    def _fall_back(self, fallback: T) -> T:
        if self._fell_back is not None:
            self._fell_back()
        return fallback

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
