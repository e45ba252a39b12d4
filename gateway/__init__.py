"""The gateway: who calls, may this software do this, FHIR to protobuf and back. No rules, no records."""
