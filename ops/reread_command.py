"""`dmp content reread`: how far the document service has come with reading what documents say, and all of it again.

The service does the work, at its own pace and across restarts; the command tells it to begin, and shows where it is.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated

import typer

from dmp.document.v1 import clinical_pb2 as pb
from ops.command import perform, platform_session
from ops.local.registrations import OPERATOR
from ops.session import Session, Statement
from ops.terminal import console

_EVERY = 2.0
_out = console()


def reread(
    restart: Annotated[bool, typer.Option(help="Begin again, with the documents that were read too.")] = False,
    wait: Annotated[bool, typer.Option(help="Stay until it has come to the end.")] = False,
) -> None:
    """Show how far reading has come; with --restart read every document again. It goes on without this command."""
    perform(_follow(restart=restart, wait=wait))


async def _follow(*, restart: bool, wait: bool) -> None:
    async with platform_session() as session:
        answer = await _ask(session, restart=restart)
        _show(answer)
        while wait and not answer.done:
            await asyncio.sleep(_EVERY)
            answer = await _ask(session, restart=False)
            _show(answer)


async def _ask(session: Session, *, restart: bool) -> pb.RereadDocumentsResponse:
    return await session.call(
        "document",
        "ClinicalService/RereadDocuments",
        pb.RereadDocumentsRequest(restart=restart, request_id=str(uuid.uuid4())),
        pb.RereadDocumentsResponse,
        Statement.of(OPERATOR, actor="operator", subject="operator"),
    )


def _show(answer: pb.RereadDocumentsResponse) -> None:
    failed = f", {answer.failed_count} could not be opened" if answer.failed_count else ""
    state = "done" if answer.done else "under way"
    _out.print(f"reader {answer.reader_version}: {answer.read_count} documents read{failed}; {state}")
