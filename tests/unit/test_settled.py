"""What a process has made until it serves is set aside, and given up again when it ends."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from services.runtime.server import settle, unsettle


class Cycle:
    """Something that only the collector can give up, as a channel that its calls know."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_was_made_before_serving_is_let_go_at_the_end() -> None:
    """A gRPC channel that is still there holds the process up for two seconds at its exit."""
    made = Cycle()
    seen = weakref.ref(made)
    settle()
    del made
    gc.collect()
    assert seen() is not None, "while it serves, the collector leaves alone what is old"
    unsettle()
    assert seen() is None
