"""The FHIR front over a platform of our own, for the tests that need no other: a new one for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.conformance.fhir_platform import FakePlatform, client_of


@pytest.fixture
def fake() -> FakePlatform:
    """The platform behind the front. A file whose tests need other scopes has a fixture of this name that adds them."""
    return FakePlatform()


@pytest.fixture
async def client(fake: FakePlatform) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the front, with a token."""
    async with client_of(fake) as http:
        yield http
