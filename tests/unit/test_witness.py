"""The witness: cosigns what continues, remembers before it answers, and refuses all else as the protocol says."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.layout import Edge, node_reader, tiles_for
from services.runtime.tlog.note import COSIGNATURE, Signature, Signer, parse_note, sign, verified
from services.runtime.tlog.tree import EMPTY_ROOT, consistency_ranges, prove
from services.witness.__main__ import application
from services.witness.cosigning import SIZE_TYPE, Answer, Witness
from services.witness.store import WitnessStore

LOG = Signer.generate("dmp.test/log/0")
KEY = Signer.generate("witness.test", COSIGNATURE)


class Tree:
    """A log of so many entries."""

    def __init__(self, name: str = "entry") -> None:
        self.name = name
        self.edge = Edge(0, [])
        self.tiles: dict[tuple[int, int], bytes] = {}

    def to(self, size: int) -> Checkpoint:
        entries = [f"{self.name} {number}".encode() for number in range(self.edge.size, size)]
        for tile, hashes in self.edge.append(entries):
            self.tiles[tile.level, tile.number] = hashes
        return Checkpoint(LOG.name, size, self.edge.root())

    def proof(self, old: int) -> list[bytes]:
        size = self.edge.size
        if not 0 < old < size:
            return []
        ranges = consistency_ranges(old, size)
        assert all((t.level, t.number) in self.tiles for t in tiles_for(ranges, size))
        return prove(ranges, node_reader(self.tiles))


def body(old: int, proof: list[bytes], checkpoint: Checkpoint, signer: Signer = LOG) -> bytes:
    lines = [f"old {old}", *(base64.b64encode(each).decode() for each in proof), "", ""]
    return "\n".join(lines).encode() + sign(checkpoint.text(), [signer]).encode()


@pytest.fixture
def store(tmp_path: Path) -> WitnessStore:
    return WitnessStore.open(tmp_path / "witness.sqlite")


@pytest.fixture
def witness(store: WitnessStore) -> Witness:
    return Witness(KEY, [LOG.verifier], store, lambda: 1_700_000_000.0)


def cosigned(answer: Answer, checkpoint: Checkpoint) -> bool:
    if answer.status != 200:
        return False
    note = parse_note((checkpoint.text() + "\n").encode() + answer.body)
    return bool(verified(note, [KEY.verifier]))


def test_it_cosigns_growth_and_gives_out_the_newest(witness: Witness) -> None:
    tree = Tree()
    old = 0
    for size in (0, 1, 5, 256, 300, 300, 70_000):
        checkpoint = tree.to(size)
        assert cosigned(witness.add_checkpoint(body(old, tree.proof(old), checkpoint)), checkpoint)
        old = size
    import hashlib

    newest = witness.newest(hashlib.sha256(LOG.name.encode()).hexdigest())
    assert newest.status == 200
    checkpoint, note = parse(newest.body)
    assert checkpoint.size == 70_000
    assert len(verified(note, [LOG.verifier, KEY.verifier])) == 2
    assert witness.newest("00" * 32).status == 404


def test_it_remembers_over_a_restart(tmp_path: Path) -> None:
    tree = Tree()
    first = WitnessStore.open(tmp_path / "w.sqlite")
    assert Witness(KEY, [LOG.verifier], first, lambda: 1.0).add_checkpoint(body(0, [], tree.to(7))).status == 200
    first.close()
    again = Witness(KEY, [LOG.verifier], WitnessStore.open(tmp_path / "w.sqlite"), lambda: 2.0)
    answer = again.add_checkpoint(body(0, [], tree.to(9)))
    assert (answer.status, answer.body, answer.content_type) == (409, b"7\n", SIZE_TYPE)
    assert again.add_checkpoint(body(7, tree.proof(7), tree.to(9))).status == 200


def test_it_never_cosigns_a_fork_or_a_rewrite(witness: Witness) -> None:
    tree, other = Tree(), Tree("forged")
    assert witness.add_checkpoint(body(0, [], tree.to(10))).status == 200
    same_size = witness.add_checkpoint(body(10, [], other.to(10)))
    assert (same_size.status, same_size.body, same_size.content_type) == (409, b"10\n", SIZE_TYPE)
    forged = other.to(20)
    assert witness.add_checkpoint(body(10, other.proof(10), forged)).status == 422
    assert witness.add_checkpoint(body(10, [], forged)).status == 422
    assert witness.add_checkpoint(body(5, [], tree.to(20))).status == 409
    assert cosigned(witness.add_checkpoint(body(10, tree.proof(10), tree.to(20))), tree.to(20))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"old 0\n\nnonsense", 400),
        (b"old 00\n\n" + sign(Checkpoint(LOG.name, 1, bytes(32)).text(), [LOG]).encode(), 400),
        (body(2, [], Checkpoint(LOG.name, 1, bytes(32))), 400),
        (body(0, [bytes(32)] * 64, Checkpoint(LOG.name, 1, bytes(32))), 400),
        (body(0, [bytes(32)], Checkpoint(LOG.name, 1, bytes(32))), 422),
        (body(0, [], Checkpoint(LOG.name, 0, bytes(32))), 409),
        (body(0, [], Checkpoint("unknown.test", 1, bytes(32))), 404),
        (body(0, [], Checkpoint(LOG.name, 1, bytes(32)), Signer.generate(LOG.name)), 403),
        (body(0, [], Checkpoint(LOG.name, 1, bytes(32)), KEY), 403),
    ],
    ids=("nothing", "nonsense", "size", "behind", "long", "needless", "empty", "unknown", "another-key", "witness-key"),
)
def test_its_refusals_are_those_of_the_protocol(witness: Witness, content: bytes, status: int) -> None:
    assert witness.add_checkpoint(content).status == status


async def post(witness: Witness, content: bytes | AsyncIterator[bytes]) -> int:
    transport = httpx.ASGITransport(application(witness))
    async with httpx.AsyncClient(transport=transport, base_url="http://witness.test") as client:
        return (await client.post("/add-checkpoint", content=content)).status_code


async def test_it_takes_as_many_long_signatures_as_notes_may_have_and_ignores_them(witness: Witness) -> None:
    long = [Signature(f"post-quantum.test/{number}", bytes(4), bytes(4800)) for number in range(15)]
    content = body(0, [], Tree().to(3)) + "".join(each.line() for each in long).encode()
    assert await post(witness, content) == 200


async def test_what_is_far_too_long_is_not_read_to_its_end(witness: Witness) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield bytes(64 << 10)

    assert await post(witness, endless()) == 413
    assert sent < 10


def test_a_signature_that_is_wrong_is_forbidden(witness: Witness) -> None:
    good = sign(Checkpoint(LOG.name, 0, EMPTY_ROOT).text(), [LOG]).encode()
    assert witness.add_checkpoint(b"old 0\n\n" + good.replace(b"\n0\n", b"\n1\n")).status == 403
