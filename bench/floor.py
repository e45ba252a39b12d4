"""The least that a submission may cost: a server that keeps of the document service only what no promise lets it leave
out. What it reaches, as a part of plain inserts, bounds what any service on this transport and machine can.

Each submission comes through the same mutual TLS and grpcio; its content is hashed twice (XDS asks for SHA-1, the seal
for SHA-256), compressed, gone through by expat, sealed with AES-256-GCM, and committed durably in groups. No caller is
verified, no right asked about, no patient checked; no header is read, no metadata kept, no event written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import uuid
from pathlib import Path
from typing import Final

import asyncpg
import grpc
import grpc.aio
import uvloop

from dmp.document.v1 import document_pb2
from services.document import envelope
from services.document.committing import GROUP
from services.document.xml_safety import check, to_utf8
from services.runtime import tls
from services.runtime.boundary import Rpcs
from services.runtime.coalescer import Coalescer
from services.runtime.errors import DmpError
from services.runtime.identifiers import uuid7
from services.runtime.sealing import DossierKey
from services.runtime.server import stop_on_signals
from services.runtime.settings import ServiceSettings
from services.runtime.transport import server_options

PATH: Final = "/dmp.document.v1.DocumentService/SubmitDocuments"
DSN: Final = "DMP_BENCH_DSN"
"""The variable that has the database."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS floor_insert (health_id bigint, id uuid, sealed bytea, PRIMARY KEY (health_id, id));
ALTER TABLE floor_insert ALTER COLUMN sealed SET STORAGE EXTERNAL
"""
_INSERT: Final = """
INSERT INTO floor_insert (health_id, id, sealed) SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::bytea[])
"""

Row = tuple[int, uuid.UUID, bytes]


class Floor(Rpcs):
    """Takes submissions, and keeps their contents."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        super().__init__({PATH: grpc.unary_unary_rpc_method_handler(self._submit)})
        self._pool = pool
        self._key = DossierKey.from_bytes(1, bytes(32))
        self._groups: Coalescer[Row, bool] = Coalescer("floor", self._insert, max_batch=GROUP, in_flight=2)

    async def _submit(self, data: bytes, _context: object) -> bytes:
        request = document_pb2.SubmitDocumentsRequest.FromString(data)
        for submitted in request.documents:
            content, content_id = submitted.content, uuid7()
            packed = envelope.pack(content)
            check(to_utf8(content))
            await self._groups.submit((1, content_id, envelope.seal_content(self._key, content_id, packed)), timeout=30)
        return b"kept"

    async def _insert(self, rows: list[Row]) -> list[bool | DmpError]:
        await self._pool.execute(_INSERT, *(list(column) for column in zip(*rows, strict=True)))
        return [True] * len(rows)


async def serve(listen: str, directory: Path, ca: Path) -> None:
    """Serve until SIGTERM, by the certificate in `directory`."""
    stop = stop_on_signals()
    pool = await asyncpg.create_pool(os.environ[DSN], min_size=4, max_size=4)
    await pool.execute(_TABLE)
    server = grpc.aio.server(options=server_options(ServiceSettings()))
    server.add_generic_rpc_handlers((Floor(pool),))
    server.add_secure_port(listen, tls.server_credentials(directory / "tls.pem", directory / "tls.key", ca))
    await server.start()
    await stop.wait()
    await server.stop(1)
    await pool.close()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.floor")
    parser.add_argument("listen", help="host:port")
    parser.add_argument("--identity", type=Path, required=True, help="directory of tls.pem and tls.key")
    parser.add_argument("--ca", type=Path, required=True, help="who signs the certificates of clients")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.listen, arguments.identity, arguments.ca))


if __name__ == "__main__":
    main()
