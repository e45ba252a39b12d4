"""A log knows whether it is in use, for what rests meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.audit.append import DEFAULT_LIMITS
from services.audit.entry import EntryDigests, prepare
from services.audit.sequencer import Sequencer
from services.runtime.dossier_keys import DossierKeys
from services.runtime.errors import DmpError
from services.runtime.metrics import Metrics
from services.runtime.postgres import Pool
from tests.audit_log import event, keyring
from tests.virtual_loop import on_virtual_loop


class SlowlyLost:
    """A database that is found after a second not to be there."""

    def acquire(self, *, timeout: float) -> SlowlyLost:
        return self

    async def __aenter__(self) -> Any:
        await asyncio.sleep(1)
        raise OSError

    async def __aexit__(self, *error: object) -> None: ...


def test_a_log_is_in_use_while_events_are_appended_and_a_moment_longer() -> None:
    """Between two batches of a load nothing waits: who looked just then worked as if the log were left alone."""

    async def main() -> None:
        keys = DossierKeys(keyring(), "audit")
        log = Sequencer(cast("Pool", SlowlyLost()), keys, 0, DEFAULT_LIMITS, Metrics())

        def in_use() -> bool:
            return log.busy

        assert not in_use()
        under_way = asyncio.ensure_future(log.append([prepare(event(), "document", EntryDigests(keyring()))]))
        await asyncio.sleep(0.5)
        assert in_use()
        with pytest.raises(DmpError):
            await under_way
        await asyncio.sleep(0.05)
        assert in_use()
        await asyncio.sleep(0.1)
        assert not in_use()
        await log.close()

    on_virtual_loop(main)
