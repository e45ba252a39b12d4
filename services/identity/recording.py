"""What every RPC of identity does around its use case: refusals and reads are in the trail before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from dmp.audit.v1 import audit_pb2
from dmp.common.v1 import access_pb2
from dmp.identity.v1 import identity_pb2 as pb
from services.identity.registration_rules import RegistrationRefused
from services.runtime.context import Call
from services.runtime.errors import DmpError
from services.runtime.identifiers import dossier_of
from services.runtime.postgres import translate
from services.runtime.trail import Trail, build_event

_NOBODY: Final = 0


class Recorded:
    """Records."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    @asynccontextmanager
    async def _recording(self, call: Call) -> AsyncIterator[None]:
        """Records a refusal before it is answered; what could not be decided is no refusal."""
        try:
            yield
        except DmpError as error:
            health_id = error.health_id if isinstance(error, RegistrationRefused) else _NOBODY
            await self._trail.refuse(call, error, health_id=health_id)
            raise
        except Exception as error:  # a boundary: a fault of the database becomes UNAVAILABLE or INTERNAL
            raise translate(error) from error

    async def _read(self, call: Call, people: Iterable[pb.Person]) -> None:
        """Returns when it is in the trail of each of these people that they are shown to the caller; when nobody was
        found, that somebody was sought. The platform's services record what they do with what they read."""
        if call.caller == access_pb2.CALLER_KIND_SERVICE:
            return
        names = dict.fromkeys(person.name for person in people)
        owners: list[int] = [dossier_of(name, "name") for name in names] or [call.health_id]
        await asyncio.gather(
            *(
                self._trail.record(
                    build_event(
                        call,
                        outcome=audit_pb2.OUTCOME_SUCCESS,
                        health_id=owner,
                        objects=[name] if name else [],
                        result_count=len(names),
                    ),
                    call.remaining(),
                )
                for owner, name in zip(owners, list(names) or [""], strict=True)
            )
        )
