"""The dossiers of one person, read as one: what shuts out of one shuts out of all. Pure.

Authorisations hold on the dossier that they were given for (design §8, merges).
"""

from __future__ import annotations

from dataclasses import replace

from services.consent.values import READ_TOGETHER, DossierState, Facts


def unite(own: Facts, own_id: int, other: Facts, other_id: int) -> Facts:
    """The facts of a dossier, with what another of the same person shuts out; and whether that one is read with it.

    A merged dossier is as open as the one that it was merged into. A closed one is read by itself, by those who may
    read archives, with what was merged into it: closing it closed those.
    """
    gone = own.merged_into == other_id and other.state is not DossierState.OPEN
    together = (
        other.merged_into == own_id or (own.state in READ_TOGETHER and not gone)
    ) and other.state in READ_TOGETHER
    return replace(
        own,
        state=other.state if gone else own.state,
        died=other.died if gone else own.died,
        linked=(*own.linked, other_id) if together else () if gone else own.linked,
        blocked=own.blocked or other.blocked,
        break_glass_opposed=own.break_glass_opposed or other.break_glass_opposed,
        regulation_opposed=own.regulation_opposed or other.regulation_opposed,
        masked_in_emergency=own.masked_in_emergency and other.masked_in_emergency,
    )
