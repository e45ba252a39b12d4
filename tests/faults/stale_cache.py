"""A cache of facts that breaks promise 2 on purpose: an answer may be as old as a cache entry lives.

It is what engines of this kind do by default. Only the zygote's children that are told so use it (`prelude`); the
checker of histories must then find that decisions are stale.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from services.consent import store

_LIFE: Final = 0.25
"""Seconds."""


def apply() -> None:
    """Remember facts for a while."""
    whole = store.read_facts
    kept: dict[store.Asked, tuple[float, Any, int]] = {}

    async def read_facts(reader: Any, asked: Sequence[store.Asked]) -> Any:
        now = time.monotonic()
        unknown = [each for each in asked if each not in kept or kept[each][0] < now]
        if unknown:
            known = await whole(reader, unknown)
            for each, facts in zip(unknown, known.answers, strict=True):
                kept[each] = (now + _LIFE, facts, known.rights_version)
        version = max((kept[each][2] for each in asked), default=0)
        return store.Known(version, [kept[each][1] for each in asked])

    store.read_facts = read_facts
