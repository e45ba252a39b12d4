"""Which tests run in one process, and in which order; nothing else lives here.

Where tests run in several processes, one has the shared platform and all its tests, another the fleet and its own, one
the platform that may be broken: what takes longest begins first. Other files stay whole.
"""

from __future__ import annotations

from typing import Final

import pytest

_SHARED: Final = ("platform", "fleet", "breakable")
"""Fixtures of a whole run."""
_LONG: Final = "tests/faults/"
"""No other files take as long. They begin next: a process with one left at the end would keep the others waiting."""
_LAST_MODULE: Final = "test_platform_privacy"
"""It looks at everything that the run has left behind, and comes after all that the platform is asked."""


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the groups and sorts by them."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: (_rank(_group(item)), _LAST_MODULE in item.nodeid))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run where groups are asked for and do not hold: a pytest that xdist does not know tears files apart."""
    if session.config.getoption("loadgroup", False) and not all(
        item.nodeid.endswith(f"@{_group(item)}") for item in session.items
    ):
        raise pytest.UsageError("tests have lost their groups: this pytest-xdist does not fit this pytest")


def _group(item: pytest.Item) -> str:
    return next((name for name in _SHARED if _shares(item, name)), item.nodeid.partition("::")[0])


def _shares(item: pytest.Item, fixture: str) -> bool:
    """Whether a test uses the fixture of the whole run, and not one of its own file by the same name."""
    known = getattr(item, "_fixtureinfo", None)
    defined = known.name2fixturedefs.get(fixture) if known is not None else None
    return bool(defined and defined[-1].scope == "session")


def _rank(group: str) -> int:
    if group in _SHARED:
        return _SHARED.index(group)
    return len(_SHARED) + (not group.startswith(_LONG))
