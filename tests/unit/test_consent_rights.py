"""The rights table as loaded: whole, and refused when it is not understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consent.functional_rights import Function, Right, RightsTableError, load_rights

HEADER = "transaction,action,context,right,evidence\n"
DENIALS = "profession,type_code,access,evidence\n40,X,read_denied,found\n"


def written(directory: Path, rights: str, denials: str = DENIALS) -> Path:
    (directory / "functional_rights.csv").write_text(HEADER + rights)
    (directory / "document_type_denials.csv").write_text(denials)
    return directory


def test_every_published_cell_is_loaded() -> None:
    tables = Path("services/consent/rights")
    published, own = (
        (tables / name).read_text().splitlines()[1:] for name in ("functional_rights.csv", "host_rights.csv")
    )
    assert len(list(load_rights().cells())) == len(published) + len(own)
    assert {line.split(",")[2] for line in own}.isdisjoint(line.split(",")[2] for line in published)


def test_a_cell_that_is_not_listed_is_no() -> None:
    assert load_rights().right(Function("TD3.2", "read_not_masked"), "structure_staff/break_glass") is Right.NO


def test_a_profession_without_a_list_has_the_dentists() -> None:
    rights = load_rights()
    assert rights.denied_types("50") == rights.denied_types("40")
    assert rights.denied_types("10") != rights.denied_types("40")


@pytest.mark.parametrize(
    "rows",
    ["TD1,open,physician/normal,perhaps,found\n", "TD1,open,,yes,found\n", "T,a,c,yes,found\nT,a,c,no,found\n"],
)
def test_a_table_that_is_not_understood_is_refused_with_its_line(tmp_path: Path, rows: str) -> None:
    with pytest.raises(RightsTableError, match=r"functional_rights\.csv:[23]"):
        load_rights(written(tmp_path, rows))


def test_an_unknown_kind_of_denial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RightsTableError, match=r"document_type_denials\.csv:2"):
        load_rights(written(tmp_path, "T,a,c,yes,found\n", DENIALS.replace("read_denied", "maybe")))
