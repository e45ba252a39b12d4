"""The refusal of a flood before anything of it is looked at: whom it reaches, whom never, and what it says."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.early_refusals import EarlyRefusals, OverQuota
from gateway.quotas import Quotas
from gateway.registration import QuotaRegistration
from services.runtime.limits import BATCH, CARE, EMERGENCY
from services.runtime.metrics import Metrics
from services.runtime.redis import Redis
from tests.unit.test_quotas import Clock

ONE: Final = QuotaRegistration(requests_per_second=1, burst=1)
FLOOD: Final = (b"authorization", b"Bearer flood")
PASSED: Final = 204


class Counts:
    """The usage as a list."""

    def __init__(self) -> None:
        self.added: list[tuple[str, str, str]] = []

    def add(self, client_id: str, operation: str, outcome: str, seconds: float) -> None:
        self.added.append((client_id, operation, outcome))


class Front:
    """A gateway whose client `flood` has used its quota, and was told so at a request of `CARE`."""

    def __init__(self, prefix: str = "") -> None:
        self.clock, self.usage = Clock(), Counts()
        self.quotas = Quotas(Redis(None), ONE, monotonic=self.clock)
        self.over_quota = OverQuota(self.quotas, self.clock)
        self.app: Any = EarlyRefusals(_passed, self.over_quota, self.usage, Metrics(), prefix)  # type: ignore[arg-type]

    async def use_up(self, traffic: int = CARE) -> None:
        for _ in range(2):
            await self.quotas.take("flood", None, traffic)

    async def get(self, path: str = "/Patient", *headers: tuple[bytes, bytes], query: bytes = b"") -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": list(headers)}
        await self.app(scope, _nothing, send)
        return sent

    async def status(self, path: str = "/Patient", *headers: tuple[bytes, bytes], query: bytes = b"") -> int:
        return int((await self.get(path, *headers, query=query))[0]["status"])


async def _passed(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": PASSED, "headers": []})


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def test_a_token_that_was_refused_a_moment_ago_is_refused_until_its_next_token_is_due() -> None:
    front = Front()
    await front.use_up()
    assert await front.status("/Patient", FLOOD) == PASSED  # nobody has said yet whose it is
    front.over_quota.note([FLOOD], "flood", CARE)
    start, body = await front.get("/Patient", FLOOD, query=b"identifier=x")
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"]) == (429, b"1")
    issue = orjson.loads(body["body"])["issue"][0]
    assert (issue["code"], issue["details"]["coding"][0]["code"]) == ("throttled", "QUOTA_EXCEEDED")
    assert int(headers[b"content-length"]) == len(body["body"])
    assert front.usage.added == [("flood", "GET Patient", "over_quota")]
    front.clock.now += 1.001
    front.over_quota.note([FLOOD], "flood", CARE)
    assert await front.status("/Patient", FLOOD) == PASSED


async def test_after_a_second_the_token_is_verified_again() -> None:
    front = Front()
    for _ in range(2):
        await front.quotas.take("flood", QuotaRegistration(requests_per_second=0.1, burst=1), CARE)
    front.over_quota.note([FLOOD], "flood", CARE)
    assert await front.status("/Patient", FLOOD) == 429
    front.clock.now += 1.001
    assert await front.status("/Patient", FLOOD) == PASSED


@pytest.mark.parametrize(
    ("path", "headers", "query"),
    [
        ("/Patient", [(b"authorization", b"Bearer another")], b""),
        ("/Patient", [], b""),
        ("/Patient", [FLOOD, FLOOD], b""),
        ("/Patient", [FLOOD, (b"x-dmp-traffic", b"batch")], b""),
        ("/Patient", [FLOOD, (b"accept", b"application/fhir+xml")], b""),
        ("/Patient", [FLOOD], b"_format=xml"),
        ("/metadata", [FLOOD], b""),
        ("/token", [FLOOD], b""),
        ("/.well-known/oauth-authorization-server", [FLOOD], b""),
    ],
)
async def test_whoever_is_not_known_or_asks_for_something_else_goes_the_whole_way(
    path: str, headers: list[tuple[bytes, bytes]], query: bytes
) -> None:
    front = Front()
    await front.use_up()
    front.over_quota.note([FLOOD], "flood", CARE)
    assert await front.status(path, *headers, query=query) == PASSED


@pytest.mark.parametrize("path", ["/Patient", "/$export", "/DocumentReference/_search", "/Binary/x"])
async def test_every_path_that_needs_a_caller_is_refused(path: str) -> None:
    for prefix in ("", "/fhir"):
        front = Front(prefix)
        await front.use_up()
        front.over_quota.note([FLOOD], "flood", CARE)
        assert await front.status(prefix + path, FLOOD) == 429


async def test_batch_work_is_told_apart_and_an_emergency_is_never_refused() -> None:
    front = Front()
    batch = (b"x-dmp-traffic", b"batch")
    await front.use_up(BATCH)
    front.over_quota.note([FLOOD, batch], "flood", BATCH)
    front.over_quota.note([(b"authorization", b"Bearer btg")], "flood", EMERGENCY)
    assert await front.status("/Patient", FLOOD, batch) == 429
    assert await front.status("/Patient", FLOOD) == PASSED
    assert await front.status("/Patient", (b"authorization", b"Bearer btg")) == PASSED


async def test_what_correlates_is_sent_back_and_nothing_else_is() -> None:
    front = Front()
    await front.use_up()
    front.over_quota.note([FLOOD], "flood", CARE)
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    good = dict((await front.get("/Patient", FLOOD, (b"x-request-id", b"abc"), (b"traceparent", trace)))[0]["headers"])
    assert (good[b"x-request-id"], good[b"traceparent"]) == (b"abc", trace)
    bad = dict(
        (await front.get("/Patient", FLOOD, (b"x-request-id", b"a\xe9 b"), (b"traceparent", b"x")))[0]["headers"]
    )
    assert len(bad[b"x-request-id"]) == 36
    assert b"traceparent" not in bad
