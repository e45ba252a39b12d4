"""`dmp person`, `dmp directory` and `dmp duplicates`: what an operator does with the register. Every act is an RPC."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf import json_format
from rich.progress import Progress
from rich.table import Table

from dmp.common.v1.coding_pb2 import Identifier
from dmp.identity.v1 import directory_pb2, keys_pb2
from dmp.identity.v1 import identity_pb2 as pb
from ops.command import fail, perform, platform_session
from ops.demo_platform import demo_professional
from ops.directory_rows import rows_of
from ops.local.registrations import INTERNAL, OPERATOR
from ops.local.state import State
from ops.session import Session, Statement
from ops.terminal import console
from services.runtime.keyring import Keyring

_ROWS_A_CALL: Final = 500
_PEOPLE_A_CALL: Final = 2000
_SETTLE_SECONDS: Final = 3.0
"""Replicas look at their keyring every second; where its files are brought to them, that takes longer."""
_SAY_SECONDS: Final = 10.0
_OPERATOR: Final = Statement.of(OPERATOR, actor="operator", subject="operator-1")

person_commands = typer.Typer(no_args_is_help=True, help="People: show, search, link, unlink, split.")
directory_commands = typer.Typer(no_args_is_help=True, help="Professionals and structures.")
duplicate_commands = typer.Typer(no_args_is_help=True, help="The work list of possible duplicates.")
key_commands = typer.Typer(no_args_is_help=True, help="The keys by which people are found and sealed.")

_out = console()
PersonName = Annotated[str, typer.Argument(help="A person: 21 digits or people/….")]
Why = Annotated[str, typer.Option(help="Why, for the history.")]


@person_commands.command("show")
def show(person: PersonName, history: Annotated[bool, typer.Option(help="Every version, too.")] = False) -> None:
    """Show a person, who was merged into it, and its history."""

    async def act(session: Session) -> None:
        got = await _ask(session, "GetPerson", pb.GetPersonRequest(name=_named(person)), pb.GetPersonResponse)
        _out.print(_card(got.person, list(got.linked)))
        if not history:
            return
        asked = pb.ListPersonHistoryRequest(name=_named(person), page_size=100)
        past = await _ask(session, "ListPersonHistory", asked, pb.ListPersonHistoryResponse)
        table = Table("version", "when", "who", "what", "why", box=None)
        for version in past.versions:
            change = version.change
            kind = pb.PersonChangeKind.Name(change.kind).removeprefix("PERSON_CHANGE_KIND_").lower()
            when = version.person.update_time.ToDatetime().isoformat(" ", "seconds")
            table.add_row(str(version.person.version), when, change.subject, kind, change.reason)
        _out.print(table)

    _run(act)


@person_commands.command("search")
def search(
    criteria: Annotated[
        typer.FileText | None, typer.Argument(help="What is known, as JSON; - reads it. Asked for when left out.")
    ] = None,
) -> None:
    """Search people by birth date and name, or by identifier.

    The JSON has `birthDate` and `familyName`, three letters of it at least, and perhaps `givenName`, `sex` and so on;
    or `identifier` (`system` and `value`). It is no argument, so that nobody's number stands in a list of processes.
    """
    try:
        request = json_format.Parse(criteria.read(), pb.SearchPeopleRequest()) if criteria else _asked_criteria()
    except json_format.ParseError as error:
        fail(f"{criteria.name if criteria else ''}: {error}")
    request.page_size = request.page_size or 50

    async def act(session: Session) -> None:
        found = await _ask(session, "SearchPeople", request, pb.SearchPeopleResponse)
        table = Table("person", "name", "given names", "born", "status", "merged into", box=None)
        for one in found.people:
            traits = one.traits
            table.add_row(
                one.name, traits.birth_name, traits.birth_given_names, traits.birth_date, _status(one), one.merged_into
            )
        _out.print(table)

    _run(act)


def _asked_criteria() -> pb.SearchPeopleRequest:
    """What somebody at a terminal knows of a person."""
    identifier = typer.prompt("Identifier (system|value), or nothing", default="", show_default=False)
    system, _, value = identifier.partition("|")
    if system:
        return pb.SearchPeopleRequest(identifier=Identifier(system=system, value=value))
    return pb.SearchPeopleRequest(
        birth_date=typer.prompt("Birth date (YYYY-MM-DD)"),
        family_name=typer.prompt("Family name (three letters at least)"),
        given_name=typer.prompt("Given name, or its beginning", default="", show_default=False),
    )


@person_commands.command("link")
def link(survivor: PersonName, merged: PersonName, reason: Why = "one person") -> None:
    """Merge a person into another."""

    async def act(session: Session) -> None:
        request = pb.LinkPeopleRequest(
            name=_named(survivor), merged=_named(merged), reason=reason, request_id=str(uuid.uuid4())
        )
        done = await _ask(session, "LinkPeople", request, pb.LinkPeopleResponse)
        _out.print(_card(done.person, list(done.linked)))

    _run(act)


@person_commands.command("unlink")
def unlink(person: PersonName, reason: Why = "two people") -> None:
    """Undo the link of a merged person."""

    async def act(session: Session) -> None:
        request = pb.UnlinkPeopleRequest(name=_named(person), reason=reason, request_id=str(uuid.uuid4()))
        done = await _ask(session, "UnlinkPeople", request, pb.UnlinkPeopleResponse)
        _out.print(_card(done.person, list(done.linked)))

    _run(act)


@person_commands.command("split")
def split(
    person: PersonName,
    other: Annotated[typer.FileText, typer.Argument(help="Who comes out of the record, as JSON; - reads it.")],
    reason: Why = "two people in one record",
) -> None:
    """Take a second person out of a record that held two.

    The JSON has `traits` and, where they are the second person's, `identifiers` (`system` and `value`); with
    `remainingTraits` it corrects the record. It is a file, so that nobody's traits stand in a list of processes.
    """
    try:
        request = json_format.Parse(other.read(), pb.SplitPersonRequest())
    except json_format.ParseError as error:
        fail(f"{other.name}: {error}")
    request.name, request.reason, request.request_id = _named(person), reason, str(uuid.uuid4())

    async def act(session: Session) -> None:
        done = await _ask(session, "SplitPerson", request, pb.SplitPersonResponse)
        _out.print(_card(done.person, []))
        _out.print(_card(done.split_off, []))

    _run(act)


@duplicate_commands.command("list")
def list_duplicates(limit: Annotated[int, typer.Option(help="How many at most.")] = 50) -> None:
    """List the pairs that wait for a decision, oldest first."""

    async def act(session: Session) -> None:
        table = Table("pair", "score", "one", "other", box=None)
        token, shown = "", 0
        while shown < limit:
            size = min(100, limit - shown)
            request = pb.ListPossibleDuplicatesRequest(page_size=size, page_token=token)
            page = await _ask(session, "ListPossibleDuplicates", request, pb.ListPossibleDuplicatesResponse)
            for pair in page.duplicates:
                table.add_row(pair.name, f"{pair.score:.3f}", _line(pair.one), _line(pair.other))
            shown += len(page.duplicates)
            token = page.next_page_token
            if not token:
                break
        _out.print(table, soft_wrap=True)

    _run(act)


@duplicate_commands.command("decide")
def decide(
    pair: Annotated[str, typer.Argument(help="duplicates/….")],
    same: Annotated[str, typer.Option(help="One person: who survives, 21 digits or people/….")] = "",
    reason: Why = "decided by a human",
) -> None:
    """Decide a pair: two people, or with --same one."""

    async def act(session: Session) -> None:
        request = pb.DecidePossibleDuplicateRequest(
            name=pair,
            state=pb.DUPLICATE_STATE_SAME if same else pb.DUPLICATE_STATE_DISTINCT,
            survivor=_named(same) if same else "",
            reason=reason,
            request_id=str(uuid.uuid4()),
        )
        done = await _ask(session, "DecidePossibleDuplicate", request, pb.DecidePossibleDuplicateResponse)
        _out.print(f"{done.duplicate.name}: {pb.DuplicateState.Name(done.duplicate.state).rpartition('_')[2].lower()}")

    _run(act)


@directory_commands.command("import")
def import_directory(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV; see docs/reference/directory.md.")],
    report: Annotated[Path | None, typer.Option(help="Write what was refused, and why, there (CSV).")] = None,
) -> None:
    """Import an extract of professionals, structures and who works where. Run again, it goes on where it stopped."""

    async def act(session: Session) -> None:
        import_id = hashlib.sha256(file.read_bytes()).hexdigest()
        state = directory_pb2.GetDirectoryImportRequest(import_id=import_id)
        got = await _ask(
            session, "GetDirectoryImport", state, directory_pb2.GetDirectoryImportResponse, statement=_OPERATOR
        )
        stands = got.directory_import
        rows = [row for row in rows_of(file) if row.row > stands.last_row]
        with Progress(console=_out, transient=True) as progress:
            bar = progress.add_task("Importing", total=len(rows))
            for start in range(0, max(1, len(rows)), _ROWS_A_CALL):
                part = rows[start : start + _ROWS_A_CALL]
                request = directory_pb2.ImportDirectoryRequest(
                    import_id=import_id,
                    rows=part,
                    complete=start + _ROWS_A_CALL >= len(rows),
                    request_id=request_id_of(import_id, part),
                )
                done = await _ask(
                    session, "ImportDirectory", request, directory_pb2.ImportDirectoryResponse, statement=_OPERATOR
                )
                stands = done.directory_import
                progress.advance(bar, len(part))
        _out.print(f"{stands.taken} rows taken ({stands.warned} with a warning), {stands.refused} refused")
        if report is not None:
            await _write_report(session, import_id, report)

    _run(act)


@key_commands.command("rotate")
def rotate(
    at_once: Annotated[int, typer.Option(min=1, max=_PEOPLE_A_CALL, help="People in each step.")] = _PEOPLE_A_CALL,
    settle: Annotated[
        float, typer.Option(min=1.5, help="Seconds until every replica has read a changed keyring.")
    ] = _SETTLE_SECONDS,
) -> None:
    """Rotate identity's keys while it serves: new digests and wrappings, then the old ones removed. Run again after it
    was interrupted, it goes on where it stopped."""
    state = State.open()
    path = state.keyring("identity")

    async def act(session: Session) -> None:
        asked = keys_pb2.GetKeyRotationRequest()
        got = await _ask(session, "GetKeyRotation", asked, keys_pb2.GetKeyRotationResponse, statement=_OPERATOR)
        begun = got.key_rotation.phase != keys_pb2.KEY_ROTATION_PHASE_IDLE
        ring = Keyring.from_directory(path)
        if not begun and len(ring.digest_generations) == 1 and ring.digest_generations[0] == ring.current:
            Keyring.add_generation(path)
        if len(Keyring.add_digests(path).digest_generations) > 1:
            await asyncio.sleep(settle)
            await _advance(session, keys_pb2.KEY_ROTATION_PHASE_BACKFILLED, "Writing new digests", at_once)
            Keyring.retire_digests(path)
        await asyncio.sleep(settle)
        await _advance(session, keys_pb2.KEY_ROTATION_PHASE_IDLE, "Removing old digests, wrapping keys anew", at_once)
        _out.print(f"generation {Keyring.from_directory(path).current} finds and wraps; older ones only unwrap backups")

    _run(act)


async def _advance(session: Session, until: keys_pb2.KeyRotationPhase.ValueType, what: str, at_once: int) -> None:
    """Until a phase is reached, with a bar; where nobody watches a terminal, with a line now and then."""
    said = float("-inf")
    with Progress(console=_out, transient=True) as progress:
        bar = progress.add_task(what, total=None)
        while True:
            request = keys_pb2.AdvanceKeyRotationRequest(max_people=at_once, request_id=str(uuid.uuid4()))
            done = await _ask(
                session, "AdvanceKeyRotation", request, keys_pb2.AdvanceKeyRotationResponse, statement=_OPERATOR
            )
            rotation = done.key_rotation
            progress.update(bar, completed=rotation.people_done, total=max(1, rotation.people_total))
            if not _out.is_terminal and time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                _out.print(f"{what}: {rotation.people_done:,} of {rotation.people_total:,} people")
            if rotation.phase == until:
                return


def request_id_of(import_id: str, part: Sequence[directory_pb2.DirectoryRow]) -> str:
    """The same for the same rows of the same file, and another for any others: an import goes on anywhere."""
    return f"{import_id[:32]}-{part[0].row}" if part else f"{import_id[:32]}-end"


async def _write_report(session: Session, import_id: str, report: Path) -> None:
    token = ""
    with report.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter=";")
        writer.writerow(("row", "field", "rule", "refused"))
        while True:
            asked = directory_pb2.GetDirectoryImportRequest(import_id=import_id, page_token=token)
            page = await _ask(
                session, "GetDirectoryImport", asked, directory_pb2.GetDirectoryImportResponse, statement=_OPERATOR
            )
            writer.writerows((each.row, each.field, each.rule, int(each.refused)) for each in page.findings)
            token = page.next_page_token
            if not token:
                return


def _internal() -> Statement:
    return Statement(INTERNAL, demo_professional().fields)


async def _ask(session: Session, method: str, request: Any, answer: Any, statement: Statement | None = None) -> Any:
    return await session.call("identity", method, request, answer, statement or _internal(), timeout=60.0)


def _named(text: str) -> str:
    return text if "/" in text else f"people/{text}"


def _status(one: pb.Person) -> str:
    return pb.IdentityStatus.Name(one.status).removeprefix("IDENTITY_STATUS_").lower()


def _line(one: pb.Person) -> str:
    traits = one.traits
    return f"{traits.birth_name} {traits.birth_given_names} {traits.birth_date} {traits.birth_place} ({one.name})"


def _card(one: pb.Person, linked: list[str]) -> Table:
    table = Table(box=None, show_header=False)
    traits = one.traits
    for title, value in (
        ("person", one.name),
        ("name", f"{traits.birth_name} {traits.birth_given_names}"),
        ("in use", f"{traits.used_name} {traits.used_given_name}".strip()),
        ("born", f"{traits.birth_date} {traits.birth_place}"),
        ("status", _status(one)),
        ("identifiers", ", ".join(f"{each.system}|{each.value}" for each in one.identifiers)),
        ("merged into", one.merged_into),
        ("merged into it", ", ".join(linked)),
    ):
        if value:
            table.add_row(title, value)
    return table


def _run(act: Any) -> None:
    async def work() -> None:
        async with platform_session() as session:
            await act(session)

    perform(work())
