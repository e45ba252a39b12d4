"""Structured reading: from a document's bytes to what it says, as typed values. Pure: no I/O, no clock, no key.

`reader` is the way in; `model` what comes out. Nothing here refuses a document: what cannot be read is counted.
"""
