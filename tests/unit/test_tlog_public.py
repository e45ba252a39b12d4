"""What public logs are tested with, checked by ours: proofs good and bad, and checkpoints that such a log has signed.

`public_logs/proofs.jsonl` are the probes of github.com/transparency-dev/merkle (Apache License 2.0), on which the logs
of Certificate Transparency, Sigstore and others rest: a proof, and whether a verifier must refuse it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.note import NoteWrong, Verifier, parse_note, verified
from services.runtime.tlog.tree import ProofWrong, verify_consistency, verify_inclusion

PROBES: Final[list[dict[str, Any]]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "public_logs" / "proofs.jsonl").read_text("ascii").splitlines()
]
NO_HASHES: Final = {"consistency/additional/sizes-are-equal-one-and-proof-is-empty"}
"""Held there, refused here: its two roots are equal, but a few letters and no hashes."""

SUM_KEY: Final = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SIGNED: Final = {
    445646: (
        "jEFFy4AtYgBBNTSZTiNnQrgQqMbcH0mfO2oP2FxR9VU=",
        "Az3grkGho/PqvUmEuTv6+r2g303hUhu60FOD6vLpm19mBwH9UjquWY2OKxNmZ55z0gHrp24AgPC3Q5WO7uZrVdvdCQU=",
    ),
    3784599: (
        "7uvxIZ67TZygcq/AehTD8iHYt81Ih+Zl2Y7vXZbfszQ=",
        "Az3grn972wXskjQrsZhVGc93fTU2uOsmSTiId1Wn1lxDCup5z4ggl1/4gaUqOkMa6cMbYvjB7hn7yemNr7Zqanol/go=",
    ),
    15368405: (
        "/g9am3I6YWNKaZX/jkne1fqd9zEyjss+JXyPXG0WfkY=",
        "Az3grqJGUaSGukG9p8nI2vKgiFn7qGHxn0W+mrwyI6Gz3F0t1J3LzmWk/p96Ybf295EjwdSwlzgijq5WA9d1Ded7owM=",
    ),
    59045944: (
        "LE6Lx+GNVyuFBv/jKcFIiPkG1WC7DHwG0clpfN/TBlA=",
        "Az3grk9ctaTv+CITXOwxCEHU3APAw5X7Ck14+fvFlh0GCktwX15+XPzy//GgL2G50ZgY05e8eXFTWcvW6pN5tozsLQQ=",
    ),
    63096908: (
        "8lHrQPRYe4KT4WQ9/Qk8/taKnD6IRHbFgfN7vQE2Y54=",
        "Az3gri/oVBN1jAhNZ/iS+W31psFAWRT20/GyrhpU6taFwulQGetBkH5S7wpGXdS935jiIGiUUAXBVHzT/P6fYhqAmAk=",
    ),
    63512409: (
        "F7eHRPqN/cqPtqti14NKdGGaI1Giw8coWP3KxihFZbg=",
        "Az3gri1OBHKT87Xj8UXU8zjoHGy/X+7Nl94f8TZkELVaasolmGApUsWqwVG9vE6hgqYb/ph/w2vdkLIVRH7bMB/FPQ4=",
    ),
}
"""Checkpoints of the Go checksum database by tree size, as people have quoted its answers: root and signature."""


def note_of(size: int) -> bytes:
    root, signature = SIGNED[size]
    return f"go.sum database tree\n{size}\n{root}\n\n— sum.golang.org {signature}\n".encode()


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe["probe"])
def test_a_proof_holds_or_not_as_others_say(probe: dict[str, Any]) -> None:
    refused = probe["wantErr"] or probe["probe"] in NO_HASHES
    proof = [_bytes(each) for each in probe["proof"] or ()]
    try:
        if "leafIdx" in probe:
            verify_inclusion(
                _bytes(probe["leafHash"]), probe["leafIdx"], probe["treeSize"], proof, _bytes(probe["root"])
            )
        else:
            verify_consistency(probe["size1"], _bytes(probe["root1"]), probe["size2"], _bytes(probe["root2"]), proof)
    except ProofWrong:
        assert refused
    else:
        assert not refused


def test_all_the_probes_are_here() -> None:
    assert len(PROBES) == 196
    assert {bool(probe["wantErr"]) for probe in PROBES} == {True, False}


@pytest.mark.parametrize("size", SIGNED)
def test_a_checkpoint_that_a_public_log_signed_verifies_and_no_altered_one(size: int) -> None:
    key, signed = Verifier.parse(SUM_KEY), note_of(size)
    checkpoint, note = parse(signed)
    assert (checkpoint.origin, checkpoint.size) == ("go.sum database tree", size)
    [(known, _)] = verified(note, [key])
    assert known == key
    for at in range(signed.index(b"\n\n")):
        altered = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
        with pytest.raises(NoteWrong):
            verified(parse_note(altered), [key])


def _bytes(text: str | None) -> bytes:
    return base64.b64decode(text) if text else b""
