"""From contracts to code: `python -m ops.protos` writes stubs/ and checks protos/.

What lives here: where the imports of the contracts come from, and the calls of protoc and buf. Both work offline, from
the pinned packages alone: google/rpc from googleapis-common-protos, google/protobuf from grpcio-tools, and
buf/validate, which its package carries only as a descriptor. Nothing that runs in a service may import this module:
its tools are in requirements/dev.txt.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import google.rpc
import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "stubs"
BUF_CONFIG = PROTOS / "buf.yaml"
BASELINE = PROTOS / "baseline.binpb"

VALIDATE = "buf/validate/validate.proto"
_PACKAGES = ("dmp", "buf")
_BIN = Path(sys.executable).parent


class ContractError(Exception):
    """protoc or buf refused the contracts, or what is committed is not what they generate."""


def contracts() -> list[str]:
    """The contract files as protoc names them, relative to protos/, sorted."""
    return sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("dmp/**/*.proto"))


def generate(target: Path) -> None:
    """Write messages, typed messages and asyncio gRPC stubs of every contract below `target`.

    `buf.validate` is generated too: the contracts' descriptors depend on it, and protovalidate registers its own copy
    in another runtime only. `google.rpc` is not: its package has the generated code.
    """
    files = contracts()
    target.mkdir(parents=True, exist_ok=True)
    _protoc([*files, VALIDATE], f"--python_out={target}", _plugin("mypy"), f"--mypy_out=quiet:{target}")
    _protoc(
        [name for name in files if _has_service(name)],
        f"--grpc_python_out={target}",
        _plugin("mypy_grpc"),
        f"--mypy_grpc_out=quiet,only_async:{target}",
    )


def install() -> list[str]:
    """Make stubs/ what the contracts generate; files that would not change are not touched. Returns what changed."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        changed = _differences(fresh, STUBS)
        for name in changed:
            source, destination = fresh / name, STUBS / name
            if source.exists():
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, destination)
            else:
                destination.unlink()
    return changed


def stale() -> list[str]:
    """The files of stubs/ that are missing, different from, or no longer among what the contracts generate."""
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        return _differences(Path(directory), STUBS)


def image(*, source_info: bool = True) -> bytes:
    """The contracts and all that they import as one serialised FileDescriptorSet, which buf and grpcurl can read.

    With `source_info` it holds the comments too, and positions for findings.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image.binpb"
        options = ["--include_imports", f"--descriptor_set_out={path}"]
        _protoc(contracts(), *options, *(["--include_source_info"] if source_info else []))
        return path.read_bytes()


def check() -> None:
    """Lint, format, breaking changes against the baseline, fresh stubs; raises ContractError with all findings."""
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        contract = Path(directory) / "contracts.binpb"
        contract.write_bytes(image())
        findings += _buf("lint", str(contract), "--config", str(BUF_CONFIG))
        findings += _buf("format", "--diff", "--exit-code", str(PROTOS))
        if BASELINE.exists():
            findings += _buf("breaking", str(contract), "--against", str(BASELINE), "--config", str(BUF_CONFIG))
    findings += [f"stubs/{name} is not fresh: run `make protos`" for name in stale()]
    if findings:
        raise ContractError("\n".join(findings))


def _validate_descriptor() -> bytes:
    """buf/validate/validate.proto as a FileDescriptorSet; its package has no .proto file, only this."""
    files = descriptor_pb2.FileDescriptorSet()
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return files.SerializeToString()


def _protoc(files: Sequence[str], *options: str) -> None:
    with tempfile.NamedTemporaryFile(suffix=".binpb") as validate:
        validate.write(_validate_descriptor())
        validate.flush()
        well_known = Path(grpc_tools.__path__[0]) / "_proto"
        google_apis = Path(next(iter(google.rpc.__path__))).parent.parent
        includes = [f"-I{directory}" for directory in (PROTOS, well_known, google_apis)]
        arguments = ["protoc", *includes, f"--descriptor_set_in={validate.name}", *options, *files]
        if protoc.main(arguments) != 0:
            raise ContractError("protoc refused the contracts; its findings are above")


def _plugin(name: str) -> str:
    return f"--plugin=protoc-gen-{name}={_BIN / f'protoc-gen-{name}'}"


def _buf(*arguments: str) -> list[str]:
    done = subprocess.run([str(_BIN / "buf"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [(done.stdout + done.stderr).strip()]


def _has_service(name: str) -> bool:
    text = (PROTOS / name).read_text(encoding="utf-8")
    return any(line.startswith("service ") for line in text.splitlines())


def _differences(fresh: Path, committed: Path) -> list[str]:
    expected, present = _generated_files(fresh), _generated_files(committed)
    _, mismatch, missing = filecmp.cmpfiles(fresh, committed, sorted(expected | present), shallow=False)
    return sorted([*mismatch, *missing])


def _generated_files(root: Path) -> set[str]:
    found = (path for package in _PACKAGES for path in (root / package).rglob("*.py*") if path.suffix != ".pyc")
    return {path.relative_to(root).as_posix() for path in found}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 when the contracts or the stubs have a fault."""
    parser = argparse.ArgumentParser(prog="python -m ops.protos", description="Generate and check the contracts.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("generate", help="write stubs/ from protos/ (the default)")
    commands.add_parser("check", help="lint, format, breaking changes, and fresh stubs")
    commands.add_parser("stale", help="only whether stubs/ is fresh")
    commands.add_parser("baseline", help="take the contracts as they are for the published ones")
    written = commands.add_parser("image", help="write contracts and imports as one descriptor set, for grpcurl")
    written.add_argument("path", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        _run(chosen)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(chosen: argparse.Namespace) -> None:
    match chosen.command:
        case "check":
            check()
            print(f"{len(contracts())} contracts: lint, format, compatibility and stubs are right")
        case "stale":
            if names := stale():
                raise ContractError("\n".join(f"stubs/{name} is not fresh: run `make protos`" for name in names))
            print("stubs/ is what protos/ generates")
        case "baseline":
            BASELINE.write_bytes(image(source_info=False))
            print(f"{BASELINE.relative_to(ROOT)} is now the published state of the contracts")
        case "image":
            chosen.path.write_bytes(image())
        case _:
            changed = install()
            print(f"{len(contracts())} contracts, {len(changed)} files of stubs/ written")


if __name__ == "__main__":
    sys.exit(main())
