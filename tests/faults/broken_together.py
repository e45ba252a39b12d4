"""Calls served together, broken on purpose (promise 2): a call joins a batch already sent that has an equal one, and
gets its answer. Only the zygote's children that are told so use it (`prelude`); the test of revocation must then find
leaks.
"""

from __future__ import annotations

from services.runtime.together import Admitted, Outcome, Together


def apply() -> None:
    """Break it, in a service or in the gateway."""
    whole_placed, whole_end, whole_gone = Together._placed, Together._end, Together._gone
    under_way: dict[bytes, list[Admitted]] = {}

    def placed(together: Together, admitted: Admitted) -> None:
        if admitted.arrival.data in under_way:
            under_way[admitted.arrival.data].append(admitted)
        else:
            under_way[admitted.arrival.data] = []
            whole_placed(together, admitted)

    def end(together: Together, admitted: Admitted, outcome: Outcome) -> None:
        whole_end(together, admitted, outcome)
        for follower in under_way.pop(admitted.arrival.data, ()):
            whole_end(together, follower, outcome)

    def gone(together: Together, admitted: Admitted) -> None:
        whole_gone(together, admitted)
        for follower in under_way.pop(admitted.arrival.data, ()):  # or they would wait for ever
            whole_placed(together, follower)

    for name, broken in (("_placed", placed), ("_end", end), ("_gone", gone)):
        setattr(Together, name, broken)
