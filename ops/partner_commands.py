"""`dmp partner`: keeping the registrations of client software, as an operator."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from rich.table import Table

from dmp.gateway.v1 import partner_pb2 as pb
from ops.command import perform, platform_session
from ops.partners import Partners
from ops.terminal import console

commands = typer.Typer(no_args_is_help=True, help="Register, watch and stop the software that may call.")
_out = console()
Client = Annotated[str, typer.Argument(help="The client id.")]


@commands.command()
def register(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The registration, JSON.")],
    replace: Annotated[bool, typer.Option(help="Replace a registration of the same id.")] = False,
) -> None:
    """Register a package: vendor, version, approval, profiles, transactions, keys, quota."""
    _print_state(_act(lambda partners: partners.register(read_partner(file), replace=replace)))


@commands.command()
def show(client_id: Annotated[str, typer.Argument(help="The client id; all when absent.")] = "") -> None:
    """Show one registration, or list all."""
    if client_id:
        _print_state(_act(lambda partners: partners.show(client_id)))
        return
    table = Table("client", "vendor", "package", "approval", "state", box=None)
    for state in _act(lambda partners: partners.all()):
        partner = state.partner
        package = f"{partner.software.name} {partner.software.version}"
        standing = "suspended" if state.suspended else "sandbox" if partner.sandbox else "active"
        table.add_row(partner.client_id, partner.vendor, package, partner.software.approval_number, standing)
    _out.print(table)


@commands.command()
def suspend(
    client_id: Client,
    reason: Annotated[str, typer.Option(help="Why; kept with the registration.")],
) -> None:
    """Stop a client now, and say where that holds already."""
    answer = _act(lambda partners: partners.suspend(client_id, reason))
    _print_effects(answer.effects)
    if not all(effect.acknowledged for effect in answer.effects):
        _out.print(f"elsewhere its tokens end by {_moment(answer.tokens_end)}")


@commands.command()
def resume(client_id: Client) -> None:
    """Let a suspended client call again."""
    _print_effects(_act(lambda partners: partners.resume(client_id)).effects)


@commands.command()
def rotate(
    client_id: Client,
    jwks: Annotated[Path | None, typer.Option(exists=True, help="A JWK set of public keys to add.")] = None,
    retire: Annotated[list[str] | None, typer.Option(help="A kid that no longer counts.")] = None,
) -> None:
    """Add keys, retire keys: first add the new one, then retire the old one."""
    keys = jwks.read_text("utf-8") if jwks else ""
    _print_state(_act(lambda partners: partners.rotate(client_id, keys, retire or [])))


@commands.command()
def usage(
    client_id: Annotated[str, typer.Argument(help="The client id; all when absent.")] = "",
    since: Annotated[str, typer.Option(help="First day, YYYY-MM-DD; 30 days ago by default.")] = "",
) -> None:
    """Count what clients did, by day."""
    first = datetime.fromisoformat(since).replace(tzinfo=UTC) if since else None
    table = Table("day", "client", "operation", "outcome", "count", "mean ms", box=None)
    for row in _act(lambda partners: partners.usage(client_id, first)):
        mean = f"{row.seconds / row.count * 1000:.1f}" if row.count else ""
        table.add_row(row.day, row.client_id, row.transaction, row.outcome, f"{row.count:,}", mean)
    _out.print(table)


def read_partner(file: Path) -> pb.Partner:
    """A registration from a file of protobuf's JSON, in which `jwks` may be an object. typer.BadParameter."""
    try:
        described = json.loads(file.read_bytes())
        if isinstance(described.get("jwks"), dict):
            described["jwks"] = json.dumps(described["jwks"])
        return json_format.ParseDict(described, pb.Partner())
    except (ValueError, AttributeError, json_format.ParseError) as error:
        raise typer.BadParameter(f"{file}: not a registration ({error})") from None


def _act(work: Callable[[Partners], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with platform_session() as session:
            return await work(Partners(session))

    return perform(inside())


def _print_state(state: pb.PartnerState) -> None:
    shown = json_format.MessageToDict(state, preserving_proto_field_name=True)
    shown["partner"]["jwks"] = [key["kid"] for key in json.loads(state.partner.jwks)["keys"]]
    _out.print_json(json.dumps(shown))


def _print_effects(effects: Sequence[pb.DenialEffect]) -> None:
    table = Table("where", "holds", "processes", box=None)
    for effect in effects:
        holds = "now" if effect.acknowledged else "not acknowledged"
        table.add_row(effect.service, holds, f"{effect.answered} of {effect.processes}")
    _out.print(table)


def _moment(stamp: Any) -> str:
    return f"{stamp.ToDatetime().isoformat(' ', 'seconds')} UTC"
