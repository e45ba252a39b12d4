"""The software registered at the gateway of a local stack: what a demo, the tests and the benchmarks call as.

    demo-software   a partner's package: any professional, structure or staff card, all modes
    demo-portal     the patients' portal: patients and representatives
    demo-registry   an internal system: registers people, opens dossiers, reads and feeds directly
    demo-operator   a person who runs the platform

`demo-software` and `demo-portal` reach the platform through the gateway; the other two directly, with the certificate
of the same name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ops.local.keys import ensure_client_key
from ops.local.state import State, write_whole

PARTNER: Final = "demo-software"
PORTAL: Final = "demo-portal"
INTERNAL: Final = "demo-registry"
OPERATOR: Final = "demo-operator"

ALL_SCOPES: Final = ("ITI-65", "ITI-67", "ITI-68", "ITI-81", "ITI-105", "TD0.2", "TD0.3", "TD1.1", "TD1.4")
_CARE_ACTORS: Final = ("professional", "structure_staff", "structure")
_ALL_MODES: Final = ("normal", "regulation", "break_glass")
_ALL_AUTHENTICATIONS: Final = ("direct", "indirect", "indirect_strong")


def write_registrations(state: State) -> Path:
    """The registrations file of this state, with the public keys of its clients."""
    path = state.clients / "registrations.json"
    clients = [
        _client(state, PARTNER, "partner", _CARE_ACTORS),
        _client(state, PORTAL, "partner", ("patient", "representative")),
        _client(state, INTERNAL, "internal", (*_CARE_ACTORS, "system")),
        _client(state, OPERATOR, "operator", ("operator",)),
    ]
    write_whole(path, json.dumps(clients, indent=2, sort_keys=True), mode=0o644)
    return path


def _client(state: State, client_id: str, kind: str, actors: tuple[str, ...]) -> dict[str, object]:
    return {
        "client_id": client_id,
        "kind": kind,
        "software": {"id": client_id, "name": client_id, "version": "1.0", "approval_number": "DEMO-0001"},
        "scopes": list(ALL_SCOPES),
        "actors": list(actors),
        "professions": ["*"],
        "structures": ["*"],
        "access_modes": list(_ALL_MODES),
        "authentication_modes": list(_ALL_AUTHENTICATIONS),
        "jwks": json.loads(ensure_client_key(state, client_id).key_set.read_bytes()),
    }
