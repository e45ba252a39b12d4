"""TD0.2."""

from __future__ import annotations

from typing import Final

from dmp.consent.v1 import consent_pb2 as consent
from gateway.fhir.rpcs import CONSENT, Rpc

GET_DOSSIER: Final = Rpc(f"{CONSENT}/GetDossier", consent.GetDossierRequest, consent.GetDossierResponse)
