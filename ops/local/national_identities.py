"""The identities from which the local stack's simulated national identity service (INSi) answers: the demo people's.

Lives here: one file of the state. They are invented, as `ops.demo.people` says.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

from ops.demo.people import DEMO_SEED, people
from ops.local.state import State, write_private

_COUNT: Final = 500


def write_national_identities(state: State) -> Path:
    """The file's path, written once: header and a line for each of the first demo people."""
    path = state.secret("insi.csv")
    if path.exists():
        return path
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("system", "nir", "birth_name", "given_names", "sex", "birth_date", "birth_place"))
    for one in people(_COUNT, DEMO_SEED):
        lines.writerow(
            (
                one.nir_oid,
                one.nir,
                one.birth_family,
                " ".join(one.given),
                one.sex,
                one.birth_date.isoformat(),
                one.birth_place.code,
            )
        )
    write_private(path, text.getvalue())
    return path
