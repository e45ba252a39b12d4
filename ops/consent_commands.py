"""`dmp rights` and `dmp consent`: the tables of who may do what, and why somebody may or may not, as an operator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dmp.common.v1 import context_pb2, error_reason_pb2
from dmp.consent.v1 import consent_pb2, rights_pb2
from ops.command import perform, platform_session
from ops.consent_acts import ConsentActs, read_tables, write_tables
from ops.terminal import console
from services.runtime.errors import DmpError
from services.runtime.identifiers import parse_health_id

rights_commands = typer.Typer(no_args_is_help=True, help="Read, compare and replace the tables of who may do what.")
consent_commands = typer.Typer(no_args_is_help=True, help="Say why somebody may enter a dossier, and what changed.")
_out = console()
Directory = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Where the two CSV files are.")]
Dossier = Annotated[str, typer.Argument(help="The dossier: 21 digits.")]


@rights_commands.command()
def export(
    directory: Annotated[Path, typer.Argument(file_okay=False, help="Where to write the two CSV files.")],
    version: Annotated[int, typer.Option(help="Which version; the one in force by default.")] = -1,
) -> None:
    """Write the tables to files, to be changed."""
    answer = _act(lambda acts: acts.rights(version if version >= 0 else None))
    write_tables(answer.tables, directory)
    _out.print(f"version {answer.version.version} written to {directory}")


@rights_commands.command()
def versions() -> None:
    """List the versions, newest first."""
    table = Table("version", "in force since", "by", "why", "SHA-256", box=None)
    for version in _act(lambda acts: acts.versions()):
        since = version.effective_time.ToDatetime().isoformat(" ", "seconds") if version.version else ""
        table.add_row(str(version.version), since, version.replaced_by, version.comment, version.digest.hex()[:16])
    _out.print(table)


@rights_commands.command()
def diff(directory: Directory) -> None:
    """Say which cells, and which decisions, these files would change; change nothing."""
    _show(_act(lambda acts: acts.diff(read_tables(directory))))


@rights_commands.command()
def replace(
    directory: Directory,
    comment: Annotated[str, typer.Option(help="Why; kept with the version.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put these files in force, once the changes have been looked at."""
    tables = read_tables(directory)
    changes = _act(lambda acts: acts.diff(tables))
    _show(changes)
    if not changes.cells or not (yes or typer.confirm(f"{len(changes.decisions)} decisions change. Go on?")):
        raise typer.Exit(1)
    version = _act(lambda acts: acts.replace(tables, changes.base_version, comment))
    _out.print(f"version {version.version} is in force")


@consent_commands.command()
def explain(
    dossier: Dossier,
    professional: Annotated[str, typer.Argument(help="IDNPS of the professional.")],
    profession: Annotated[str, typer.Option(help="Profession code.")] = "10",
    structure: Annotated[str, typer.Option(help="IDNST of the structure where he acts.")] = "",
    mode: Annotated[str, typer.Option(help="normal, regulation or break_glass.")] = "normal",
    action: Annotated[str, typer.Option(help="read, search, submit, mask, …")] = "read",
    french: Annotated[bool, typer.Option("--french", help="As the patient reads it.")] = False,
) -> None:
    """Say rule by rule why a professional may, or may not, do something in a dossier."""
    health_id = _health_id(dossier)
    _known(mode, context_pb2.AccessMode, "ACCESS_MODE_", "--mode")
    _known(action, consent_pb2.Action, "ACTION_", "--action")
    answer = _act(lambda acts: acts.explain(health_id, professional, profession, structure, mode, action))
    table = Table("rule", "outcome", "in words", "source", box=None)
    for rule in answer.rules:
        outcome = consent_pb2.RuleOutcome.Name(rule.outcome).removeprefix("RULE_OUTCOME_").lower()
        table.add_row(rule.rule, outcome, rule.text_fr if french else rule.text_en, rule.source)
    _out.print(table)
    decision = answer.decision
    reason = error_reason_pb2.ErrorReason.Name(decision.reason).removeprefix("ERROR_REASON_")
    _out.print(f"{'yes' if decision.permitted else f'no: {reason}'}, at epoch {decision.epoch}")


@consent_commands.command()
def history(dossier: Dossier) -> None:
    """List the changes of consent of a dossier, newest first."""
    health_id = _health_id(dossier)
    table = Table("epoch", "when", "what", "by", "about", box=None)
    for event in _act(lambda acts: acts.history(health_id)):
        when = event.event_time.ToDatetime().isoformat(" ", "seconds")
        table.add_row(str(event.epoch), when, event.kind, event.actor, event.grantee.id)
    _out.print(table)


def _health_id(dossier: str) -> int:
    try:
        return parse_health_id(dossier.removeprefix("dossiers/"), "dossier")
    except DmpError:
        raise typer.BadParameter("not a dossier: 21 digits, the last two of which are their key") from None


def _known(word: str, values: Any, prefix: str, option: str) -> None:
    """BadParameter unless a word names a value of an enumeration of the contract, other than the unspecified one."""
    names = [name.removeprefix(prefix).lower() for name in values.keys()[1:]]
    if word.lower() not in names:
        raise typer.BadParameter(f"{option}: one of {', '.join(names)}")


def _show(changes: rights_pb2.DiffRightsResponse) -> None:
    cells = Table("table", "cell", "before", "after", title=f"cells, against version {changes.base_version}", box=None)
    for cell in changes.cells:
        cells.add_row(cell.table, cell.cell, cell.before or "-", cell.after or "-")
    decisions = Table("who", "does", "situation", "before", "after", title="decisions", box=None)
    for change in changes.decisions:
        decisions.add_row(change.who, change.action, change.situation, change.before, change.after)
    _out.print(cells)
    _out.print(decisions)


def _act(work: Callable[[ConsentActs], Awaitable[Any]]) -> Any:
    """Do `work` at the running platform; a refusal is one clear line."""

    async def act() -> Any:
        async with platform_session() as opened:
            return await work(ConsentActs(opened))

    return perform(act())
