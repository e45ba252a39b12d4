"""TD0.2 as a Patient: does the person have a dossier, is it open, may the caller read it."""

from __future__ import annotations

from collections.abc import Mapping

from dmp.consent.v1.consent_pb2 import GetDossierRequest
from gateway.fhir import dossier, rpcs
from gateway.fhir.endpoints.common import NOBODY, Endpoints
from gateway.fhir.exchange import Answer, Exchange, Handler
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_name


class Dossiers(Endpoints):
    """The endpoints of dossiers."""

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the interaction."""
        return {"patient-search": self.patient_search, "patient-read": self.patient_read}

    async def patient_search(self, exchange: Exchange) -> Answer:
        """TD0.2: no entry, or the dossier."""
        parameters = await exchange.parameters(dossier.NAMES)
        link = dossier.read_patient_search(parameters)
        patients = []
        try:
            health_id = await self._health_id(exchange, link)
            request = GetDossierRequest(name=dossier_name(health_id))
            found = await self._backend.call(exchange.caller, rpcs.GET_DOSSIER, request)
            patients.append(dossier.write_dossier(found, health_id, self._links, link.identifier))
        except DmpError as error:
            if error.reason not in NOBODY:
                raise
        return Answer(dossier.write_patient_searchset(patients, parameters.pairs, self._links))

    async def patient_read(self, exchange: Exchange) -> Answer:
        """TD0.2 by the opaque id of the dossier."""
        health_id = await self._read_patient_id(exchange, exchange.request.path_params["id"], "id")
        request = GetDossierRequest(name=dossier_name(health_id))
        found = await self._or_nobody(self._backend.call(exchange.caller, rpcs.GET_DOSSIER, request), "id")
        return Answer(dossier.write_dossier(found, health_id, self._links, None))
