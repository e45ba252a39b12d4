"""The document service: submission sets, metadata, sealed content, and the reading of CDA."""
