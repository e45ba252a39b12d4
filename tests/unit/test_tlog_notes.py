"""Notes, checkpoints, policies, receipts: the specifications' own examples, and that no altered byte is accepted."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.tlog.checkpoint import Checkpoint, parse, parse_text
from services.runtime.tlog.note import (
    COSIGNATURE,
    Note,
    NoteWrong,
    Signer,
    Verifier,
    cosignature_time,
    parse_note,
    sign,
    verified,
)
from services.runtime.tlog.policy import Policy, PolicyWrong, parse_policy, trust
from services.runtime.tlog.receipt import Proof, verify
from services.runtime.tlog.tree import EMPTY_ROOT, ProofWrong, leaf_hash, node_hash

# c2sp.org/signed-note, section "Example".
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
# golang.org/x/mod/sumdb/note, documentation of the package.
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The Go checksum database, a public log: its key as cmd/go knows it.
SUM_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

LOG = Signer.generate("dmp.test/log/0")
WITNESSES = [Signer.generate(f"witness.test/{number}", COSIGNATURE) for number in range(3)]
POLICY_TEXT = (
    f"# a comment\nlog {LOG.verifier.text()} https://dmp.test/log/0\n\n"
    + "".join(f"witness w{n} {signer.verifier.text()} http://w{n}.test/\n" for n, signer in enumerate(WITNESSES))
    + "group\ttwo 2 w0 w1 w2\nquorum two\n"
)


def test_the_example_of_the_specification_verifies() -> None:
    key = Verifier.parse(SPEC_KEY)
    assert key.text() == SPEC_KEY
    [(known, _)] = verified(parse_note(SPEC_NOTE), [key])
    assert known == key


def test_a_key_of_another_implementation_makes_the_same_signature() -> None:
    signer = Signer.parse(GO_SIGNER)
    assert signer.text() == GO_SIGNER
    assert signer.verifier.text() == GO_KEY
    assert signer.sign(GO_TEXT).line() == GO_SIGNATURE
    assert verified(parse_note(f"{GO_TEXT}\n{GO_SIGNATURE}".encode()), [Verifier.parse(GO_KEY)])
    assert Verifier.parse(SUM_KEY).name == "sum.golang.org"
    assert "AYEK" not in repr(signer)


@pytest.mark.parametrize("at", range(len(SPEC_NOTE)))
def test_no_byte_of_the_example_can_be_altered(at: int) -> None:
    altered = SPEC_NOTE[:at] + bytes([SPEC_NOTE[at] ^ 1]) + SPEC_NOTE[at + 1 :]
    try:
        assert not verified(parse_note(altered), [Verifier.parse(SPEC_KEY)])
    except NoteWrong:
        return


def test_unknown_signatures_are_ignored_and_a_wrong_one_of_a_known_key_is_not() -> None:
    text = Checkpoint("dmp.test/log/0", 3, EMPTY_ROOT).text()
    note = sign(text, [LOG, Signer.generate("stranger.test")])
    assert [key for key, _ in verified(note, [LOG.verifier])] == [LOG.verifier]
    stranger = Signer.generate("dmp.test/log/0")
    assert verified(note, [stranger.verifier]) == []
    wrong = Note(text + "x\n", note.signatures)
    with pytest.raises(NoteWrong):
        verified(wrong, [LOG.verifier])


def test_a_cosignature_states_its_time_and_is_over_the_whole_text() -> None:
    text = Checkpoint("dmp.test/log/0", 3, EMPTY_ROOT).text()
    note = sign(text, [WITNESSES[0]], lambda: 1_679_315_147)
    [(_, signature)] = verified(note, [WITNESSES[0].verifier])
    assert cosignature_time(signature) == 1_679_315_147
    later = type(signature)(signature.name, signature.key_id, (1).to_bytes(8, "big") + signature.value[8:])
    with pytest.raises(NoteWrong):
        verified(Note(text, (later,)), [WITNESSES[0].verifier])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one\n",
        "a\nb\n\n",
        "origin\n01\nAAAA\n",
        "origin\n-1\nAAAA\n",
        "origin\n1\nAAAA\n",
        "o\n1\nx\n",
        "\n1\nAA\n",
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(NoteWrong):
        parse_text(text)


def test_base64_that_means_the_same_but_is_not_written_so_is_refused() -> None:
    text = Checkpoint("dmp.test/log/0", 3, bytes(32)).text()
    other = text.replace("AAA=\n", "AAB=\n")
    assert base64.b64decode(other.split("\n")[2]) == bytes(32)
    with pytest.raises(NoteWrong, match="line 3"):
        parse_text(other)


@given(st.binary(max_size=300))
def test_rubbish_is_no_note(data: bytes) -> None:
    try:
        parse(data)
    except NoteWrong:
        return


def test_a_policy_needs_the_log_and_its_quorum() -> None:
    policy = parse_policy(POLICY_TEXT)
    assert policy.witnesses["w1"].url == "http://w1.test"
    text = Checkpoint("dmp.test/log/0", 1, leaf_hash(b"x")).text()
    assert trust(sign(text, [LOG, WITNESSES[2], WITNESSES[0]]).encode(), policy).cosigners == ("w0", "w2")
    with pytest.raises(NoteWrong, match="quorum two"):
        trust(sign(text, [LOG, WITNESSES[1]]).encode(), policy)
    with pytest.raises(NoteWrong, match="no signature of the log"):
        trust(sign(text, [*WITNESSES]).encode(), policy)
    with pytest.raises(NoteWrong, match="knows no log"):
        trust(sign(text.replace("log/0", "log/1"), [LOG, *WITNESSES]).encode(), policy)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "quorum",
        "quorum unknown",
        "quorum none\nquorum none",
        f"log {WITNESSES[0].verifier.text()}\nquorum none",
        f"witness none {WITNESSES[0].verifier.text()}\nquorum none",
        f"log {LOG.verifier.text()}\nlog {LOG.verifier.text()}\nquorum none",
        f"witness a {WITNESSES[0].verifier.text()}\ngroup g 2 a\nquorum g",
        f"witness a {WITNESSES[0].verifier.text()}\ngroup g 1 a\ngroup h 1 a\nquorum h",
        "group g 1 a\nquorum g",
        "quorum\u00a0none",
        "quorum none\x0b",
        "# a comment\x00\nquorum none",
        f"witness a {WITNESSES[0].verifier.text()}\ngroup g \u0661 a\nquorum g",
    ],
    ids=[
        "nothing",
        "a quorum without a name",
        "a quorum that is not defined",
        "two quorums",
        "a log without its kind of key",
        "a witness named none",
        "a log twice",
        "more asked of a group than it has",
        "a witness in two groups",
        "a group of nobody known",
        "another space than those of ASCII",
        "a control character",
        "a control character in a comment",
        "other digits than those of ASCII",
    ],
)
def test_what_is_no_policy(wrong: str) -> None:
    with pytest.raises(PolicyWrong):
        parse_policy(wrong)


def test_a_receipt_holds_and_no_byte_of_it_can_be_altered() -> None:
    entry, sibling = b"entry", leaf_hash(b"other")
    checkpoint = Checkpoint("dmp.test/log/0", 2, node_hash(leaf_hash(entry), sibling))
    note = sign(checkpoint.text(), [LOG, *WITNESSES[:2]]).encode()
    content = Proof(0, (sibling,), note, b"more").encode()
    policy = parse_policy(POLICY_TEXT)
    assert Proof.parse(content).encode() == content
    assert verify(Proof.parse(content), entry, policy).checkpoint == checkpoint
    begin = content.index(b"index")
    for at in [*range(25), *range(begin, len(content))]:
        altered = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        with pytest.raises((NoteWrong, ProofWrong)):
            verify(Proof.parse(altered), entry, policy)


def test_a_policy_without_witnesses_trusts_the_log_alone() -> None:
    text = Checkpoint("dmp.test/log/0", 0, EMPTY_ROOT).text()
    assert trust(sign(text, [LOG]).encode(), Policy.unwitnessed(LOG.verifier)).cosigners == ()
