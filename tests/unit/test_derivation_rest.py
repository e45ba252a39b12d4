"""How long what is made of the trail rests between two steps."""

from __future__ import annotations

import pytest

from services.audit.derivation import rest_after


@pytest.mark.parametrize(
    ("took", "age", "gives_way", "rest"),
    [
        pytest.param(None, 0.0, False, 0.5, id="nothing waits"),
        pytest.param(0.2, 5.0, False, 0.2, id="half of the time while no events are appended"),
        pytest.param(0.2, 5.0, True, 1.0, id="appends come first"),
        pytest.param(3.0, 5.0, True, 3.0, id="and never more than half of the time is taken from them"),
        pytest.param(0.2, 61.0, True, 0.2, id="but nobody is told later and later on a day that is always busy"),
    ],
)
def test_what_is_made_of_the_trail_gives_way_to_appends_for_a_minute(
    took: float | None, age: float, gives_way: bool, rest: float
) -> None:
    assert rest_after(took, age, gives_way=gives_way) == rest
