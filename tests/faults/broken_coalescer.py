"""A coalescer that breaks promise 2 on purpose: an item joins a batch already sent that asks the same for others.

It is what a well-meant optimisation would do ("the same question is just being answered"). Only the zygote's children
that are told so use it (`prelude`); the test of revocation must then find leaks.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from dmp.consent.v1 import consent_pb2
from services.runtime import coalescer
from services.runtime.coalescer import Coalescer

_BROKEN: Final = frozenset({"consent", "consent-facts"})
"""What document asks consent, and what consent asks its database."""


class JoiningCoalescer(Coalescer[Any, Any]):
    """Answers a question with the answer under way to an equal one."""

    __slots__ = ("_under_way",)

    def __init__(self, *arguments: Any, **bounds: Any) -> None:
        super().__init__(*arguments, **bounds)
        self._under_way: dict[object, asyncio.Future[Any]] = {}

    async def submit(self, item: Any, *, timeout: float | None = None) -> Any:
        """The answer to an equal item under way, if there is one."""
        if self.name not in _BROKEN:
            return await super().submit(item, timeout=timeout)
        question = _question(item)
        under_way = self._under_way.get(question)
        if under_way is None or under_way.done():
            under_way = asyncio.ensure_future(super().submit(item, timeout=timeout))
            self._under_way[question] = under_way
        return await asyncio.shield(under_way)


def apply() -> None:
    """Break it, wherever it was imported already."""
    import services.consent.checking
    import services.runtime.checks

    for module in (coalescer, services.runtime.checks, services.consent.checking):
        vars(module)["Coalescer"] = JoiningCoalescer


def _question(item: Any) -> object:
    if isinstance(item, consent_pb2.CheckAccessRequest):
        return item.health_id, item.action, item.context.actor.subject
    return tuple(item)
