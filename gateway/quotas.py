"""Quotas: how much each client may ask for, counted over all gateways in Redis, by each gateway alone while it is gone.

A quota is a token bucket. Three buckets a client: care has the whole quota; batch work a share of it, and takes from
care's bucket as well; emergencies have one of their own, of the same size. An emergency beyond it is not refused: it
is served as everyday work is (design §7: emergency > care > batch).

A gateway does not ask Redis at each request: it takes tokens in small *leases*, about a twentieth of a second's worth,
and spends them by itself. When it gets less than it asked for, that is all for a fortieth of a second (less, if the
bucket would run over).

A client of which a request was refused a moment ago *presses*: what it may still ask for is served as batch work, and
each further refusal costs it a sixteenth of a token. While Redis is asked for it nobody waits but the one
request that asks, so the hundreds that a flood has under way are not woken at each answer to find nothing. Who does not
press waits for the answer, and has its burst whenever it likes.

What may live here: buckets, leases, the fallback. What is refused, and how that is answered, is the callers' affair
(`gateway.callers`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import redis.asyncio

from gateway.registration import QuotaRegistration
from services.runtime.limits import BATCH, CARE, EMERGENCY
from services.runtime.redis import Redis

# KEYS: the buckets to take from, all of one client. ARGV: tokens wanted, then rate and burst of each bucket.
# Redis's own clock, so that gateways need not agree on the time. Answers: tokens granted, seconds until there is one.
TAKE: Final = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local wanted = tonumber(ARGV[1])
local levels, wait = {}, 0
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local known = redis.call('HMGET', key, 'level', 'at')
  local level = burst
  if known[1] then
    level = math.min(burst, tonumber(known[1]) + math.max(0, now - tonumber(known[2])) * rate)
  end
  levels[i] = level
  wanted = math.min(wanted, math.floor(level))
  if level < 1 then wait = math.max(wait, (1 - level) / rate) end
end
if wanted < 0 then wanted = 0 end
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  redis.call('HSET', key, 'level', string.format('%.6f', levels[i] - wanted), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', key, math.ceil(burst / rate * 1000) + 1000)
end
return {wanted, string.format('%.6f', wait)}
"""

_LEASE_SECONDS: Final = 0.05
_LEASE_KEPT: Final = 1.0
"""Seconds after which what was not spent of a lease is let go."""
_SHORT_SECONDS: Final = 0.025
"""Seconds that a client which asks for more than there is is not asked for again."""
_PRESSES_SECONDS: Final = 0.1
"""Seconds after a refusal for which a client presses."""
_REFUSAL: Final = 1 / 16
"""Tokens that a refusal costs a client that presses: what it costs the platform, by what a served call costs it."""
_LONGEST_REFUSAL: Final = 5.0
"""Seconds after which a client that was refused is looked up again, whatever the bucket said."""
_MOST_ENTRIES: Final = 10_000

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket: tokens a second, and how many it holds."""

    name: str
    rate: float
    burst: float


@dataclass(slots=True)
class _Level:
    """A bucket of this process alone."""

    tokens: float
    at: float


@dataclass(slots=True)
class _Lease:
    """What a process may still spend without asking, and until when it need not ask."""

    quota: QuotaRegistration
    """As it was when the client was last looked up."""
    tokens: float = 0.0
    kept_until: float = 0.0
    refused_until: float = 0.0
    presses_until: float = 0.0
    owed: float = 0.0
    asking: asyncio.Future[None] | None = None
    waiting: int = 0

    def refused(self, now: float) -> float | None:
        """Seconds for which a call is refused unasked; None when there is a token, or one is to be asked for."""
        wait = self._held_off(now, presses=self.presses(now))
        if wait is not None:
            self.owed += _REFUSAL
            self.presses_until = now + _PRESSES_SECONDS
        return wait

    def paid(self, granted: float, now: float) -> float:
        """What is left of tokens once the refusals of a client that presses are paid for: half of them at least."""
        if not self.presses(now):
            self.owed = 0.0
        paid = min(math.floor(self.owed), math.floor(granted / 2))
        self.owed -= paid
        return granted - paid

    def presses(self, now: float) -> bool:
        """Whether a call was refused a moment ago."""
        return now < self.presses_until

    def spend(self, now: float) -> bool:
        """Take a token if one is there."""
        if self.tokens < 1 or now >= self.kept_until:
            return False
        self.tokens -= 1
        return True

    def _held_off(self, now: float, *, presses: bool) -> float | None:
        if self.tokens >= 1 and now < self.kept_until:
            return None
        if now < self.refused_until:
            return self.refused_until - now
        return _SHORT_SECONDS if presses and self.asking is not None else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`retry_after` seconds when the quota is used up, else None; `traffic` is the class to serve the call in."""

    traffic: int
    retry_after: float | None = None


def buckets(quota: QuotaRegistration, traffic: int) -> Sequence[Bucket]:
    """The buckets that a call of a class takes a token from."""
    whole = Bucket("care", quota.requests_per_second, max(1, quota.burst))
    if traffic == EMERGENCY:
        return (Bucket("emergency", whole.rate, whole.burst),)
    if traffic == BATCH:
        return whole, Bucket("batch", whole.rate * quota.batch_share, max(1.0, whole.burst * quota.batch_share))
    return (whole,)


class Quotas:
    """The quotas of all clients, as one process sees them. Belongs to one event loop."""

    def __init__(
        self,
        shared: Redis,
        default: QuotaRegistration,
        *,
        gateways: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`default` is for clients whose registration has none; `gateways` share a quota while Redis is gone."""
        self._redis = shared
        self._default = default
        self._gateways = max(1, gateways)
        self._monotonic = monotonic
        self._leases: OrderedDict[tuple[str, int], _Lease] = OrderedDict()
        self._levels: OrderedDict[tuple[str, str], _Level] = OrderedDict()

    async def take(self, client_id: str, quota: QuotaRegistration | None, traffic: int) -> Verdict:
        """Count one call of a client in a class. `quota` is that of its registration."""
        lease = self._lease(client_id, traffic, quota or self._default)
        return await self._take(client_id, lease, traffic)

    async def take_known(self, client_id: str, traffic: int) -> Verdict | None:
        """`take` by the quota that a client had when it was last looked up; None, uncounted, when that is not known."""
        lease = self._leases.get((client_id, traffic))
        return None if lease is None else await self._take(client_id, lease, traffic)

    def learn(self, client_id: str, traffic: int, quota: QuotaRegistration | None) -> None:
        """What a client's registration says now, after `take_known`."""
        self._lease(client_id, traffic, quota or self._default)

    def take_leased(self, client_id: str, traffic: int) -> bool:
        """Count one call where that needs no asking; False when `take` must be asked."""
        lease = self._leases.get((client_id, traffic))
        return lease is not None and lease.spend(self._monotonic())

    def refused_for(self, client_id: str, traffic: int) -> float | None:
        """Seconds for which calls of a client in a class are refused whatever is asked; None when that is to be asked.

        So a flood is refused before anything is looked up. An emergency is never refused.
        """
        lease = self._leases.get((client_id, traffic)) if traffic != EMERGENCY else None
        return None if lease is None else lease.refused(self._monotonic())

    def presses(self, client_id: str, traffic: int) -> bool:
        """Whether everyday calls of a client are served as batch work now, for it asks for more than its quota."""
        lease = self._leases.get((client_id, traffic)) if traffic == CARE else None
        return lease is not None and lease.presses(self._monotonic())

    async def _take(self, client_id: str, lease: _Lease, traffic: int) -> Verdict:
        retry_after = await self._spend(client_id, lease, traffic)
        if retry_after is None:
            return Verdict(BATCH if traffic == CARE and lease.presses(self._monotonic()) else traffic)
        return Verdict(CARE) if traffic == EMERGENCY else Verdict(traffic, retry_after)

    async def _spend(self, client_id: str, lease: _Lease, traffic: int) -> float | None:
        while True:
            now = self._monotonic()
            if lease.spend(now):
                return None
            refused_for = lease.refused(now)
            if refused_for is not None:
                return refused_for
            lease.waiting += 1
            try:
                if lease.asking is None:
                    await self._refill(client_id, lease, traffic)
                else:
                    await asyncio.shield(lease.asking)
            finally:
                lease.waiting -= 1

    async def _refill(self, client_id: str, lease: _Lease, traffic: int) -> None:
        lease.asking = asyncio.get_running_loop().create_future()
        try:
            from_buckets = buckets(lease.quota, traffic)
            wanted = _wanted(from_buckets, lease.waiting)
            answer = await self._ask(client_id, from_buckets, wanted)
            if answer is None:
                answer = self._alone(client_id, from_buckets, wanted)
            granted, wait = answer
            now = self._monotonic()
            lease.tokens, lease.kept_until = lease.paid(granted, now), now + _LEASE_KEPT
            pause = _pause(from_buckets) if granted >= 1 else min(_LONGEST_REFUSAL, max(wait, _pause(from_buckets)))
            lease.refused_until = now + pause if granted < wanted else 0.0
        finally:
            asking, lease.asking = lease.asking, None
            asking.set_result(None)

    async def _ask(self, client_id: str, from_buckets: Sequence[Bucket], wanted: int) -> tuple[float, float] | None:
        """Tokens granted and seconds to wait; None when Redis does not answer."""
        # The braces keep the buckets of a client on one node of a cluster, where a script may touch them together.
        keys = [f"dmp:quota:{{{client_id}}}:{bucket.name}" for bucket in from_buckets]
        arguments = [str(part) for bucket in from_buckets for part in (bucket.rate, bucket.burst)]

        async def command(client: redis.asyncio.Redis) -> tuple[float, float]:
            script = _script(client)
            granted, wait = await script(keys=keys, args=[str(wanted), *arguments])
            return float(granted), float(wait)

        fallback: tuple[float, float] | None = None
        return await self._redis.use(command, fallback)

    def _alone(self, client_id: str, from_buckets: Sequence[Bucket], wanted: int) -> tuple[float, float]:
        """The same from buckets of this process: its part of the quota, one token at least."""
        now, levels, wait = self._monotonic(), [], 0.0
        for bucket in from_buckets:
            rate, burst = bucket.rate / self._gateways, max(1.0, bucket.burst / self._gateways)
            level = _kept(self._levels, (client_id, bucket.name), partial(_Level, burst, now))
            level.tokens, level.at = min(burst, level.tokens + (now - level.at) * rate), now
            levels.append(level)
            if level.tokens < 1:
                wait = max(wait, (1 - level.tokens) / rate)
        granted = max(0, min([wanted, *(math.floor(level.tokens) for level in levels)]))
        for level in levels:
            level.tokens -= granted
        return granted, wait

    def _lease(self, client_id: str, traffic: int, quota: QuotaRegistration) -> _Lease:
        lease = _kept(self._leases, (client_id, traffic), partial(_Lease, quota))
        lease.quota = quota
        return lease


def _kept(entries: OrderedDict[K, V], key: K, made: Callable[[], V]) -> V:
    """The entry of `key`, made if there is none; those not asked for longest make room."""
    entry = entries.get(key)
    if entry is not None:
        entries.move_to_end(key)
        return entry
    entry = entries[key] = made()
    if len(entries) > _MOST_ENTRIES:
        entries.popitem(last=False)
    return entry


def _wanted(from_buckets: Sequence[Bucket], waiting: int) -> int:
    """How much to lease: what a twentieth of a second brings, what waits now, never more than a quarter of a burst."""
    rate, burst = min(b.rate for b in from_buckets), min(b.burst for b in from_buckets)
    return max(1, min(max(math.ceil(rate * _LEASE_SECONDS), waiting), math.ceil(burst / 4)))


def _pause(from_buckets: Sequence[Bucket]) -> float:
    """How long a client that is short is not asked for: never so long that its bucket would run over."""
    return min(_SHORT_SECONDS, *(bucket.burst / (2 * bucket.rate) for bucket in from_buckets))


def _script(client: redis.asyncio.Redis) -> redis.commands.core.AsyncScript:
    return client.register_script(TAKE)
