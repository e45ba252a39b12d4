"""Reading request bodies within bounds: one body, and all bodies of this process together."""

from __future__ import annotations

from types import TracebackType

from starlette.requests import Request

from dmp.common.v1.error_reason_pb2 import ERROR_REASON_OVERLOADED
from gateway.fhir.refusals import invalid, too_large
from services.runtime.errors import DmpError


class BodyBudget:
    """Bytes of bodies that this process holds at once; what is beyond is refused before it is read (503)."""

    def __init__(self, total: int) -> None:
        self._free = total

    def take(self, count: int) -> None:
        """Reserve bytes; OVERLOADED when there are not enough."""
        if count > self._free:
            raise DmpError(ERROR_REASON_OVERLOADED, retry_after=1.0)
        self._free -= count

    def give_back(self, count: int) -> None:
        """Return what was reserved."""
        self._free += count


class BodyReader:
    """The body of one request; as a context manager it returns its bytes to the budget at the end."""

    def __init__(self, request: Request, budget: BodyBudget, most: int) -> None:
        self._request = request
        self._budget = budget
        self._most = most
        self._taken = 0

    def __enter__(self) -> BodyReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0

    async def read(self, most: int | None = None) -> bytes:
        """The whole body; REQUEST_TOO_LARGE as soon as it is known to be beyond the limit."""
        limit = self._most if most is None else min(most, self._most)
        announced = self._announced()
        if announced is not None and announced > limit:
            raise self._too_large(limit)
        received = bytearray()
        async for chunk in self._request.stream():
            if len(received) + len(chunk) > limit:
                raise self._too_large(limit)
            self._budget.take(len(chunk))
            self._taken += len(chunk)
            received += chunk
        return bytes(received)

    def _announced(self) -> int | None:
        values = self._request.headers.getlist("content-length")
        if not values:
            return None
        if len(values) > 1 or not (values[0].isascii() and values[0].isdigit() and len(values[0]) < 19):
            raise invalid("Content-Length", "integer", "one length in bytes")
        return int(values[0])

    @staticmethod
    def _too_large(limit: int) -> DmpError:
        return too_large("body", "max_bytes", f"at most {limit} bytes")


class KnownBody(BodyReader):
    """A body that has been read: one line of a file, for a handler that takes it as a request of its own."""

    def __init__(self, request: Request, content: bytes) -> None:
        super().__init__(request, BodyBudget(0), len(content))
        self._content = content

    async def read(self, most: int | None = None) -> bytes:
        """The content; REQUEST_TOO_LARGE beyond `most`."""
        if most is not None and len(self._content) > most:
            raise self._too_large(most)
        return self._content
