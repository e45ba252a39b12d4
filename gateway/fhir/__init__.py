"""The FHIR R4 front (PDSm on IHE MHD): JSON to protobuf and back, thin endpoints. No rule of the record, no storage."""
