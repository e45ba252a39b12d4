"""What a native service and the TLS terminator on its socket tell each other: names of metadata, nothing else."""

from __future__ import annotations

from typing import Final

FORWARDED_CERTIFICATE: Final = "x-forwarded-client-cert"
"""Whose certificate the terminator has verified. It removes what a client wrote there."""
FORWARDED_PUSHBACK: Final = "x-retry-pushback-ms"
"""Push-back on its way to the terminator, which calls it by its own name, `grpc-retry-pushback-ms`."""
