"""The `dmp` command: what an operator or a developer types. It calls RPCs; no store is opened here."""

from __future__ import annotations

import asyncio
import os
import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ops.acts import Acts
from ops.audit.commands import app as audit_commands
from ops.command import dossier_typed, errors, fail, perform, platform_session
from ops.consent_commands import consent_commands, rights_commands
from ops.content_commands import commands as content_commands
from ops.demo_platform import demo_professional
from ops.local.state import SERVICES, ServiceName, State
from ops.partner_commands import commands as partner_commands
from ops.register_commands import directory_commands, duplicate_commands, key_commands, person_commands
from ops.session import Statement
from ops.terminal import console
from services.runtime.identifiers import child_of, dossier_name

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The shared medical record platform.")
_out = console()

As = Annotated[str, typer.Option("--as", help="IDNPS of the professional who acts; by default the demo's physician.")]
Profession = Annotated[str, typer.Option(help="Profession code of that professional.")]


@app.command()
def run(
    people: Annotated[int, typer.Option(help="Demo dossiers to load at the first start.")] = 12,
    seeded: Annotated[bool, typer.Option("--seed/--no-seed", help="Load demo dossiers.")] = True,
) -> None:
    """Start the whole platform here: PostgreSQL, Redis, keys, services, demo dossiers. Ctrl-C stops it."""
    from ops.demo_platform import run_platform

    perform(run_platform(State.open(), people if seeded else 0))


@app.command()
def serve(service: Annotated[str, typer.Argument(help="identity, consent, document, audit or gateway.")]) -> None:
    """Run one service, configured by DMP_* variables."""
    _checked_service(service)
    runpy.run_module("gateway" if service == "gateway" else f"services.{service}", run_name="__main__")


@app.command()
def witness() -> None:
    """Run a witness, configured by DMP_WITNESS_* variables (docs/how-to/run-a-witness.md)."""
    runpy.run_module("services.witness", run_name="__main__")


@app.command()
def migrate(
    service: Annotated[str, typer.Argument(help="The service whose database it is.")],
    dsn_file: Annotated[
        Path | None, typer.Option(help="A file that holds the DSN; by default the one named by DMP_DSN_FILE.")
    ] = None,
) -> None:
    """Bring a service's database to its newest schema."""
    from ops.migrations import migrate as apply

    file = dsn_file or Path(os.environ.get("DMP_DSN_FILE", ""))
    if not file.is_file():
        fail("name a file that holds the DSN with --dsn-file or DMP_DSN_FILE")
    done = asyncio.run(apply(_checked_service(service), file.read_text("utf-8").strip()))
    _out.print("\n".join(done) or "nothing to apply")


@app.command()
def seed(people: Annotated[int, typer.Option(help="How many demo dossiers.")] = 12) -> None:
    """Load demo dossiers into the running platform; loading them again changes nothing."""
    from ops.demo_platform import seed_demo

    async def act() -> None:
        async with platform_session() as session:
            await seed_demo(session, people, errors)

    perform(act())


@app.command()
def token(
    professional: As = "",
    profession: Profession = "10",
    scope: Annotated[str, typer.Option(help="Scopes, separated by spaces; by default all.")] = "",
    patient: Annotated[str, typer.Option(help="A dossier: a token of that patient instead.")] = "",
) -> None:
    """Print a platform token of a demo caller, for five minutes."""

    async def act() -> None:
        async with platform_session() as session:
            statement = _professional(professional, profession)
            if patient:
                statement = Statement.patient(await dossier_typed(session, patient))
            _out.print(await session.token(statement, scope), soft_wrap=True, highlight=False)

    perform(act())


@app.command()
def submit(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="CDA documents.")],
    professional: As = "",
    profession: Profession = "10",
    dossier: Annotated[str, typer.Option(help="The dossier; by default that of the patient whom each CDA names.")] = "",
    register: Annotated[
        bool, typer.Option(help="Register that patient and open the dossier first, as a first visit would.")
    ] = False,
) -> None:
    """Feed documents, each to the dossier of the patient that it names."""
    from ops.feeding import feed

    async def act() -> int:
        async with platform_session() as session:
            acts = Acts(session, _professional(professional, profession))
            target = await dossier_typed(session, dossier) if dossier else None
            return await feed(acts, files, target, register=register, out=_out, err=errors)

    raise typer.Exit(perform(act()))


@app.command()
def read(
    name: Annotated[str, typer.Argument(help="A document's name, or a dossier to list its documents.")],
    professional: As = "",
    profession: Profession = "10",
    output: Annotated[Path | None, typer.Option(help="Write the content there instead of to standard output.")] = None,
) -> None:
    """Read a document, or list those of a dossier."""

    async def act() -> None:
        async with platform_session() as session:
            acts = Acts(session, _professional(professional, profession))
            if "/documents/" not in name:
                await _list_documents(acts, await dossier_typed(session, name))
                return
            child_of(name, "documents", "name")
            _, content = await acts.read(name)
            if output is not None:
                output.write_bytes(content)
            else:
                sys.stdout.buffer.write(content)

    perform(act())


@app.command()
def openid() -> None:
    """Run the local OpenID provider of the running platform's state, which `dmp run` starts by itself."""
    from ops.openid.server import serve as serve_openid

    perform(serve_openid(State.open()))


@app.command()
def rotate_token_key(
    retire: Annotated[str, typer.Option(help="A kid whose tokens are refused from now on, instead.")] = "",
) -> None:
    """Sign platform tokens with a new key; running gateways take it up within seconds. Old tokens live to their end."""
    from ops.local import keys

    state = State.open()
    if retire:
        try:
            keys.retire_token_key(state, retire)
        except ValueError as error:
            fail(str(error))
    else:
        _out.print(keys.rotate_token_key(state).kid)


@app.command()
def doctor() -> None:
    """Look at the running platform: does each part answer, do keys and certificates live on, is the schema current."""
    from ops.doctor import examine

    state = State.open()
    raise typer.Exit(perform(examine(state, _out)))


app.add_typer(content_commands, name="content")
app.add_typer(partner_commands, name="partner")
app.add_typer(person_commands, name="person")
app.add_typer(directory_commands, name="directory")
app.add_typer(duplicate_commands, name="duplicates")
app.add_typer(key_commands, name="keys")
app.add_typer(audit_commands, name="audit")
app.add_typer(rights_commands, name="rights")
app.add_typer(consent_commands, name="consent")


async def _list_documents(acts: Acts, health_id: int) -> None:
    table = Table("name", "type", "title", "created", "size", title=dossier_name(health_id))
    page = ""
    while True:
        answer = await acts.search(health_id, page)
        for document in answer.documents:
            created = document.create_time.ToDatetime().isoformat(" ", "minutes")
            table.add_row(document.name, document.type_code.code, document.title, created, str(document.size))
        page = answer.next_page_token
        if not page:
            break
    _out.print(table, soft_wrap=True)


def _professional(subject: str, profession: str) -> Statement:
    return Statement.professional(subject, profession) if subject else demo_professional()


def _checked_service(name: str) -> ServiceName:
    known = next((service for service in SERVICES if service == name), None)
    if known is not None:
        return known
    return fail(f"no such service; one of {', '.join(SERVICES)}")


if __name__ == "__main__":
    app()
