"""PATCH: JSON Patch, XML Patch and FHIRPath Patch as the same operations on a resource's JSON. Pure."""
