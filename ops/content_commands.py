"""`dmp content`: verify, sweep, move what the document service stores, and wrap its keys anew. Slice by slice, so that
each run of it shows how far it is, and one that was broken off goes on from the token that it printed."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.message import Message
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dmp.document.v1 import document_pb2 as pb
from ops.command import perform, platform_session
from ops.local.registrations import OPERATOR
from ops.reread_command import reread
from ops.session import Session, Statement
from ops.terminal import console

commands = typer.Typer(help="Look after stored contents (document service).", no_args_is_help=True)
commands.command()(reread)
Response = TypeVar("Response", bound=Message)
Token = Annotated[str, typer.Option("--from", help="Go on from this token, printed by a run that was broken off.")]
_out = console()
_TIMEOUT = 300.0


@commands.command()
def verify(
    sample: Annotated[float, typer.Option(help="Check so many percent, chosen at random; all of them by default.")] = 0,
    dossier: Annotated[str, typer.Option(help="Check this dossier only, by its 21 digits.")] = "",
    token: Token = "",
) -> None:
    """Open everything that is stored and compare it with its digests; exit code 1 if anything is not as it was."""
    parent = f"dossiers/{dossier}" if dossier else ""
    sums = [0, 0]
    faults: list[pb.ContentFault] = []

    async def one(session: Session, page: str) -> tuple[str, str]:
        request = pb.VerifyContentsRequest(page_token=page, sample_per_mille=round(sample * 10), parent=parent)
        answer = await _call(session, "VerifyContents", request, pb.VerifyContentsResponse)
        sums[0] += answer.checked
        sums[1] += answer.bytes
        faults.extend(answer.faults)
        return answer.next_page_token, f"{sums[0]} documents, {sums[1] >> 20} MiB, {len(faults)} faults"

    _slices(one, token)
    for fault in faults:
        kind = pb.ContentFaultKind.Name(fault.kind).removeprefix("CONTENT_FAULT_KIND_").lower()
        _out.print(f"{fault.document}: {kind}", style="red", soft_wrap=True)
    raise typer.Exit(1 if faults else 0)


@commands.command()
def sweep(token: Token = "") -> None:
    """Remove contents without a living document, objects without a row, uploads that were never submitted."""
    sums = [0, 0, 0]

    async def one(session: Session, page: str) -> tuple[str, str]:
        request = pb.SweepContentsRequest(page_token=page, request_id=str(uuid.uuid4()))
        answer = await _call(session, "SweepContents", request, pb.SweepContentsResponse)
        for index, count in enumerate((answer.contents, answer.objects, answer.uploads)):
            sums[index] += count
        return answer.next_page_token, f"removed {sums[0]} contents, {sums[1]} objects, {sums[2]} uploads"

    _slices(one, token)


@commands.command()
def move(
    to: Annotated[str, typer.Argument(help="`objects` or `database`.")],
    token: Token = "",
) -> None:
    """Move all contents to the object store that is configured, or back, while they are served. Exit code 1 if some
    stayed where they are, because the store does not give them as they were stored."""
    if to not in ("objects", "database"):
        raise typer.BadParameter("objects or database")
    sums = [0, 0, 0]

    async def one(session: Session, page: str) -> tuple[str, str]:
        request = pb.MoveContentsRequest(page_token=page, to_object_store=to == "objects", request_id=str(uuid.uuid4()))
        answer = await _call(session, "MoveContents", request, pb.MoveContentsResponse)
        sums[0] += answer.moved
        sums[1] += answer.bytes
        sums[2] += answer.left
        return answer.next_page_token, f"moved {sums[0]} contents, {sums[1] >> 20} MiB, {sums[2]} left"

    _slices(one, token)
    if sums[2]:
        _out.print("`dmp content verify` names what is not as it was stored", style="red")
    raise typer.Exit(1 if sums[2] else 0)


@commands.command()
def rewrap(token: Token = "") -> None:
    """Wrap the dossiers' keys under the keyring's current generation; older ones may be retired after."""
    sums = [0]

    async def one(session: Session, page: str) -> tuple[str, str]:
        request = pb.RewrapKeysRequest(page_token=page, request_id=str(uuid.uuid4()))
        answer = await _call(session, "RewrapKeys", request, pb.RewrapKeysResponse)
        sums[0] += answer.rewrapped
        return answer.next_page_token, f"wrapped {sums[0]} keys anew"

    _slices(one, token)


async def _call(session: Session, method: str, request: Message, response: type[Response]) -> Response:
    statement = Statement.of(OPERATOR, actor="operator", subject="operator-1")
    return await session.call("document", method, request, response, statement, timeout=_TIMEOUT)


def _slices(one: Callable[[Session, str], Awaitable[tuple[str, str]]], token: str) -> None:
    """Slice after slice, with what was done so far; broken off, it says how to go on."""
    perform(_all_slices(one, token))


async def _all_slices(one: Callable[[Session, str], Awaitable[tuple[str, str]]], token: str) -> None:
    columns: tuple[Any, ...] = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    done = ""
    page = token
    async with platform_session() as session:
        try:
            with Progress(*columns, console=_out, transient=True) as progress:
                task = progress.add_task("…")
                while True:
                    page, done = await one(session, page)
                    progress.update(task, description=done)
                    if not page:
                        break
        finally:
            if page:
                _out.print(f"broken off; go on with: --from {page}", soft_wrap=True, highlight=False)
    _out.print(done, highlight=False)
