"""Calls served together, broken on purpose (promise 2): a call joins a batch already sent that has an equal one, and
gets its answer. Only the zygote's children that are told so use it (`prelude`); the test of revocation must then find
leaks.
"""

from __future__ import annotations

from services.runtime.together import Admitted, Outcome, Together


def apply() -> None:
    """Break it, in a service or in the gateway."""
    whole_placed, whole_end = Together._placed, Together._end
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

    for name, broken in (("_placed", placed), ("_end", end)):
        setattr(Together, name, broken)
