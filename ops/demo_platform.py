"""`dmp run`: the whole platform on this machine with demo dossiers, and what to try on it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dmp.common.v1 import coding_pb2
from dmp.identity.v1 import identity_pb2
from ops.acts import Acts
from ops.demo.cda_document import DocumentKind, cda_document
from ops.demo.directory import DemoProfessional, DemoStructure, professionals, structures
from ops.demo.people import DEMO_SEED, DemoPerson, people
from ops.endpoints import publish
from ops.local.stack import Stack, StoppedWhileStarting
from ops.local.state import PREFERRED_PORTS, State, write_whole
from ops.migrations import migrate
from ops.session import Session, Statement
from services.runtime.identifiers import dossier_name

_AT_ONCE = 8
_DOCUMENTS_EACH = 4
_SEX = {"F": identity_pb2.SEX_FEMALE, "M": identity_pb2.SEX_MALE}
_PHYSICIAN = "10"


@dataclass(frozen=True, slots=True)
class DemoCast:
    """The professionals and structures of the demo; the first professional is a physician and acts by default."""

    professionals: Sequence[DemoProfessional]
    structures: Sequence[DemoStructure]


def demo_cast() -> DemoCast:
    """The same people at each call."""
    cast = sorted(professionals(12, DEMO_SEED), key=lambda each: each.profession_code != _PHYSICIAN)
    return DemoCast(cast, structures(4, DEMO_SEED))


def demo_professional() -> Statement:
    """The demo's physician, in the first structure."""
    cast = demo_cast()
    physician, structure = cast.professionals[0], cast.structures[0]
    return Statement.professional(
        physician.idnps,
        physician.profession_code,
        subject_name=f"{physician.given} {physician.family}",
        specialty=physician.specialty.code,
        structure=structure.idnst,
        structure_name=structure.name,
    )


def person_message(person: DemoPerson) -> identity_pb2.Person:
    """A demo person as a registration."""
    return identity_pb2.Person(
        traits=identity_pb2.Traits(
            birth_name=person.birth_family,
            birth_given_names=" ".join(person.given),
            first_birth_given_name=person.first_given,
            sex=_SEX[person.sex],
            birth_date=person.birth_date.isoformat(),
            birth_place=person.birth_place.code,
            used_name=person.used_family or "",
            used_given_name=person.used_given or "",
        ),
        identifiers=[coding_pb2.Identifier(system=person.nir_oid, value=person.nir)],
        status=identity_pb2.IDENTITY_STATUS_QUALIFIED,
    )


async def run_platform(state: State, demo_people: int) -> None:
    """Start, seed, tell, and serve until a stop signal."""
    out = Console(highlight=False)
    try:
        async with Stack(
            state, migrate=migrate, preferred_ports=PREFERRED_PORTS, openid=True, witness=True, signals=True
        ) as stack:
            endpoints = publish(stack)
            async with Session(state, endpoints) as session:
                if demo_people:
                    await seed_demo(session, demo_people, out)
                await _tell(session, out)
            await stack.wait()
            out.print("Stopping.")
    except StoppedWhileStarting:
        out.print("Stopped.")


async def seed_demo(session: Session, count: int, out: Console) -> None:
    """Register, open, authorise and feed `count` demo dossiers. What is there already stays as it is."""
    cast = demo_cast()
    acts = Acts(session, demo_professional())
    gate = asyncio.Semaphore(_AT_ONCE)
    with Progress(console=out, transient=True) as progress:
        bar = progress.add_task("Loading demo dossiers", total=count)

        async def one(index: int, person: DemoPerson) -> None:
            async with gate:
                await _seed_person(acts, cast, index, person)
            progress.advance(bar)

        async with asyncio.TaskGroup() as group:
            for index, person in enumerate(people(count, DEMO_SEED)):
                group.create_task(one(index, person))


async def _seed_person(acts: Acts, cast: DemoCast, index: int, person: DemoPerson) -> None:
    health_id = await acts.register(person_message(person))
    await acts.open(health_id)
    await acts.authorise(health_id, attending_physician=index % 3 == 0)
    if (await acts.search(health_id)).total_size:
        return
    kinds = list(DocumentKind)
    for number in range(_DOCUMENTS_EACH):
        kind = kinds[(index + number) % len(kinds)]
        author = next(each for each in cast.professionals if each.profession_code == kind.profession_code)
        structure = cast.structures[index % len(cast.structures)]
        await acts.submit(
            health_id, cda_document(person, author, structure, kind, DEMO_SEED + number), f"{kind.name}.xml"
        )


async def _tell(session: Session, out: Console) -> None:
    person = people(1, DEMO_SEED)[0]
    acts = Acts(session, demo_professional())
    health_id = await acts.resolve(coding_pb2.Identifier(system=person.nir_oid, value=person.nir))
    endpoints, state = session.endpoints, session.state
    out.print("\n[bold green]The platform runs.[/] Ctrl-C stops it; its data stays.\n")
    out.print(f"  FHIR and OAuth   {endpoints.http}   (trust {_shown(state.pki / 'ca.pem')})")
    out.print(f"  gRPC relay       {endpoints.relay}")
    out.print(f"  token, 5 min     {await session.token(demo_professional())}\n", soft_wrap=True)
    if health_id is None:
        out.print("No demo dossier is loaded; `dmp seed` loads some.")
        return
    sample = state.root / "sample-prescription.xml"
    cast = demo_cast()
    content = cda_document(person, cast.professionals[0], cast.structures[0], DocumentKind.PRESCRIPTION, DEMO_SEED + 99)
    write_whole(sample, content, mode=0o644)
    query = f"{endpoints.http}/DocumentReference?patient.identifier=urn:oid:{person.nir_oid}|{person.nir}"
    bearer = "Authorization: Bearer $(.venv/bin/dmp token)"
    out.print("Three things to try, in another terminal:\n")
    out.print(f'  curl -s --cacert {_shown(state.pki / "ca.pem")} -H "{bearer}" \\\n    "{query}"\n', soft_wrap=True)
    out.print(f"  .venv/bin/dmp submit {_shown(sample)}\n", soft_wrap=True)
    out.print(f"  .venv/bin/dmp audit trail {dossier_name(health_id).removeprefix('dossiers/')}\n", soft_wrap=True)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
