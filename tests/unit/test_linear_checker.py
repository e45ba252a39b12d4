"""The checker of histories: it passes what can have happened, and names what cannot."""

from __future__ import annotations

import pytest

from tests.faults.linear import Operation, violations

OPEN = Operation("open", 1, "", 0, 1, 1)
GRANT = Operation("grant", 1, "A", 2, 3, 2)
REVOKE = Operation("revoke", 1, "A", 6, 7, 3)


def check(begun: float, ended: float, epoch: int, verdict: str) -> Operation:
    return Operation("check", 1, "A", begun, ended, epoch, verdict)


def test_a_history_that_can_have_happened_passes() -> None:
    history = [
        OPEN,
        GRANT,
        check(4, 5, 2, "yes"),
        REVOKE,
        check(6.5, 9, 2, "yes"),
        check(9.5, 10, 3, "AUTHORIZATION_MISSING"),
    ]
    assert violations(history) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (check(8, 9, 2, "yes"), "stale"),
        (check(8, 9, 3, "yes"), "it is AUTHORIZATION_MISSING"),
        (check(4, 5, 3, "AUTHORIZATION_MISSING"), "which had not begun"),
        (check(4, 5, 9, "yes"), "no change has made this epoch"),
    ],
)
def test_what_cannot_have_happened_is_named(wrong: Operation, why: str) -> None:
    assert any(why in each for each in violations([OPEN, GRANT, REVOKE, wrong]))


def test_an_answer_that_goes_back_behind_another_is_named() -> None:
    late = check(6.1, 6.2, 3, "AUTHORIZATION_MISSING")
    back = check(6.3, 6.4, 2, "yes")
    assert any("an earlier answer" in each for each in violations([OPEN, GRANT, REVOKE, late, back]))


def test_two_changes_of_one_epoch_and_changes_out_of_order_are_named() -> None:
    assert violations([OPEN, GRANT, Operation("grant", 1, "B", 2, 3, 2)])
    assert violations([OPEN, Operation("grant", 1, "A", 6, 7, 2), Operation("revoke", 1, "A", 2, 3, 3)])


def test_a_change_that_found_things_so_already_names_the_epoch_of_another() -> None:
    block = Operation("block", 1, "A", 2, 3, 2)
    assert violations([OPEN, block, Operation("block", 1, "A", 4, 5, 2)]) == []
