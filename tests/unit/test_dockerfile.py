"""The Dockerfile, read as text (`make manifests-check` lints it): no container engine is needed, and none was asked."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from tests.workloads import Rendering, container

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """Each instruction with what follows it, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def given(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def test_the_last_stage_holds_what_the_first_made_and_no_tool_that_made_it() -> None:
    stages = [number for number, (word, _) in enumerate(instructions()) if word == "FROM"]
    assert len(stages) == 2
    last = instructions()[stages[1] :]
    assert [rest for word, rest in last if word == "COPY"] == ["--from=build /opt/dmp /opt/dmp"]
    assert not {"RUN", "ADD"} & {word for word, _ in last}


def test_python_comes_from_an_image_that_a_build_may_replace_and_no_registry_is_named() -> None:
    (default,) = given("ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11-[a-z-]+", default)
    assert {rest.removesuffix(" AS build") for rest in given("FROM")} == {"${PYTHON_IMAGE}"}


def test_dependencies_are_the_locked_ones_by_hash() -> None:
    installs = [rest for rest in given("RUN") if "install" in rest]
    assert "--require-hashes --only-binary=:all: --requirement=requirements/run.txt" in installs[0]
    assert all("--no-index --no-deps" in rest for rest in installs[1:]), "nothing else comes in"


def test_it_runs_as_the_user_of_the_manifests_without_a_shell() -> None:
    pod = Rendering.of("base").pod("consent")["spec"]["securityContext"]
    assert given("USER") == [f"{pod['runAsUser']}:{pod['runAsGroup']}"]
    assert json.loads(given("ENTRYPOINT")[0]) == ["dmp"]
    assert json.loads(given("CMD")[0]) == ["--help"]
    assert "command" not in container(Rendering.of("base").pod("consent"))


def test_it_names_the_ports_of_the_workloads() -> None:
    ports = {port["containerPort"] for port in container(Rendering.of("base").pod("gateway"))["ports"]}
    assert {int(port) for port in given("EXPOSE")[0].split()} == ports


def test_every_package_of_the_distribution_is_copied_and_nothing_else_enters_the_build() -> None:
    copied = {source for rest in given("COPY") if not rest.startswith("--") for source in rest.split()[:-1]}
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[1] == "*", "everything is left out first"
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {package.split("/")[0] for package in packages} <= copied
    assert all((ROOT / source).exists() for source in copied)


def test_what_is_uninstalled_was_locked_under_that_name() -> None:
    lock = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    (uninstall,) = re.findall(r"pip uninstall --yes ([a-z -]+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    brought_by_venv = {"pip", "setuptools"}
    assert [name for name in uninstall.split() if f"\n{name}==" not in lock and name not in brought_by_venv] == []
