"""The local OpenID provider as the gateway of a local stack is told of it: its client's secret and key, and the file
that DMP_OPENID_FILE names. The provider itself is in `ops/openid`.

    openid/client.secret     of the gateway at the professionals' realm (`client_secret_post`, as Pro Santé Connect)
    openid/client.jwk        of the gateway at the patients' realm (`private_key_jwt`)
    openid/providers.json    what the gateway reads
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from joserfc.jwk import ECKey

from ops.local.pki import CertificateAuthority
from ops.local.state import State, write_private, write_whole

CLIENT_ID: Final = "dmp-gateway"
PROFESSIONALS: Final = "/auth/realms/esante-wallet"
PATIENTS: Final = "/auth/realms/patients"
ACR: Final = "eidas1"


def client_secret(state: State) -> Path:
    """The gateway's secret at the professionals' realm, made at first use."""
    path = state.openid / "client.secret"
    if not path.exists():
        write_private(path, state.password("openid-client"))
    return path


def client_key(state: State) -> Path:
    """The gateway's private key at the patients' realm, made at first use."""
    path = state.openid / "client.jwk"
    if not path.exists():
        key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True, auto_kid=True)
        write_private(path, json.dumps(key.as_dict(private=True), indent=2, sort_keys=True))
    return path


def write_providers(state: State, address: str) -> Path:
    """The file for DMP_OPENID_FILE, of a provider at `address` (host:port)."""
    authority = str(CertificateAuthority(state).certificate_path)
    providers = {
        "professionals": {
            "issuer": f"https://{address}{PROFESSIONALS}",
            "client_id": CLIENT_ID,
            "client_secret_file": str(client_secret(state)),
            "scope": "openid scope_all",
            "acr_values": ACR,
            "userinfo": True,
            "ca_file": authority,
        },
        "patients": {
            "issuer": f"https://{address}{PATIENTS}",
            "client_id": CLIENT_ID,
            "key_file": str(client_key(state)),
            "scope": "openid",
            "userinfo": False,
            "ca_file": authority,
        },
    }
    path = state.openid / "providers.json"
    write_whole(path, json.dumps(providers, indent=2, sort_keys=True), mode=0o644)
    return path
