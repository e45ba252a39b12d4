"""The tests here break the same fleet as the fault tests."""

from __future__ import annotations

from tests.faults.conftest import clients, fleet, zygote

__all__ = ["clients", "fleet", "zygote"]
