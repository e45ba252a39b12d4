"""Which logs and witnesses are trusted, and how many witnesses must agree (c2sp.org/tlog-policy). Pure.

log <verifier key> [<url>]
witness <name> <verifier key> [<url>]
group <name> all|any|<k> <member> …
quorum <name of a witness or group>|none
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from services.runtime.tlog.checkpoint import Checkpoint, parse
from services.runtime.tlog.note import COSIGNATURE, ED25519, NoteWrong, Verifier, cosignature_time, verified

_NONE: Final = "none"
_BETWEEN: Final = re.compile("[ \t]+")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_NUMBER: Final = re.compile("[0-9]{1,9}")


class PolicyWrong(Exception):
    """A policy is not well formed; the message names the line."""


@dataclass(frozen=True, slots=True)
class Named:
    """A trusted key, and where its holder is reached (empty if that is not said)."""

    key: Verifier
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """So many of these must cosign."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a checkpoint must bear to be believed."""

    logs: tuple[Named, ...]
    witnesses: dict[str, Named]
    groups: dict[str, Group]
    quorum: str

    @classmethod
    def unwitnessed(cls, *logs: Verifier) -> Policy:
        """Trust in these logs alone."""
        return cls(tuple(Named(log) for log in logs), {}, {}, _NONE)

    def met(self, cosigners: Collection[str]) -> bool:
        """Whether the witnesses of these names are enough."""
        return self.quorum == _NONE or self._agrees(self.quorum, cosigners)

    def since(self, times: Mapping[str, int]) -> int | None:
        """The latest of these times of cosigning since which enough witnesses have cosigned, where the policy asks for
        none since which any has; None if none has."""
        names: list[str] = []
        for name, at in sorted(times.items(), key=lambda each: each[1], reverse=True):
            names.append(name)
            if self.met(names):
                return at
        return None

    def _agrees(self, name: str, cosigners: Collection[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in cosigners
        return sum(self._agrees(member, cosigners) for member in group.members) >= group.threshold


@dataclass(frozen=True, slots=True)
class Trusted:
    """A checkpoint that a policy was met by; `cosigners` are the names of the witnesses that cosigned, `seen_at` (POSIX
    seconds) is when the last ones saw that there was nothing newer, enough of them; None where no witness did."""

    checkpoint: Checkpoint
    log: Verifier
    cosigners: tuple[str, ...]
    seen_at: int | None


def trust(data: bytes, policy: Policy) -> Trusted:
    """The checkpoint in these bytes. Raises NoteWrong unless a log of the policy signed it and its quorum is met."""
    checkpoint, note = parse(data)
    logs = [log.key for log in policy.logs if log.key.name == checkpoint.origin]
    if not logs:
        raise NoteWrong(f"line 1: the policy knows no log of the origin {checkpoint.origin!r}")
    signed = verified(note, logs)
    if not signed:
        raise NoteWrong("no signature of the log's key")
    by_key = {witness.key: name for name, witness in policy.witnesses.items()}
    times = {by_key[key]: cosignature_time(signature) for key, signature in verified(note, by_key)}
    cosigners = tuple(times)
    if not policy.met(cosigners):
        have = ", ".join(cosigners) or "nobody"
        raise NoteWrong(f"cosigned by {have}, which does not meet the quorum {policy.quorum}")
    return Trusted(checkpoint, signed[0][0], cosigners, policy.since(times))


def parse_policy(text: str) -> Policy:
    """A policy from its text. Raises PolicyWrong."""
    return _Reader().read(text)


class _Reader:
    """Line by line; names are defined before they are used."""

    def __init__(self) -> None:
        self.logs: list[Named] = []
        self.witnesses: dict[str, Named] = {}
        self.groups: dict[str, Group] = {}
        self.quorum = ""
        self._members: set[str] = set()

    def read(self, text: str) -> Policy:
        for number, line in enumerate(text.split("\n"), 1):
            if _CONTROL.search(line) is not None:
                raise PolicyWrong(f"line {number}: a control character")
            words = [word for word in _BETWEEN.split(line) if word]
            if not words or words[0].startswith("#"):
                continue
            try:
                self._line(words)
            except (NoteWrong, PolicyWrong) as error:
                raise PolicyWrong(f"line {number}: {error}") from None
        if not self.quorum:
            raise PolicyWrong("there is no quorum line")
        return Policy(tuple(self.logs), self.witnesses, self.groups, self.quorum)

    def _line(self, words: list[str]) -> None:
        match words:
            case ["log", key, *url] if len(url) <= 1:
                self.logs.append(_named(key, ED25519, url, [log.key for log in self.logs]))
            case ["witness", name, key, *url] if len(url) <= 1:
                known = [witness.key for witness in self.witnesses.values()]
                self._define(name)
                self.witnesses[name] = _named(key, COSIGNATURE, url, known)
            case ["group", name, threshold, *members] if members:
                self._define(name)
                self.groups[name] = self._group(threshold, members)
            case ["quorum", name] if not self.quorum:
                if name not in {_NONE, *self.witnesses, *self.groups}:
                    raise PolicyWrong(f"{name} is not defined")
                self.quorum = name
            case _:
                raise PolicyWrong("not a line of a policy, or one too many")

    def _define(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise PolicyWrong(f"{name} cannot be defined, or is defined already")

    def _group(self, threshold: str, members: list[str]) -> Group:
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise PolicyWrong(f"{member} is not defined")
            if member in self._members:
                raise PolicyWrong(f"{member} is a member already")
            self._members.add(member)
        if threshold not in ("all", "any") and _NUMBER.fullmatch(threshold) is None:
            raise PolicyWrong("a group's threshold is all, any or a number")
        count = {"all": len(members), "any": 1}.get(threshold) or int(threshold)
        if not 1 <= count <= len(members):
            raise PolicyWrong("a group's threshold is from 1 to the number of its members")
        return Group(count, tuple(members))


def _named(key: str, kind: int, url: list[str], known: list[Verifier]) -> Named:
    verifier = Verifier.parse(key)
    if verifier.kind != kind:
        raise PolicyWrong(f"the key of {verifier.name} has the wrong type")
    if any(each.public == verifier.public for each in known):
        raise PolicyWrong("the same key twice")
    return Named(verifier, url[0].rstrip("/") if url else "")
