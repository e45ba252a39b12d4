"""The tree itself: locks, migrations, contracts, generated code and the size of files. Nothing is started here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from dmp.common.v1 import access_pb2
from ops import protos

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("services", "gateway", "ops", "bench", "tests")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50

# What a lock may consist of: a pin with an optional marker, and hashes. So no index, no address, no path.
LOCK_LINE = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.!+]*( ; [^@:/]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
MIGRATION_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9]+(_[a-z0-9]+)*\.sql")
MARKDOWN_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)[^)]*\)")


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def migration_directories() -> list[Path]:
    return sorted({path.parent for path in ROOT.glob("*/**/migrations/*.sql") if ".venv" not in path.parts})


def pins(lock: str) -> set[str]:
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    return {line.removesuffix(" \\") for line in text.splitlines() if "==" in line}


@cache
def image() -> descriptor_pb2.FileDescriptorSet:
    """The contracts with their comments, as protoc reads them."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(protos.image())
    return files


def methods() -> Iterator[MethodDescriptor]:
    pool = DescriptorPool()
    for file in image().file:
        pool.Add(file)
    for name in protos.contracts():
        for service in pool.FindFileByName(name).services_by_name.values():
            yield from service.methods


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt"])
def test_a_lock_pins_with_hashes_and_names_no_host(lock: str) -> None:
    lines = (ROOT / "requirements" / lock).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not LOCK_LINE.fullmatch(line)] == []


def test_the_lock_for_tests_holds_the_one_to_run_with_the_same_pins() -> None:
    assert pins("run.txt") - pins("dev.txt") == set()


@pytest.mark.parametrize("directory", migration_directories(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_migrations_are_numbered_from_one_and_none_twice(directory: Path) -> None:
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.suffix == ".sql")
    matches = [MIGRATION_NAME.fullmatch(name) for name in names]
    assert [name for name, match in zip(names, matches, strict=True) if match is None] == []
    numbers = [int(match["number"]) for match in matches if match]
    assert numbers[:1] == [1]
    assert len(set(numbers)) == len(numbers)


def test_stubs_are_what_the_contracts_generate() -> None:
    assert protos.stale() == [], "run `make protos`"


def test_every_rpc_states_who_may_call_it() -> None:
    without = [method.full_name for method in methods() if not access_of(method).callers]
    assert without == []


def test_every_rpc_names_its_audit_action() -> None:
    assert [method.full_name for method in methods() if not access_of(method).audit_action] == []


def test_every_mutation_has_a_request_id() -> None:
    mutations = [method for method in methods() if access_of(method).mutation]
    assert [m.full_name for m in mutations if "request_id" not in m.input_type.fields_by_name] == []


def test_the_dossier_field_of_an_rpc_exists() -> None:
    named = [(method, access_of(method).dossier_field) for method in methods() if access_of(method).dossier_field]
    assert [m.full_name for m, path in named if path.split(".")[0] not in m.input_type.fields_by_name] == []


def test_every_error_reason_is_told_with_an_example() -> None:
    file = next(file for file in image().file if file.name == "dmp/common/v1/error_reason.proto")
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    enum = descriptor_pb2.FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
    value = descriptor_pb2.EnumDescriptorProto.VALUE_FIELD_NUMBER
    untold = [
        reason.name
        for index, declared in enumerate(file.enum_type)
        for number, reason in enumerate(declared.value)
        if "Example" not in comments.get((enum, index, value, number), "")
    ]
    assert untold == []


def test_no_file_is_longer_than_a_room() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_page() -> None:
    long = {
        f"{path.relative_to(ROOT).as_posix()}:{function.lineno} {function.name}": length
        for path in sources()
        for function in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := lines_of(function)) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    broken = [
        f"{document.relative_to(ROOT).as_posix()}: {target}"
        for document in documents
        for target in MARKDOWN_LINK.findall(document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []


def access_of(method: MethodDescriptor) -> access_pb2.Access:
    """The access option, read through the generated extension: options of another pool know it as bytes only."""
    options = descriptor_pb2.MethodOptions.FromString(method.GetOptions().SerializeToString())
    return options.Extensions[access_pb2.access]


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total
