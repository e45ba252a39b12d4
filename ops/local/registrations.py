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
from typing import Final, Literal

from dmp.audit.v1 import audit_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from dmp.document.v1 import clinical_pb2, document_pb2
from dmp.gateway.v1 import partner_pb2
from dmp.identity.v1 import identity_pb2
from ops.local.keys import ensure_client_key
from ops.local.pki import spiffe_id
from ops.local.state import State, write_whole
from services.runtime.access import methods_of

PARTNER: Final = "demo-software"
PORTAL: Final = "demo-portal"
INTERNAL: Final = "demo-registry"
OPERATOR: Final = "demo-operator"

REDIRECT_URI: Final = "http://127.0.0.1:8450/callback"
"""Where software of the demo that signs people in waits for their codes."""
ClientKind = Literal["partner", "internal", "operator"]

METHODS: Final = methods_of(
    service
    for file in (identity_pb2, consent_pb2, rights_pb2, document_pb2, clinical_pb2, audit_pb2, partner_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""Every method that someone with a token may call, by its path."""
ALL_SCOPES: Final = tuple(sorted({scope for method in METHODS.values() for scope in method.scopes}))
"""Every scope that some method asks for: software of the demo is approved for everything."""
_CARE_ACTORS: Final = ("professional", "structure_staff", "structure")
_ALL_MODES: Final = ("normal", "regulation", "break_glass")
_ALL_AUTHENTICATIONS: Final = ("direct", "indirect", "indirect_strong")


def write_registrations(state: State) -> Path:
    """The registrations file of this state, with the public keys of its clients."""
    path = state.clients / "registrations.json"
    clients = [
        _client(state, PARTNER, "partner", _CARE_ACTORS)
        | _signs_in("professionals")
        | {"profiles": ["management", "feeding", "consultation"], "reflection": True},
        _client(state, PORTAL, "partner", ("patient", "representative")) | _signs_in("patients"),
        _client(state, INTERNAL, "internal", (*_CARE_ACTORS, "system")),
        _client(state, OPERATOR, "operator", ("operator",)),
    ]
    write_whole(path, json.dumps(clients, indent=2, sort_keys=True), mode=0o644)
    return path


def _signs_in(realm: str) -> dict[str, object]:
    return {
        "grants": ["client_credentials", "authorization_code"],
        "login": realm,
        "redirect_uris": [REDIRECT_URI],
    }


def _client(state: State, client_id: str, kind: ClientKind, actors: tuple[str, ...]) -> dict[str, object]:
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
        "quota": {"requests_per_second": 100_000, "burst": 1_000_000},
        "certificate_uri": spiffe_id(kind, client_id) if kind in ("internal", "operator") else "",
        "jwks": json.loads(ensure_client_key(state, client_id).key_set.read_bytes()),
    }
