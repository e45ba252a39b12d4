"""What every `dmp` command does alike: a session of the running platform, a dossier as typed, a refusal in one line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ops.acts import Acts
from ops.demo_platform import demo_professional
from ops.endpoints import NotRunning, published
from ops.local.state import State, StateError
from ops.local.supervisor import ChildFailed
from ops.session import Session, TokenRefused
from services.runtime.errors import DmpError
from services.runtime.identifiers import parse_health_id

Dossier = Annotated[str, typer.Argument(help="The dossier: 21 digits, or an INS of the demo people.")]

errors = Console(stderr=True)


def perform(work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives; a refusal, or a platform that does not run, is one clear line and exit code 1."""
    try:
        return asyncio.run(work)
    except DmpError as error:
        fields = "".join(f"\n  {v.field}: {v.description} ({v.rule})" for v in error.fields)
        fail(f"{error.reason_name}: {error.message}{fields}")
    except (NotRunning, StateError, TokenRefused, ChildFailed) as error:
        fail(str(error))
    except BrokenPipeError:  # whoever reads, `head` say, has seen enough: click ends the command without a word
        raise
    except OSError as error:
        fail(f"cannot reach the platform: {error}")


def fail(message: str) -> NoReturn:
    """One clear line on standard error, and exit code 1."""
    errors.print(message, style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(1)


@contextlib.asynccontextmanager
async def platform_session() -> AsyncIterator[Session]:
    """A session of the platform that runs here. NotRunning where none does."""
    state = State.open()
    async with Session(state, published(state)) as session:
        yield session


async def dossier_typed(session: Session, text: str) -> int:
    """A dossier's health id from 21 digits, its resource name, or an INS of the demo's domain; no such, no command."""
    from ops.feeding import INS_SYSTEMS, resolve_ins

    digits = text.removeprefix("dossiers/")
    if len(digits) == 21:
        return parse_health_id(digits, "dossier")
    found = await resolve_ins(Acts(session, demo_professional()), digits, INS_SYSTEMS)
    if found is None:
        fail("no registered person has this INS")
    return found
