"""The RPCs of ClinicalService. Thin: each hands over to the room that does what it says."""

from __future__ import annotations

from dmp.document.v1 import clinical_pb2
from services.document.clinical_lists import ClinicalLists
from services.document.projecting import ReadingSweep
from services.document.times import timestamp
from services.runtime.context import Call
from services.runtime.validation import validate


class ClinicalServicer:
    """Serves dmp.document.v1.ClinicalService."""

    def __init__(self, lists: ClinicalLists, sweep: ReadingSweep) -> None:
        self._lists = lists
        self._sweep = sweep

    async def ListMedications(
        self, request: clinical_pb2.ListMedicationsRequest, call: Call
    ) -> clinical_pb2.ListMedicationsResponse:
        """List medicines."""
        return await self._lists.medications(request, call)

    async def ListResults(
        self, request: clinical_pb2.ListResultsRequest, call: Call
    ) -> clinical_pb2.ListResultsResponse:
        """List results as series."""
        return await self._lists.results(request, call)

    async def GetVaccinationRecord(
        self, request: clinical_pb2.GetVaccinationRecordRequest, call: Call
    ) -> clinical_pb2.GetVaccinationRecordResponse:
        """List vaccinations."""
        return await self._lists.vaccinations(request, call)

    async def ListImaging(
        self, request: clinical_pb2.ListImagingRequest, call: Call
    ) -> clinical_pb2.ListImagingResponse:
        """List imaging reports with the references to their images."""
        return await self._lists.imaging(request, call)

    async def ListSummaries(
        self, request: clinical_pb2.ListSummariesRequest, call: Call
    ) -> clinical_pb2.ListSummariesResponse:
        """List summaries and letters."""
        return await self._lists.summaries(request, call)

    async def GetPathway(self, request: clinical_pb2.GetPathwayRequest, call: Call) -> clinical_pb2.GetPathwayResponse:
        """List the events of the patient's way through care."""
        return await self._lists.pathway(request, call)

    async def RereadDocuments(
        self, request: clinical_pb2.RereadDocumentsRequest, call: Call
    ) -> clinical_pb2.RereadDocumentsResponse:
        """Tell how far the reading of all documents has come; begin again when asked to."""
        validate(request)
        sweep = await (self._sweep.restart(call) if request.restart else self._sweep.state(call))
        return clinical_pb2.RereadDocumentsResponse(
            reader_version=sweep.reader_version,
            start_time=timestamp(sweep.started_at),
            read_count=sweep.read_count,
            failed_count=sweep.failed_count,
            done=sweep.done,
        )
