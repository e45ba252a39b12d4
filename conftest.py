"""Plugins of the whole test run; pytest reads their names from the top directory alone. Nothing else lives here."""

from __future__ import annotations

pytest_plugins = ("tests.groups", "tests.platform_fixture", "tests.breakable_platform")
