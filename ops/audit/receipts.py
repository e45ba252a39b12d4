"""Checking a receipt without the platform: nothing but the file, and keys that came another way."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from dmp.audit.v1 import audit_pb2
from services.audit.leaf import EVENT_ID_BYTES, SALT_BYTES, ClearPart, leaf
from services.runtime.tlog.checkpoint import parse
from services.runtime.tlog.note import NoteWrong, cosignature_time, verified
from services.runtime.tlog.policy import Policy, Trusted
from services.runtime.tlog.receipt import Proof, verify


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """What a receipt proves: this event, at this place of this log, seen by these witnesses at these times."""

    event: audit_pb2.AuditEvent
    index: int
    trusted: Trusted
    witnessed: dict[str, datetime]


def check_receipt(data: bytes, policy: Policy) -> CheckedReceipt:
    """What the file proves. Raises NoteWrong or ProofWrong with what does not hold."""
    proof = Proof.parse(data)
    extra = proof.extra or b""
    if len(extra) < EVENT_ID_BYTES + SALT_BYTES:
        raise NoteWrong("line 2: the event id, the salt and the clear part are missing")
    event_id, rest = extra[:EVENT_ID_BYTES], extra[EVENT_ID_BYTES:]
    part = ClearPart(rest[:SALT_BYTES], rest[SALT_BYTES:])
    trusted = verify(proof, leaf(event_id, part), policy)
    try:
        event = audit_pb2.AuditEvent.FromString(part.clear)
    except DecodeError:
        raise NoteWrong("the clear part is in the log, but is no event") from None
    if event.event_id != event_id:
        raise NoteWrong(f"the entry is that of event {uuid.UUID(bytes=event_id)}, and its clear part says another")
    _, note = parse(proof.checkpoint)
    names = {witness.key: name for name, witness in policy.witnesses.items()}
    witnessed = {
        names[key]: datetime.fromtimestamp(cosignature_time(signature), UTC) for key, signature in verified(note, names)
    }
    return CheckedReceipt(event, proof.index, trusted, witnessed)
