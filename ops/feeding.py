"""Feeding files: which dossier a CDA belongs to, and handing it in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from rich.console import Console

from dmp.common.v1 import coding_pb2
from dmp.identity.v1 import identity_pb2
from ops.acts import Acts
from services.document.cda import CdaError, CdaHeader, read_header
from services.runtime.errors import DmpError

INS_SYSTEMS = tuple(f"1.2.250.1.213.1.4.{last}" for last in (8, 9, 10, 11))
"""NIR, NIA, test and demo domains of the INS."""
_SEX = {"F": identity_pb2.SEX_FEMALE, "M": identity_pb2.SEX_MALE}


async def feed(
    acts: Acts, files: Sequence[Path], target: int | None, *, register: bool, out: Console, err: Console
) -> int:
    """Submit each file; one that is refused is told and the others go on. The exit code: 0 when all were taken."""
    refused = 0
    for file in files:
        try:
            content = file.read_bytes()
            health_id = target or await _dossier_of(acts, content, register=register)
            document = await acts.submit(health_id, content, file.name)
            out.print(f"{file.name}: {document.name}", soft_wrap=True, highlight=False)
        except (DmpError, CdaError) as error:
            refused += 1
            err.print(f"{file.name}: {_told(error)}", style="red", soft_wrap=True, highlight=False, markup=False)
    return 1 if refused else 0


async def resolve_ins(acts: Acts, ins: str, systems: Sequence[str]) -> int | None:
    """The health id behind an INS in the first of `systems` that knows it."""
    for system in systems:
        found = await acts.resolve(coding_pb2.Identifier(system=system, value=ins))
        if found is not None:
            return found
    return None


class NoSuchPatient(CdaError):
    """The document names nobody who is registered."""


async def _dossier_of(acts: Acts, content: bytes, *, register: bool) -> int:
    header = read_header(content)
    for identifier in header.patient.identifiers:
        if identifier.root in INS_SYSTEMS and identifier.extension:
            found = await resolve_ins(acts, identifier.extension, (identifier.root,))
            if found is not None:
                return found
    if not register:
        raise NoSuchPatient("recordTarget", "patient.unknown", "no registered person has this INS (see --register)")
    health_id = await acts.register(_person(header))
    await acts.open(health_id)
    await acts.authorise(health_id)
    return health_id


def _person(header: CdaHeader) -> identity_pb2.Person:
    """The person whom a CDA header describes, as a first registration."""
    patient = header.patient
    born = patient.birth_date.isoformat() if isinstance(patient.birth_date, date) else ""
    first = patient.birth_given or (patient.given[0] if patient.given else "")
    given = " ".join(patient.given)
    if not given.startswith(first):  # some producers list the first given name apart from the others
        given = f"{first} {given}"
    return identity_pb2.Person(
        traits=identity_pb2.Traits(
            birth_name=patient.birth_family or patient.used_family or "",
            birth_given_names=given,
            first_birth_given_name=first,
            sex=_SEX.get(patient.sex, identity_pb2.SEX_UNKNOWN),
            birth_date=born,
            birth_place=patient.birth_place_code or "99999",
            used_name=patient.used_family or "",
            used_given_name=patient.used_given or "",
        ),
        identifiers=[
            coding_pb2.Identifier(system=identifier.root, value=identifier.extension)
            for identifier in patient.identifiers
            if identifier.root in INS_SYSTEMS and identifier.extension
        ],
        status=identity_pb2.IDENTITY_STATUS_VALIDATED,
    )


def _told(error: DmpError | CdaError) -> str:
    if isinstance(error, DmpError):
        fields = "; ".join(f"{v.field}: {v.description}" for v in error.fields)
        return f"{error.reason_name}: {error.message}" + (f" ({fields})" if fields else "")
    return str(error)
