"""Witnesses that lie, fail or tell the truth alone: with k of n, one of them neither stops a log nor hides a fork."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import pytest

from services.audit.integration import COSIGNED_AGAIN, Integrator
from services.audit.tiles import ForkFound
from services.audit.witnesses import Witnesses
from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.note import COSIGNATURE, Signer, verified
from services.runtime.tlog.policy import parse_policy
from services.witness.__main__ import application
from services.witness.cosigning import Witness
from services.witness.store import WitnessStore
from tests.audit_log import LogUnderTest, empty, migrated, signer
from tests.integration.test_audit_tree import fill, integrator, restore_to

KEYS: Final = {name: Signer.generate(f"{name}.test", COSIGNATURE) for name in ("a", "b", "c")}
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def liars_database(postgres_url: Callable[[], str]) -> str:
    return migrated(postgres_url())


@pytest.fixture
async def log(liars_database: str) -> AsyncIterator[LogUnderTest]:
    await empty(liars_database)
    opened = await LogUnderTest.open(liars_database)
    yield opened
    await opened.close()


def witnessed(
    log: LogUnderTest, stores: Path, enough: int, liars: Mapping[str, Handler], again: float = COSIGNED_AGAIN
) -> Integrator:
    """A log with the witnesses a, b and c, `enough` of whom must cosign; some answer as they like. The clock of the
    others goes on by a second with each cosignature."""
    clock = itertools.count(1_700_000_000)
    lines = [f"witness {name} {key.verifier.text()} http://{name}.test" for name, key in KEYS.items()]
    policy = parse_policy("\n".join([*lines, f"group all-of-them {enough} a b c", "quorum all-of-them", ""]))
    honest = {
        name: httpx.ASGITransport(
            application(Witness(key, [signer().verifier], WitnessStore.open(stores / name), lambda: next(clock)))
        )
        for name, key in KEYS.items()
    }

    async def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.host.partition(".")[0]
        if name in liars:
            return liars[name](request)
        response = await honest[name].handle_async_request(request)
        await response.aread()
        return response

    tree = replace(log.logs.trees[0], policy=policy)
    asking = Witnesses(policy, 5.0, _client=httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    return integrator(log, tree, asking, again=again)


def ahead(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(409, content=b"999999\n", headers={"content-type": "text/x.tlog.size"})


def shown(request: httpx.Request) -> httpx.Response:
    """Says that it is ahead, and shows a checkpoint that the log never signed."""
    if request.method == "POST":
        return ahead(request)
    text = Checkpoint(signer().name, 999_999, bytes(32)).text()
    forged = Signer.generate(signer().name)
    note = f"{text}\n{forged.sign(text).line()}{KEYS['c'].sign(text, 1_700_000_000).line()}"
    return httpx.Response(200, content=note.encode())


def broken(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("down", request=request)


LIARS: Final[Mapping[str, Handler]] = {
    "says that it is ahead": ahead,
    "shows what the log never signed": shown,
    "says that the tree is another one": lambda _request: httpx.Response(422, content=b"no\n"),
    "answers nonsense": lambda _request: httpx.Response(200, content=b"\xff\n"),
    "refuses": lambda _request: httpx.Response(403),
    "breaks": broken,
}


@pytest.mark.parametrize("how", LIARS)
async def test_one_of_three_that_lies_or_fails_does_not_stop_a_log_that_needs_two(
    log: LogUnderTest, tmp_path: Path, how: str
) -> None:
    mine = witnessed(log, tmp_path, 2, {"c": LIARS[how]})
    await fill(log, 20)
    await mine.open()
    for size in (20, 30):
        await fill(log, size - await log.pool.fetchval("SELECT size FROM log_head"))
        assert await mine.step() == size
        checkpoint, note = parse(await mine.tree.checkpoint())
        assert checkpoint.size == size
        assert {key.name for key, _ in verified(note, [key.verifier for key in KEYS.values()])} == {"a.test", "b.test"}


async def test_cosigned_again_by_two_a_checkpoint_keeps_the_cosignature_of_the_third(
    log: LogUnderTest, tmp_path: Path
) -> None:
    liars: dict[str, Handler] = {}
    mine = witnessed(log, tmp_path, 2, liars, again=0.0)
    await fill(log, 20)
    await mine.open()
    await mine.step()
    liars["c"] = broken
    before = await mine.tree.checkpoint()
    assert await mine.step() == 20
    after = await mine.tree.checkpoint()
    assert after != before, "cosigned at another time"
    keys = [key.verifier for key in KEYS.values()]
    signed = [{key.name: each.value for key, each in verified(parse(note)[1], keys)} for note in (before, after)]
    assert signed[0].keys() == signed[1].keys() == {"a.test", "b.test", "c.test"}
    assert [name for name in signed[0] if signed[0][name] == signed[1][name]] == ["c.test"]


@pytest.mark.parametrize("how", ["says that it is ahead", "says that the tree is another one"])
async def test_a_witness_that_the_quorum_cannot_do_without_stops_the_log_by_its_word(
    log: LogUnderTest, tmp_path: Path, how: str
) -> None:
    """Without a proof and without others who know better, undecided is no."""
    mine = witnessed(log, tmp_path, 3, {"c": LIARS[how]})
    await fill(log, 20)
    await mine.open()
    with pytest.raises(ForkFound):
        await mine.step()


@pytest.mark.parametrize("more", [5, 15, 30])
async def test_one_that_can_prove_a_fork_stops_the_log_whatever_the_others_say(
    log: LogUnderTest, tmp_path: Path, more: int
) -> None:
    """A backup was restored, and is smaller than, as large as or larger than what c saw; a and b have forgotten."""
    (tmp_path / "first").mkdir()
    await fill(log, 40)
    first = witnessed(log, tmp_path / "first", 3, {})
    await first.open()
    assert await first.step() == 40
    await restore_to(log, 25)
    await fill(log, more)
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "c").rename(tmp_path / "second" / "c")
    with pytest.raises(ForkFound):
        await witnessed(log, tmp_path / "second", 2, {}).step()
